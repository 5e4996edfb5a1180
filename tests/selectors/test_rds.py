"""RDS: against brute force over the model's own states, and targets planted in the pool."""

from __future__ import annotations

import numpy as np
import polars as pl
from generators import shard, two_topics
from tiny_lm import tiny_lm

from mixtura.pipeline import lm
from mixtura.selectors.rds import KEPT, SELECTOR, Spec

SPEC = Spec(model=tiny_lm(), device="cpu")


def scores(pool, target):
    fitted = SELECTOR.fit(SPEC, sample=pool, target=target, reference=None, seed=0)
    return SELECTOR.score(SPEC, fitted, pool)


def test_scores_and_neighbours_are_those_of_brute_force():
    planted = two_topics()
    out = scores(planted.pool, planted.target)
    reader = lm.open_model(SPEC)
    x, y = (reader.pooled(s.rows["plain"].to_list())[0].astype(np.float64) for s in (planted.pool, planted.target))
    cosine = x @ y.T
    np.testing.assert_allclose(out["score"].to_numpy(), cosine.max(1), atol=1e-7)
    costs = np.array(out["costs"].to_list())
    np.testing.assert_allclose(costs, np.sort(1 - cosine, axis=1)[:, :KEPT], atol=1e-6)
    targets = np.array(out["targets"].to_list())
    np.testing.assert_allclose(np.take_along_axis(1 - cosine, targets, 1), costs, atol=1e-6)
    assert out["nearest_target_id"].to_list() == planted.target.rows["id"].gather(targets[:, 0]).to_list()
    assert (out.schema["targets"], out.schema["costs"]) == (pl.List(pl.Int32), pl.List(pl.Float32))


def test_copies_of_the_target_come_first():
    planted = two_topics()
    texts = [*planted.pool.rows["plain"], *planted.target.rows["plain"]]
    out = scores(shard(texts), planted.target)
    best = np.argsort(-out["score"].to_numpy(), kind="stable")[:20]
    assert set(best) == set(range(300, 320))
    np.testing.assert_allclose(out["score"].to_numpy()[best], 1, atol=1e-6)


def test_the_last_tokens_weigh_most():
    """Of two rows that share half their words with the target, the one that ends as it does is nearer."""
    target = shard(["salt butter flour oven onion garlic court statute appeal plaintiff tort counsel"])
    begin, end = (
        "salt butter flour oven onion garlic " + "it " * 6,
        "it " * 6 + "court statute appeal plaintiff tort counsel",
    )
    first, last = scores(shard([begin, end]), target)["score"]
    assert last > first


def test_fewer_targets_than_are_kept_and_an_empty_row():
    planted = two_topics()
    out = scores(shard(["salt", ""]), shard(planted.target.rows["plain"].to_list()[:3]))
    assert [len(t) for t in out["targets"]] == [3, 3]
    assert out["costs"].to_list()[1] == [1, 1, 1]
    assert out["tokens_read"].to_list()[1] == 0
