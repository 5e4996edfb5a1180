"""Nearest: against brute force and a planted cluster."""

from __future__ import annotations

import numpy as np
import pytest
from generators import Planted, cats_and_dogs, cut, shard, two_topics, unit

from mixtura.pipeline.contract import Shard
from mixtura.selectors.nearest import SELECTOR, Spec


def scores(planted: Planted, spec: Spec | None = None):
    spec = spec or Spec()
    fitted = SELECTOR.fit(spec, sample=planted.pool, target=planted.target, reference=None, seed=0)
    return SELECTOR.score(spec, fitted, planted.pool)


def test_target_cluster_fills_the_budget():
    planted = two_topics()
    best = np.argsort(-scores(planted)["score"].to_numpy())[:60]
    assert (planted.kind[best] == 1).all()


def test_small_epsilon_is_the_nearest_neighbour():
    rng = np.random.default_rng(0)
    planted = Planted(
        *(shard(vectors=unit(rng.normal(size=(n, 8))), prefix=p) for n, p in ((400, "p"), (30, "t"), (1, "r"))),
        np.zeros(0),
    )
    out = scores(planted, Spec(epsilon=1e-4))
    cost = ((planted.pool.vectors[:, None] - planted.target.vectors[None]) ** 2).sum(-1)
    assert out["nearest_target_id"].to_list() == [f"t{j:05}" for j in cost.argmin(1)]
    # score = -min + eps log(1/30) where one target takes all
    np.testing.assert_allclose(out["distance"].to_numpy(), cost.min(1), atol=2e-4)
    np.testing.assert_allclose(-out["score"].to_numpy(), cost.min(1), atol=1e-3)


def test_copies_of_the_target_come_first():
    planted = two_topics()
    copies = Shard(planted.target.rows.with_columns(id="copy" + planted.target.rows["id"]), planted.target.vectors)
    whole = Shard(planted.pool.rows.vstack(copies.rows), np.vstack([planted.pool.vectors, copies.vectors]))
    out = scores(Planted(whole, planted.target, planted.reference, planted.kind), Spec(epsilon=1e-4))
    assert set(out.sort("score", descending=True)["id"][:20]) == set(copies.rows["id"])


def test_it_cannot_tell_cats_from_dogs():
    """The control of nudge: about as many dogs among the best as in the pool (the method note measured 3%)."""
    planted = cats_and_dogs()
    best = np.argsort(-scores(planted)["score"].to_numpy())[:100]
    assert planted.kind[best].mean() < 0.1


def test_epsilon_is_checked_and_in_units_of_the_median_cost():
    with pytest.raises(ValueError, match="greater than 0"):
        Spec(epsilon=0)
    planted = two_topics()
    fitted = SELECTOR.fit(
        Spec(epsilon=0.5), sample=cut(planted.pool, range(9)), target=planted.target, reference=None, seed=0
    )
    cost = 2 - 2 * planted.pool.vectors[:9] @ planted.target.vectors.T
    assert fitted.facts["epsilon"] == pytest.approx(0.5 * np.median(cost), rel=1e-5)
