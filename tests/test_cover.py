"""Picks that cover: the mixture that theory asks for, Sinkhorn over whole vectors, and a round-robin by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline import cover
from mixtura.pipeline.pick import pick
from mixtura.pipeline.tables import ragged
from mixtura.pipeline.transport import soft_distances, solve_prices
from mixtura.recipe import Cap, Pick


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def market_and_scores(x, reference, target, epsilon, keep=None):
    """What nudge fits and scores, over whole vectors."""
    price = solve_prices(reference, target, epsilon=epsilon, tolerance=1e-6).price
    found = soft_distances(x, target, price, epsilon=epsilon, keep=keep or len(target))
    weight = np.full(len(target), 1 / len(target))
    arrays = {"reference": reference, "target": target, "price": price, "weight": weight}
    there = found.targets >= 0
    scores = pl.DataFrame(
        {
            "id": [f"{i:04}" for i in range(len(x))],
            "score": -found.soft,
            "source": "s",
            "tokens": np.ones(len(x), np.int64),
            "targets": ragged(found.targets, there),
            "costs": ragged(found.costs, there),
        }
    )
    return cover.Market.of(arrays, {"epsilon": epsilon}), scores


def kinds(rng, *counts):
    """Rows around the axes, `counts[k]` of kind k."""
    points = [np.eye(len(counts), 6)[k] + rng.normal(0, 0.05, (n, 6)) for k, n in enumerate(counts)]
    return unit(np.concatenate(points)), np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(("strength", "second"), [(0.6, 5 / 6), (0.75, 2 / 3), (0.95, 0.5 / 0.95)])
def test_the_picks_fill_what_the_reference_leaves_open(strength, second):
    """Half the target is of a kind that the reference is full of: strength * q + (1 - strength) * r = target."""
    rng = np.random.default_rng(0)
    reference, target = kinds(rng, 300, 0)[0], kinds(rng, 40, 40)[0]
    pool, kind = kinds(rng, 400, 400)
    market, scores = market_and_scores(pool, reference, target, 0.05)
    spec = Pick(rule="cover", budget_rows=200, strength=strength)
    picked = pick(scores, spec, scale="rank", seed=0, market=market)["id"].cast(pl.Int64).to_numpy()
    assert np.mean(kind[picked] == 1) == pytest.approx(second, abs=0.05)
    first = pick(scores, Pick(rule="top", budget_rows=200), scale="rank", seed=0)["id"].cast(pl.Int64).to_numpy()
    assert np.mean(kind[first] == 1) == 1.0  # the first order spends everything on the steepest direction


def test_picks_count_as_mass_at_the_targets_they_serve():
    """Rows that are targets themselves: the reference with the picks added, solved anew over all vectors."""
    rng = np.random.default_rng(1)
    reference, target = (unit(rng.normal(size=(n, 5))) for n in (60, 7))
    market, scores = market_and_scores(target, reference, target, 0.02)
    rows, weight = np.array([0, 0, 3]), np.full(3, 0.4 / 3)
    ours = cover.Prices(market, cover.Served.of(scores))
    ours.settle(rows, weight)
    joined = np.concatenate([reference, target[rows]])
    masses = np.concatenate([np.full(60, 0.6 / 60), weight])
    theirs = solve_prices(joined, target, masses, epsilon=0.02, tolerance=1e-3).price
    assert ours.price == pytest.approx(theirs, abs=0.03)
    assert np.abs(ours.price - market.price).max() > 0.1


def test_mass_beyond_the_kept_targets_still_counts():
    rng = np.random.default_rng(2)
    reference, target, pool = (unit(rng.normal(size=(n, 5))) for n in (60, 30, 50))
    market, scores = market_and_scores(pool, reference, target, 1.0, keep=3)
    prices = cover.Prices(market, cover.Served.of(scores))
    assert -prices.soft_distance() == pytest.approx(scores["score"].to_numpy(), abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), budget=st.integers(1, 40))
def test_cover_keeps_the_laws_of_picking(seed, budget):
    """Within the budget and the caps, no row twice, the same picks whatever the order of the rows."""
    rng = np.random.default_rng(seed)
    reference, target, pool = (unit(rng.normal(size=(n, 4))) for n in (20, 6, 40))
    market, scores = market_and_scores(pool, reference, target, 0.2)
    source = pl.Series(rng.choice(["a", "b"], 40))
    scores = scores.with_columns(tokens=pl.Series(rng.integers(1, 9, 40)), source=source)
    spec = Pick(rule="cover", budget_tokens=max(budget, 10), caps={"a": Cap(rows=3)})
    shuffled = scores[rng.permutation(40).tolist()]
    if spec.budget_tokens > scores["tokens"].sum():
        return
    picked, again = (pick(s, spec, scale="rank", seed=0, market=market) for s in (scores, shuffled))
    assert picked.equals(again)
    chosen = scores.join(picked, on="id", how="semi")
    assert picked["id"].n_unique() == picked.height == chosen.height
    assert chosen["tokens"].sum() <= spec.budget_tokens
    assert (chosen["source"] == "a").sum() <= 3
    assert picked["rank"].to_list() == list(range(picked.height))


def test_no_slices_worth_of_prices_is_rule_top():
    """At a strength near nothing the picks move no price."""
    rng = np.random.default_rng(3)
    reference, target, pool = (unit(rng.normal(size=(n, 5))) for n in (60, 7, 200))
    market, scores = market_and_scores(pool, reference, target, 0.2)
    spec = Pick(rule="cover", budget_rows=50, strength=1e-6)
    covered = pick(scores, spec, scale="rank", seed=0, market=market)
    first = pick(scores, Pick(rule="top", budget_rows=50), scale="rank", seed=0)
    assert len(set(covered["id"]) & set(first["id"])) >= 48  # prices are solved to 1e-2 of the mass


def test_round_robin_by_hand():
    scores = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d", "e"],
            "score": [0.9, 0.8, 0.7, 0.6, 0.5],
            "source": "s",
            "tokens": [1] * 5,
            "targets": [[0], [0, 1], [0], [2], []],
            "costs": [[0.1], [0.2, 0.3], [0.3], [0.4], []],
        },
        schema_overrides={"targets": pl.List(pl.Int32), "costs": pl.List(pl.Float32)},
    )
    # target 0 takes a, 1 takes b, 2 takes d; then 0 finds b taken and takes c; e serves nobody
    picked = pick(scores, Pick(rule="round_robin", budget_rows=5), scale="rank", seed=0)
    assert picked["id"].to_list() == ["a", "b", "d", "c", "e"]


def test_cover_without_prices_is_one_sentence():
    scores = pl.DataFrame(
        {"id": ["a"], "score": [0.1], "source": "s", "tokens": [1], "targets": [[0]], "costs": [[0.1]]}
    )
    with pytest.raises(InputError, match="needs a selector that prices its targets"):
        pick(scores, Pick(rule="cover", budget_rows=1), scale="rank", seed=0)


def test_a_penalty_moves_rows_whatever_the_prices():
    """Two kinds served alike; the penalty of one is large: the other is taken whole before any of it."""
    rng = np.random.default_rng(1)
    reference, target = kinds(rng, 100, 100)[0], kinds(rng, 30, 30)[0]
    pool, kind = kinds(rng, 100, 100)
    market, scores = market_and_scores(pool, reference, target, 0.05)
    penalty = np.where(kind == 1, 50.0, 0.0)
    scores = scores.with_columns(score=pl.col("score") - pl.Series(penalty), penalty=pl.Series(penalty))
    picked = pick(scores, Pick(rule="cover", budget_rows=120), scale="rank", seed=0, market=market)["id"]
    chosen = kind[picked.cast(pl.Int64).to_numpy()]
    assert (chosen[:100] == 0).all()
    assert (chosen[100:] == 1).all()
