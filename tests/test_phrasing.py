"""What a text's wording says beside its vector: texts without a word, a pool that tells nothing, units."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mixtura.pipeline.ngrams import log_weights
from mixtura.pipeline.phrasing import Phrasing
from mixtura.pipeline.transport import SoftDistances, soft_distances

ROWS = 1000


def worded(share: float, rng: np.random.Generator, length: int = 40) -> str:
    """A text of which that share of the words is the target's."""
    ours = rng.random(length) < share
    return " ".join(f"{'ours' if o else 'other'}{i}" for o, i in zip(ours, rng.integers(0, 20, length), strict=True))


def alike(spread: float) -> tuple[SoftDistances, np.ndarray]:
    """Soft distances of some spread, and the vectors of the target: all rows in one place."""
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (ROWS, 1))
    served = soft_distances(vectors, vectors[:40], np.zeros(40, np.float32), epsilon=0.1, keep=8)
    served.soft[:] = spread * np.random.default_rng(0).normal(size=ROWS)  # it only gives the scale
    return served, vectors[:40]


@pytest.fixture(scope="module")
def known() -> tuple[Phrasing, pl.Series, SoftDistances]:
    """A pool of which a tenth is worded like the target."""
    rng = np.random.default_rng(3)
    pool = pl.Series([worded(0.5 if i % 10 == 0 else 0.2, rng) for i in range(ROWS)])
    target = pl.Series([worded(0.6, rng) for _ in range(40)])
    served, vectors = alike(0.7)
    fitted = Phrasing.fit(target=target, vectors=vectors, width=1.0, pool=pool, served=served)
    assert fitted is not None
    return fitted, pool, served


def test_rows_worded_like_the_target_cost_least_and_the_spread_is_that_of_the_distances(known):
    fitted, pool, served = known
    cost = fitted.cost(fitted.beyond(pool, served))
    assert set(np.argsort(cost)[: ROWS // 20] % 10) == {0}
    assert cost.mean() == pytest.approx(0, abs=1e-12)
    assert cost.std() == pytest.approx(served.soft.std())


def test_a_text_counts_whole_at_any_length(known):
    """Of one word over and over: the mean of its weight and its pair's, by hand, less that of the part it serves."""
    fitted, _, served = known
    lengths = (4, 40, 400)
    texts = [" ".join(["ours1"] * n) for n in lengths] + [" ".join(["other1"] * n) for n in lengths]
    found = fitted.beyond(pl.Series(texts * (ROWS // 6) + texts[: ROWS % 6]), served)[:6]
    ratio = {w: log_weights(pl.Series([w]), fitted.ratio)[0][0] for w in ("ours1", "other1")}
    pairs = {w: log_weights(pl.Series([f"{w} {w}"]), fitted.ratio)[0][0] - 2 * r for w, r in ratio.items()}
    for i, (word, n) in enumerate((w, n) for w in ratio for n in lengths):
        mean = (n * ratio[word] + (n - 1) * pairs[word]) / (2 * n - 1)
        assert found[i] == pytest.approx(mean - fitted.target[0], abs=1e-6)


def test_a_text_without_a_word_costs_nothing(known):
    fitted, pool, served = known
    cost = fitted.cost(fitted.beyond(pl.Series(["", None, *pool[2:].to_list()]), served))
    assert cost[:2].tolist() == [0, 0]
    assert np.count_nonzero(cost[2:]) == ROWS - 2


def test_wordless_rows_in_the_sample_change_nothing_for_the_others(known):
    _, pool, served = known
    rng = np.random.default_rng(3)
    target = pl.Series([worded(0.6, rng) for _ in range(40)])
    without = pl.Series([None if i < 100 else t for i, t in enumerate(pool)])
    _, vectors = alike(0.7)
    found = Phrasing.fit(target=target, vectors=vectors, width=1.0, pool=without, served=served)
    assert found is not None
    beyond = found.beyond(without, served)
    assert found.mean == pytest.approx(beyond[100:].mean())
    assert found.cost(beyond)[100:].std() == pytest.approx(served.soft.std())


@pytest.mark.parametrize(("pool", "target"), [("same words", "ours1 ours2"), (None, "ours1"), ("other1 ours1", None)])
def test_texts_that_tell_nothing_give_no_phrasing(pool: str | None, target: str | None):
    served, vectors = alike(0.7)
    pools, targets = (pl.Series([t] * n, dtype=pl.String) for t, n in ((pool, ROWS), (target, 40)))
    assert Phrasing.fit(target=targets, vectors=vectors, width=1.0, pool=pools, served=served) is None
