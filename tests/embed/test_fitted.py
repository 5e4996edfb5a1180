"""The fitted encoder against scikit-learn, and shards embedded with it."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from embed.texts import TEXTS, rows_file
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.embed import EmbedJob, embed_shard, fit_encoder, load_encoder, read_vectors
from mixtura.pipeline.embed.fitted import Features, FittedEncoder, choose_features, term_counts
from mixtura.pipeline.embed.words import grams, hash_of
from mixtura.recipe import Embed
from mixtura.store import Store

SPEC = Embed(dimensions=8, features=200)


def test_tf_idf_and_svd_span_what_scikit_learn_finds(tmp_path):
    """Our counts, weights and directions against TfidfVectorizer and numpy's full SVD, through the cosines."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)  # 12 topics of 10 words: the 13th singular value is far below the 12th
    texts = [" ".join(f"t{i % 12}w{j}" for j in rng.integers(0, 10, 60) ** 2 // 10) for i in range(120)]
    spec = Embed(dimensions=12, features=100_000)
    encoder = load_encoder(spec, fit_encoder(spec, texts, seed=0, store=Store(tmp_path), inputs=[]))
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+", min_df=2).fit(texts)
    assert isinstance(encoder, FittedEncoder)
    assert sorted(encoder.vocabulary) == sorted(theirs.get_feature_names_out())
    _, values, v = np.linalg.svd(theirs.transform(texts).toarray(), full_matrices=False)
    assert values[12] < 0.7 * values[11]
    queries = [" ".join(pair) for pair in itertools.pairwise(texts)]
    expected = theirs.transform(queries).toarray() @ v[:12].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    made = encoder.encode(queries)
    np.testing.assert_allclose(made @ made.T, expected @ expected.T, atol=1e-3)  # the randomised SVD's own error


def test_term_counts_are_sublinear():
    words = ["a", "b", "c", "a b"]
    hashes = hash_of(words)
    made = term_counts(grams(["a a a b", "b c", "zzz"]), Features(np.sort(hashes))).toarray()
    by_word = made[:, np.searchsorted(np.sort(hashes), hashes)]
    np.testing.assert_allclose(by_word, [[1 + np.log(3), 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, unique=True), st.lists(st.integers(0, 2**64 - 1)), st.data())
def test_features_are_found_as_a_dictionary_finds_them(hashes, others, data):
    """Neighbours that differ in their last bits share a place of the table."""
    near = [h ^ 1 for h in hashes]
    known = sorted({*hashes, *data.draw(st.lists(st.sampled_from(near)))})
    asked = [*hashes, *others, *near]
    found, column = Features(np.array(known, np.uint64)).find(np.array(asked, np.uint64))
    place = {h: i for i, h in enumerate(known)}
    assert list(zip(found.tolist(), column.tolist(), strict=True)) == [
        (i, place[h]) for i, h in enumerate(asked) if h in place
    ]


def test_the_commonest_grams_become_features():
    texts = ["alpha beta", "alpha gamma", "alpha beta delta"]
    chosen = choose_features(texts, Embed(features=2))
    assert alike(chosen, ["alpha", "beta"]) or alike(chosen, ["alpha", "alpha beta"])  # beta and the pair are in two
    assert alike(choose_features(texts, Embed(features=99)), ["alpha", "beta", "alpha beta"])  # others: one text only
    assert len(choose_features(["one two"], Embed())) == 3  # nothing occurs twice: everything counts


def alike(hashes: np.ndarray, words: list[str]) -> bool:
    return hashes.tolist() == np.sort(hash_of(words)).tolist()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> FittedEncoder:
    store = Store(tmp_path_factory.mktemp("store"))
    encoder = load_encoder(SPEC, fit_encoder(SPEC, TEXTS, seed=3, store=store, inputs=["texts"]))
    assert isinstance(encoder, FittedEncoder)
    return encoder


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(TEXTS) | st.text(max_size=60), min_size=1, max_size=20))
def test_a_fitted_vector_depends_on_its_text_alone(fitted, texts):
    together = fitted.encode(texts)
    assert (together == np.concatenate([fitted.encode([t]) for t in texts])).all()
    norms = np.linalg.norm(together, axis=1)
    assert (np.isclose(norms, 1, atol=1e-6) | (norms == 0)).all()


def test_topics_and_scripts_find_their_own(fitted):
    v = fitted.encode(TEXTS[:7])
    cosines = v @ v.T - 2 * np.eye(7, dtype=np.float32)
    assert cosines[:6].argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    assert abs(v[0] @ v[2]) < 0.05
    assert abs(v[0] @ v[4]) < 0.05
    assert np.linalg.norm(v[6]) == pytest.approx(1)


def test_a_text_without_a_known_word_is_zero(fitted):
    assert not fitted.encode(["", "§§", "unheardof"]).any()


def test_text_beyond_max_chars_is_not_read(tmp_path):
    spec = Embed(dimensions=8, max_chars=10)
    encoder = load_encoder(spec, fit_encoder(spec, TEXTS, seed=0, store=Store(tmp_path), inputs=[]))
    a, b = encoder.encode(["The cat sat on the mat", "The cat sa"])
    assert (a == b).all()


def test_the_same_fit_gives_the_same_bytes_without_pickles(tmp_path):
    made = [fit_encoder(SPEC, TEXTS, seed=3, store=Store(tmp_path / n), inputs=["texts"]) for n in "ab"]
    assert made[0].digest == made[1].digest
    assert made[0].key == made[1].key
    assert sorted(made[0].files) == ["encoder.safetensors", "vocabulary.json"]
    other = fit_encoder(SPEC, TEXTS, seed=4, store=Store(tmp_path / "a"), inputs=["texts"])
    assert other.key != made[0].key
    again = fit_encoder(SPEC, iter(()), seed=3, store=Store(tmp_path / "a"), inputs=["texts"])  # found: nothing is read
    assert again.reused


@pytest.mark.parametrize("texts", [["a"], ["same words"] * 9, ["one", ""], ["x y z", "p q"]])
def test_tiny_samples_fit(tmp_path, texts):
    encoder = load_encoder(SPEC, fit_encoder(SPEC, texts, seed=0, store=Store(tmp_path), inputs=[]))
    v = encoder.encode(texts)
    assert np.isfinite(v).all()
    assert np.linalg.norm(v[0]) == pytest.approx(1)


def test_a_sample_without_words_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"encoder 'fitted' must have rows with words .* got '2 rows"):
        fit_encoder(SPEC, ["", "\u200b \x07"], seed=0, store=Store(tmp_path), inputs=[])
    with pytest.raises(InputError, match="must be fitted"):
        load_encoder(SPEC)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-7), ("f16", 5e-4)])  # f16 keeps 11 bits
