"""Search against brute force in exact arithmetic, ties by position, and one answer however it is asked."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.pipeline import index as home
from mixtura.pipeline.index import Index


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute(vectors: np.ndarray, queries: np.ndarray, k: int) -> list[list[int]]:
    """Order by the exact rational inner product, rounded to f32 as the answer is; ties by position."""
    best = []
    for q in queries.tolist():
        exact = [sum(Fraction(a) * Fraction(b) for a, b in zip(q, x, strict=True)) for x in vectors.tolist()]
        score = [float(np.float32(float(e))) for e in exact]
        best.append(sorted(range(len(score)), key=lambda i, s=score: (-s[i], i))[:k])
    return best


@settings(deadline=None)  # the first call imports faiss
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_agrees_with_brute_force_over_rationals(n, d, k, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, n, d)[rng.integers(0, n, n)]  # repeated rows: ties
    queries = np.concatenate([unit(rng, 3, d), vectors[:2], np.zeros((1, d), np.float32)])
    scores, positions = Index(vectors).search(queries, k)
    assert positions.tolist() == brute(vectors, queries, k)
    assert (np.diff(scores, axis=1) <= 0).all()


class LastOfATie:
    """A faiss that is as free as it may be: among equal rough scores it proposes the highest positions."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        rough = queries @ self.vectors.T
        order = np.argsort(rough, axis=1, kind="stable")[:, ::-1][:, :count]
        return np.take_along_axis(rough, order, 1), order


def test_a_tie_wider_than_the_candidates_still_goes_to_the_first(monkeypatch):
    """100 copies, far more than SPARE, whichever of them are proposed."""
    rng = np.random.default_rng(0)
    vectors = unit(rng, 500, 16)
    vectors[200:300] = vectors[7]
    index = Index(vectors)
    assert home.SPARE < 90
    assert index.search(vectors[7:8], 5)[1].tolist() == [[7, 200, 201, 202, 203]]
    monkeypatch.setattr(index, "_faiss", LastOfATie(vectors))
    assert index.search(vectors[7:8], 5)[1].tolist() == [[7, 200, 201, 202, 203]]


def test_a_query_does_not_feel_the_others():
    """faiss takes another path from 20 queries on; the answer must not show it."""
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 3_000, 64), unit(rng, 50, 64)
    index = Index(vectors)
    scores, positions = index.search(queries, 9)
    for i in range(0, 50, 7):
        alone = index.search(queries[i : i + 1], 9)
        assert (alone[0] == scores[i]).all()
        assert (alone[1] == positions[i]).all()


def test_the_vectors_order_decides_nothing_but_ties():
    rng = np.random.default_rng(2)
    vectors, queries = unit(rng, 400, 32), unit(rng, 10, 32)
    order = rng.permutation(400)
    scores, positions = Index(vectors).search(queries, 6)
    moved_scores, moved = Index(vectors[order]).search(queries, 6)
    assert (scores == moved_scores).all()
    assert (order[moved] == positions).all()


def test_saved_and_loaded_it_answers_alike(tmp_path):
    rng = np.random.default_rng(3)
    vectors, queries = unit(rng, 100, 8), unit(rng, 5, 8)
    index = Index(vectors)
    index.save(tmp_path / "index.safetensors")
    loaded = Index.load(tmp_path / "index.safetensors")
    assert len(loaded) == 100
    for a, b in zip(index.search(queries, 4), loaded.search(queries, 4), strict=True):
        assert (a == b).all()


def test_no_vectors_and_no_queries_give_empty_answers():
    empty = Index(np.zeros((0, 4), np.float32))
    scores, positions = empty.search(np.ones((2, 4), np.float32), 3)
    assert scores.shape == positions.shape == (2, 0)
    scores, positions = Index(np.eye(4, dtype=np.float32)).search(np.zeros((0, 4), np.float32), 3)
    assert scores.shape == positions.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Index(np.full((2, 2), np.nan, np.float32)), "finite matrix"),
        (lambda: Index(np.eye(2)).search(np.ones((1, 3)), 1), "2 dimensions; got 3"),
        (lambda: Index(np.eye(2)).search(np.ones((1, 2)), 0), "k must be at least 1; got 0"),
        (lambda: Index(np.eye(2)).search(np.array([[np.inf, 0]]), 1), "finite matrix"),
    ],
    ids=["nan", "width", "k", "infinite"],
)
def test_refuses_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
def test_gpu_and_cpu_give_the_same_answer():
    import faiss

    if not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()):
        pytest.skip("faiss sees no GPU")
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng, 20_000, 128), unit(rng, 300, 128)
    vectors[10_000:] = vectors[:10_000]
    for a, b in zip(*(Index(vectors, device=d).search(queries, 10) for d in ("cpu", "cuda")), strict=True):
        assert (a == b).all()
