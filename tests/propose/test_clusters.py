"""Clusters of requests: planted tasks, scipy's Ward, a silhouette by brute force, and the form of a request."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from mixtura.errors import InputError
from mixtura.pipeline.embed.norm import unit
from mixtura.propose import cluster, form, kmeans, tree

TASKS = (
    "What are the symptoms of {} ?",
    "How many people are affected by {} in {} ?",
    "Translate the sentence about {} into French please",
    "Is {} a hereditary condition or does {} cause it ?",
    "Write a short poem on {} for children",
)


def planted(rows: int, seed: int) -> tuple[list[str], list[int]]:
    """Requests of five tasks about things of three words each; a word recurs, a thing hardly ever."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(60)]
    labels = [rng.randrange(len(TASKS)) for _ in range(rows)]
    return [TASKS[i].format(*(" ".join(rng.choices(words, k=3)) for _ in range(2))) for i in labels], labels


@pytest.fixture(scope="module")
def corpus():
    """Requests, their tasks, and an encoder that is not ours."""
    requests, labels = planted(1_500, 1)
    words = TfidfVectorizer(max_features=400).fit(requests)
    return requests, labels, lambda texts: unit(words.transform(texts).toarray().astype(np.float32))


def test_planted_tasks_are_found_and_counted(corpus):
    requests, labels, encode = corpus
    found = cluster.find(requests, encode, seed=0, most=48)
    assert found.count == len(TASKS)
    assert adjusted_mutual_info_score(labels, found.labels) > 0.99
    assert list(np.bincount(found.labels)) == sorted(np.bincount(found.labels), reverse=True)


def test_the_same_seed_gives_the_same_clusters_and_a_number_is_kept(corpus):
    requests, _, encode = corpus
    first, again = (cluster.find(requests, encode, seed=3, most=48) for _ in range(2))
    assert (first.labels == again.labels).all()
    assert (first.distance == again.distance).all()
    assert cluster.find(requests, encode, seed=3, most=48, number=9).count == 9


def test_too_few_rows(corpus):
    with pytest.raises(InputError, match="at least 7 rows"):
        cluster.find(["a", "b"], corpus[2], seed=0, most=5, number=7)


def test_equal_requests_are_one_cluster_and_nothing_fails():
    found = cluster.find(["the same"] * 40, lambda t: np.ones((len(t), 4), np.float32) / 2, seed=0, most=5)
    assert found.count == 1
    assert found.distance.max() < 1e-6


def test_merges_are_those_of_scipy():
    """Weights 1 each: Ward of points, as scipy has it; the weighted case is one where points lie on each other."""
    points = np.random.default_rng(5).normal(size=(60, 3))
    order = tree.merges(points, np.ones(60))
    for k in (2, 5, 17, 59):
        theirs = fcluster(linkage(points, "ward"), k, "maxclust")
        assert adjusted_rand_score(theirs, tree.cut(order, np.ones(60), k)) == 1.0


def test_weights_stand_for_copies():
    rng = np.random.default_rng(6)
    points, weights = rng.normal(size=(20, 3)), rng.integers(1, 5, 20)
    copies = np.repeat(points, weights, axis=0)
    theirs = fcluster(linkage(copies, "ward"), 6, "maxclust")
    ours = tree.cut(tree.merges(points, weights.astype(float)), weights.astype(float), 6)
    assert adjusted_rand_score(theirs, np.repeat(ours, weights)) == 1.0


def test_a_cut_counts_and_orders_its_clusters():
    sizes = np.array([5.0, 1, 9, 2])
    order = tree.merges(np.array([[0.0], [0.1], [5], [9]]), sizes)
    assert tree.cut(order, sizes, 4).tolist() == [1, 3, 0, 2]
    assert tree.cut(order, sizes, 3).tolist() == [1, 1, 0, 2]
    assert tree.cut(order, sizes, 1).tolist() == [0, 0, 0, 0]


def test_silhouette_by_brute_force():
    rng = np.random.default_rng(7)
    vectors, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    means = [vectors[labels == c].mean(0) for c in range(3)]
    values = []
    for v, own in zip(vectors, labels, strict=True):
        far = [float(np.linalg.norm(v - m)) for m in means]
        a, b = far[own], min(f for c, f in enumerate(far) if c != own)
        values.append((b - a) / max(a, b))
    assert tree.silhouette(vectors, labels, 3) == pytest.approx(np.mean(values), abs=1e-5)


def test_the_smallest_number_close_to_the_best_is_taken():
    assert tree.best([0.2, 0.588, 0.60, 0.55]) == 1  # 0.588 >= 0.97 * 0.60 = 0.582
    assert tree.best([0.2, 0.575, 0.60, 0.55]) == 2
    assert tree.best([-0.3, -0.2, -0.4]) == 1


@given(st.integers(1, 600))
def test_the_ladder_ascends_to_its_end(most: int):
    rungs = tree.ladder(most)
    assert rungs == sorted(set(rungs))
    assert rungs[-1] == most
    assert rungs[0] == min(2, most)


def test_nearest_by_brute_force():
    rng = np.random.default_rng(8)
    vectors, centroids = (rng.normal(size=(n, 5)).astype(np.float32) for n in (200, 9))
    brute = ((vectors[:, None] - centroids[None]) ** 2).sum(2).argmin(1)
    assert (kmeans.nearest(vectors, centroids) == brute).all()


def test_the_form_keeps_what_recurs():
    texts = [f"What are the symptoms of thing{i} in spring{i} ?" for i in range(20)] + ["Nobody else says this at all"]
    forms = form.learn(texts, 500).of(texts)
    assert set(forms[:20]) == {"what are the symptoms of"}
    assert forms[20] == ""


def test_a_run_must_recur_in_enough_rows_and_within_one_row():
    seven = ["one two three"] * 7 + ["filler words stand here"] * 20
    assert form.learn(seven, 500).of(seven)[0] == "", "seven rows are a coincidence"
    eight = ["one two three"] * 8 + ["filler words stand here"] * 20
    assert form.learn(eight, 500).of(eight)[0] == "one two three"
    split = ["one two"] * 30
    assert form.learn(split, 500).of(split)[0] == "", "a run must not cross the border of two rows"


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(0, 29))
def test_a_form_depends_on_its_own_text(texts: list[str], place: int):
    known = form.learn([*texts, *["a b c d"] * 9], 100)
    if texts:
        alone = texts[place % len(texts)]
        assert known.of(texts)[place % len(texts)] == known.of([alone])[0]
