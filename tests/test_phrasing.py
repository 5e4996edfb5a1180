"""What is believed of a text's wording: planted variances, texts that are short and lucky, texts without a word."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.pipeline.phrasing import Phrasing, doubt_of
from mixtura.pipeline.transport import soft_distances


@pytest.mark.parametrize(("spread", "noise"), [(0.2, 1.0), (0.3, 0.5), (0.5, 3.0)])
def test_planted_variances_are_found(spread: float, noise: float):
    rng = np.random.default_rng(0)
    count = np.exp(rng.uniform(np.log(5), np.log(500), 50_000)).astype(int)
    deviation = rng.normal(size=len(count)) * np.sqrt(spread**2 + noise**2 / count)
    assert doubt_of(deviation, count) == pytest.approx((noise / spread) ** 2, rel=0.1)


DEVIATIONS = st.integers(-9000, 9000).map(lambda n: n / 1000)


@given(st.lists(st.tuples(DEVIATIONS, st.integers(0, 400)), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_the_doubt_is_bounded_and_of_no_unit_or_order(rows: list[tuple[float, int]], unit: float):
    deviation, count = (np.array(x) for x in zip(*rows, strict=True))
    if not count.any():
        return
    doubt = doubt_of(deviation, count)
    assert 0 <= doubt <= np.median(count[count > 0])
    assert doubt_of(unit * deviation, count) == pytest.approx(doubt, rel=1e-5, abs=1e-5)
    assert doubt_of(deviation[::-1], count[::-1]) == pytest.approx(doubt, rel=1e-5, abs=1e-5)


def test_lengths_that_do_not_differ_tell_nothing():
    rng = np.random.default_rng(1)
    assert doubt_of(rng.normal(size=100), np.full(100, 40)) == 0


def lucky(seed: int) -> tuple[pl.Series, np.ndarray, pl.Series]:
    """Words of the target are 30 % of all words of every text, 45 % of one long text in ten: pool, which, target."""
    rng = np.random.default_rng(seed)
    words = np.where(np.arange(1000) % 2, 8, 160)
    like = np.arange(1000) % 20 == 0

    def text(length: int, share: float) -> str:
        ours = rng.random(length) < share
        return " ".join(
            f"{'ours' if o else 'other'}{i}" for o, i in zip(ours, rng.integers(0, 20, length), strict=True)
        )

    pool = pl.Series([text(n, 0.45 if k else 0.3) for n, k in zip(words, like, strict=True)])
    return pool, like, pl.Series([text(160, 0.6) for _ in range(40)])


def test_short_texts_that_are_lucky_do_not_come_first():
    pool, like, target = lucky(2)
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (1000, 1))
    served = soft_distances(vectors, vectors[:40], np.zeros(40, np.float32), epsilon=0.1, keep=8)
    served.soft[:] = np.random.default_rng(0).normal(size=1000)  # of no account here: it only gives the scale
    known = Phrasing.fit(target=target, vectors=vectors[:40], width=1.0, pool=pool, served=served)
    assert known is not None
    raw, count = known._found(pool, served)
    best = np.argsort(-raw)[: like.sum()]
    believed = np.argsort(known.cost(known.beyond(pool, served)))[: like.sum()]
    assert like[best].mean() < 0.3, "by their mean alone, short ones that happened to have the words come first"
    assert like[believed].mean() > 0.9
    longest = count == count.max()
    share = count[longest] / (count[longest] + known.doubt)
    expected = known.mean + share * (raw[longest] - known.mean)
    np.testing.assert_allclose(known.beyond(pool, served)[longest], expected)


def test_a_text_without_a_word_costs_nothing():
    pool, _, target = lucky(3)
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (1000, 1))
    served = soft_distances(vectors, vectors[:40], np.zeros(40, np.float32), epsilon=0.1, keep=8)
    served.soft[:] = np.random.default_rng(0).normal(size=1000)
    known = Phrasing.fit(target=target, vectors=vectors[:40], width=1.0, pool=pool, served=served)
    assert known is not None
    empty = pl.Series(["", None, *pool[2:].to_list()])
    cost = known.cost(known.beyond(empty, served))
    assert cost[:2].tolist() == [0, 0]
    assert np.count_nonzero(cost[2:]) == 998