def test_a_shard_becomes_vectors_in_its_order(tmp_path, fitted, dtype, tolerance):
    spec = SPEC.model_copy(update={"dtype": dtype})
    rows = rows_file(tmp_path / "rows.parquet", TEXTS)
    job = EmbedJob(rows, "digest", spec, fitted.folder, fitted.digest, str(tmp_path / "store"))
    made = embed_shard(job)
    ids, vectors = read_vectors(made.file("vectors.parquet"))
    assert ids == [f"r{i}" for i in range(len(TEXTS))]
    np.testing.assert_allclose(vectors, fitted.encode(TEXTS), atol=tolerance)
    assert made.facts == {"rows": 20, "dimensions": fitted.dimensions, "zero": 2, "cut": 0}
    assert embed_shard(job).reused
    list_type = pl.read_parquet_schema(made.file("vectors.parquet"))["vector"]
    assert list_type == pl.Array({"f16": pl.Float16, "f32": pl.Float32}[dtype], fitted.dimensions)


def test_an_empty_shard_gives_no_vectors(tmp_path, fitted):
    rows = rows_file(tmp_path / "rows.parquet", [])
    made = embed_shard(EmbedJob(rows, "none", SPEC, fitted.folder, fitted.digest, str(tmp_path)))
    ids, vectors = read_vectors(made.file("vectors.parquet"))
    assert ids == []
    assert vectors.shape == (0, fitted.dimensions)


def test_a_shard_of_many_batches_has_the_same_vectors(tmp_path, fitted, monkeypatch):
    """Batches are written as they come, and a model may be a batch behind its reader."""
    rows = rows_file(tmp_path / "rows.parquet", TEXTS)
    spec = SPEC.model_copy(update={"dtype": "f32"})
    stored = []
    for batch in (7, 4_096):
        monkeypatch.setattr("mixtura.pipeline.embed.BATCH_ROWS", batch)
        made = embed_shard(EmbedJob(rows, "d", spec, fitted.folder, fitted.digest, str(tmp_path / f"{batch}")))
        stored.append((read_vectors(made.file("vectors.parquet")), made.facts))
    (few, few_facts), (all_at_once, facts) = stored
    assert few[0] == all_at_once[0] == [f"r{i}" for i in range(len(TEXTS))]
    assert (few[1] == all_at_once[1]).all()
    assert few_facts == facts


# --- sentence-transformers ---
