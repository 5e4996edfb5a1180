"""Uniform: simple random sampling, by frequencies."""

from __future__ import annotations

import numpy as np
import polars as pl
from generators import cut, shard
from scipy import stats

from mixtura.pipeline.pick import pick
from mixtura.recipe import Pick
from mixtura.selectors.uniform import SELECTOR, Spec


def scores(rows, seed):
    fitted = SELECTOR.fit(Spec(), sample=rows, target=None, reference=None, seed=seed)
    return SELECTOR.score(Spec(), fitted, rows)


def test_draws_are_uniform_and_seeds_independent():
    rows = shard(["x"] * 20_000)
    first, second = (scores(rows, seed)["draw"].to_numpy() for seed in (0, 1))
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))  # 4 standard errors of no correlation
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(len(first))


def test_every_row_is_picked_as_often_under_every_rule():
    """2 of 5 rows, 400 seeds: each row in 2/5 of the picks, within 4 standard errors."""
    rows = shard(["x"] * 5)
    for spec in (Pick(budget_rows=2), Pick(rule="gumbel", budget_rows=2)):
        seen = np.zeros(5)
        for seed in range(400):
            table = rows.rows.select("id", "source", "tokens").join(scores(rows, seed), on="id")
            chosen = pick(table, spec, scale=SELECTOR.scale, seed=seed)["id"]
            seen += rows.rows["id"].is_in(chosen.to_list()).to_numpy()
        assert (np.abs(seen / 400 - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 400)).all()


def test_a_growing_pool_keeps_its_draws():
    rows = shard(["x"] * 100)
    whole = scores(rows, 3)
    assert whole[:40].equals(scores(cut(rows, np.arange(40)), 3))
    assert whole.select(pl.col("draw").log().alias("score"))["score"].to_list() == whole["score"].to_list()
