"""DSIR: against the authors' package (`data-selection`), NLTK's tokenizer, and weights worked out by hand."""

from __future__ import annotations

import json

import data_selection.hashed_ngram_dsir as authors
import numpy as np
import polars as pl
import pytest
from generators import shard, two_topics
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import WordPunctTokenizer

from mixtura.errors import InputError
from mixtura.pipeline.hashing import CHUNK
from mixtura.pipeline.ngrams import NAT, bucket_counts, ngrams
from mixtura.selectors.dsir import SELECTOR, Spec

ASCII = st.text(st.characters(max_codepoint=127), max_size=60)


def words_of(texts: list[str]) -> list[list[str]]:
    found = []
    for n in ngrams(pl.Series(texts, dtype=pl.String), 100):
        raw = n.text.tobytes()
        for a, b in zip(n.row_words[:-1], n.row_words[1:], strict=True):
            found.append([raw[s:e].decode() for s, e in zip(n.starts[a:b], n.ends[a:b], strict=True)])
    return found


@settings(deadline=None)
@given(st.lists(ASCII, min_size=1, max_size=8))
def test_words_are_those_of_nltk(texts):
    want = [WordPunctTokenizer().tokenize(t.lower()) for t in texts]
    assert words_of(texts) == want


def test_words_beyond_ascii():
    """Letters of any script join; other white space parts; other marks are one mark; Han and kana stand alone."""
    texts = ["Čeština je KRÁSNÁ", "a\u00a0b\u3000c", "„ano“ – ne", "数据 selection", "हिन्दी", "naïve,café"]
    assert words_of(texts) == [
        ["čeština", "je", "krásná"],
        ["a", "b", "c"],
        ["\x01", "ano", "\x01", "\x01", "ne"],
        ["数", "据", "selection"],
        ["हिन्दी"],
        ["naïve", ",", "café"],
    ]


def ours(text: str, num_buckets: int) -> int:
    """Our bucket of one n-gram, as a stand-in for the authors' SHA-256: words and pairs are hashed as in a text."""
    (n,) = ngrams(pl.Series([text]), num_buckets)
    return int(n.word[0]) if len(n.word) == 1 else int(n.pair[0])


@settings(deadline=None, max_examples=40)
@given(ASCII)
def test_counts_are_the_authors(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authors, "hash_buckets", lambda text, num_buckets: ours(text, num_buckets))
        want = authors.get_ngram_counts(text, num_buckets=500)
    np.testing.assert_array_equal(bucket_counts(pl.Series([text]), 500), want)


def test_weights_are_the_authors(tmp_path, monkeypatch):
    """Their package over files, with our hash. It adds 1e-8 to a probability, we add a count: ours is set to match.

    Both sides have T n-grams each, so 1e-8 on c / T is a pseudo-count of 1e-8 T, up to the normaliser, which
    differs by 1e-8 * buckets and cancels between target and pool.
    """
    planted = two_topics(pool_rows=40, wanted_rows=10)
    texts = {"raw": planted.pool.rows["plain"].to_list()[:20], "target": planted.target.rows["plain"].to_list()}
    for name, lines in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    monkeypatch.setattr(authors, "hash_buckets", lambda text, num_buckets: ours(text, num_buckets))
    package = authors.HashedNgramDSIR(
        [str(tmp_path / "raw.jsonl")], [str(tmp_path / "target.jsonl")], str(tmp_path), num_proc=1, num_buckets=300
    )
    package.fit_importance_estimator(num_tokens_to_fit="all")
    want = [package.importance_estimator(package.featurizer(t)) for t in texts["raw"]]

    total = bucket_counts(pl.Series(texts["raw"]), 300).sum()
    assert total == bucket_counts(pl.Series(texts["target"]), 300).sum() == 20 * 43  # 22 words and 21 pairs a row
    spec = Spec(buckets=300, pseudo_count=1e-8 * total, length_normalise=False)
    rows, target = shard(texts["raw"]), shard(texts["target"])
    fitted = SELECTOR.fit(spec, sample=rows, target=target, reference=None, seed=0)
    out = SELECTOR.score(spec, fitted, rows)
    np.testing.assert_allclose(out["score"].to_numpy(), want, rtol=1e-6)
    assert out["ngrams"].to_list() == [43] * 20
    mean = SELECTOR.score(spec.model_copy(update={"length_normalise": True}), fitted, rows)["score"]
    np.testing.assert_allclose(mean.to_numpy(), np.array(want) / 43, rtol=1e-6)


def test_log_weight_by_hand():
    """Pool `a b`, target `a a`: n-grams a, b, ab against a, a, aa; pseudo-count 1 in each of B buckets.

    log ratio of a: log(3/2); of b: log(1/2); of ab: log(1/2); of aa: log(2/1); the normalisers are equal.
    """
    spec = Spec(buckets=1 << 20, length_normalise=False)  # no two of four n-grams share a bucket
    fitted = SELECTOR.fit(spec, sample=shard(["a b"]), target=shard(["A  a"]), reference=None, seed=0)
    out = SELECTOR.score(spec, fitted, shard(["a b", "a a a", "b", "c", ""]))
    want = np.log([3 / 2 / 4, (3 / 2) ** 3 * 2**2, 1 / 2, 1, 1])
    np.testing.assert_allclose(out["score"].to_numpy(), want, atol=5 / NAT)
    assert out["most_like_target"].to_list() == ["a", "a a", "b", "c", None]
    assert out["least_like_target"].to_list() == ["a b", "a", "b", "c", None]  # the first of equals
    assert out["ngrams"].to_list() == [3, 5, 1, 1, 0]


def test_identical_pool_and_target_weigh_nothing():
    planted = two_topics()
    fitted = SELECTOR.fit(Spec(), sample=planted.pool, target=planted.pool, reference=None, seed=0)
    assert SELECTOR.score(Spec(), fitted, planted.pool)["log_weight"].to_list() == [0.0] * len(planted.pool)
    assert fitted.facts["kl_target_from_pool"] == 0


def test_target_topic_fills_the_budget_and_an_empty_row_comes_last():
    planted = two_topics()
    fitted = SELECTOR.fit(Spec(), sample=planted.pool, target=planted.target, reference=None, seed=0)
    score = SELECTOR.score(Spec(), fitted, planted.pool)["score"].to_numpy()
    assert (planted.kind[np.argsort(-score)[:60]] == 1).all()
    empty = SELECTOR.score(Spec(), fitted, shard(["", " "]))["score"]
    assert empty.max() < score.min()


def test_a_long_text_is_the_sum_of_its_sentences():
    """A row larger than a chunk of hashing weighs as its parts do, pairs across the seams aside; exact in integers."""
    planted = two_topics()
    spec = Spec(length_normalise=False)
    fitted = SELECTOR.fit(spec, sample=planted.pool, target=planted.target, reference=None, seed=0)
    one = "salt court the , "
    times = 2 * CHUNK // len(one)
    single, double, many = SELECTOR.score(spec, fitted, shard([one, one * 2, one * times]))["log_weight"]
    assert many == single + (times - 1) * (double - single)


def test_a_target_without_words_is_refused():
    with pytest.raises(InputError, match="selector 'dsir' needs a target with at least one word"):
        SELECTOR.fit(Spec(), sample=shard(["a"]), target=shard(["  "]), reference=None, seed=0)


def test_hashes_spread_evenly():
    """10,000 numbers in 100 buckets: chi squared with 99 degrees of freedom, 4 standard deviations of slack."""
    counts = bucket_counts(pl.Series([str(i) for i in range(10_000)]), 100)
    assert ((counts - 100) ** 2 / 100).sum() < 99 + 4 * np.sqrt(2 * 99)
