"""Nudge: the paper's toy, a held-out transport cost, and the laws of its prices."""

from __future__ import annotations

import numpy as np
import ot
import polars as pl
import pytest
from generators import Planted, around, cats_and_dogs, cut, shard, unit

from mixtura.errors import InputError
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.transport import median_cost
from mixtura.selectors.dsir import SELECTOR as DSIR
from mixtura.selectors.nearest import SELECTOR as NEAREST
from mixtura.selectors.nudge import SELECTOR, Spec

VECTORS_ALONE = Spec(phrasing=0)  # the paper's score


def fit(planted: Planted, spec: Spec | None = None, reference: Shard | None = None) -> Fitted:
    return SELECTOR.fit(spec or Spec(), sample=planted.pool, target=planted.target, reference=reference, seed=0)


def best(scores, n: int) -> np.ndarray:
    return np.argsort(-scores["score"].to_numpy(), kind="stable")[:n]


def test_dogs_are_picked_where_the_pool_is_full_of_cats():
    """Paper, figure 3: pool 99% cats, target half dogs. The note measured 100% dogs, 3% without prices."""
    planted = cats_and_dogs()
    for reference in (planted.reference, None):  # known training data, or the pool's sample in its stead
        fitted = fit(planted, Spec(solve_rows=2000), reference)
        out = SELECTOR.score(Spec(), fitted, planted.pool)
        assert planted.kind[best(out, 100)].mean() >= 0.99
        unpriced = np.argsort(-out["score_without_prices"].to_numpy())[:100]
        assert planted.kind[unpriced].mean() <= 0.1
        assert fitted.facts["reference"] == ("reference" if reference else "the pool's sample")
        assert fitted.facts["reference_rows"] == 2000


def test_prices_tell_dogs_from_cats_among_the_targets():
    planted = cats_and_dogs()
    fitted = fit(planted, reference=planted.reference)
    dog = planted.pool.vectors[planted.kind == 1].mean(0)
    is_dog = planted.target.vectors @ dog > planted.target.vectors @ planted.pool.vectors.mean(0)
    price = fitted.arrays["price"]
    assert is_dog.sum() == 100
    assert price[is_dog].min() > price[~is_dog].max()
    named = [t["id"] for t in fitted.facts["best_paid_targets"]]
    assert named == [f"target{j:05}" for j in np.argsort(-price)[:5]]


def test_without_prices_it_is_nearest():
    planted = cats_and_dogs(pool_rows=3000)
    fitted = fit(planted, VECTORS_ALONE)
    out = SELECTOR.score(VECTORS_ALONE, fitted, planted.pool)
    plain = NEAREST.fit(NEAREST.Spec(), sample=planted.pool, target=planted.target, reference=None, seed=0)
    want = NEAREST.score(NEAREST.Spec(), plain, planted.pool)
    np.testing.assert_allclose(out["score_without_prices"].to_numpy(), want["score"].to_numpy(), atol=1e-6)  # f32
    free = Fitted(fitted.arrays | {"price": np.zeros(200)}, fitted.facts)
    assert SELECTOR.score(VECTORS_ALONE, free, planted.pool)["score"].to_list() == want["score"].to_list()


def held_out_cost(reference: np.ndarray, picks: np.ndarray, held_out: np.ndarray, weight: float = 0.3) -> float:
    """OT_eps, by POT, from the reference with the picks mixed in at this weight to unseen target rows."""
    x = np.vstack([reference, picks])
    a = np.r_[np.full(len(reference), (1 - weight) / len(reference)), np.full(len(picks), weight / len(picks))]
    b = np.full(len(held_out), 1 / len(held_out))
    cost = 2 - 2 * x.astype(np.float64) @ held_out.astype(np.float64).T
    plan = ot.sinkhorn(a, b, cost, 0.05, stopThr=1e-4, numItermax=1000)
    return float((plan * cost).sum() + 0.05 * (plan * np.log(plan / np.outer(a, b) + 1e-300)).sum())


def clusters(seed: int, d: int = 64) -> tuple[Planted, np.ndarray]:
    """20 clusters, 10 in the target, 5 of these rare in pool and reference; and held-out target rows."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(20, d)))
    share = np.r_[np.full(5, 0.004), np.full(15, (1 - 0.02) / 15)]

    def draw(n: int, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.choice(20, n, p=p)
        return unit(centres[kind] + rng.normal(size=(n, d)) * 0.7 / np.sqrt(d)), kind

    wanted = np.r_[np.full(10, 0.1), np.zeros(10)]
    pool, kind = draw(6000, share)
    parts = (pool, draw(200, wanted)[0], draw(1000, share)[0])
    shards = [shard(vectors=v, prefix=p) for v, p in zip(parts, ("pool", "target", "ref"), strict=True)]
    return Planted(*shards, kind), draw(150, wanted)[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_picks_bring_the_reference_nearer_to_unseen_target_rows(seed):
    """Better than nearest neighbours, and these better than chance, at an eps where prices act.

    At the default of 0.1 nearest neighbours do as well on this problem.
    """
    planted, held_out = clusters(seed)
    spec = Spec(epsilon=0.03)
    out = SELECTOR.score(spec, fit(planted, spec, reference=planted.reference), planted.pool)
    ranked = {
        "nudge": best(out, 60),
        "nearest": np.argsort(-out["score_without_prices"].to_numpy())[:60],
        "random": np.random.default_rng(seed).choice(len(planted.pool), 60, replace=False),
    }
    cost = {k: held_out_cost(planted.reference.vectors, planted.pool.vectors[v], held_out) for k, v in ranked.items()}
    assert cost["nudge"] < cost["nearest"] < cost["random"]


def test_a_sample_of_the_reference_picks_nearly_the_same_rows():
    """Method note, section 8: a solve on 10 rows per target row keeps 0.87 of the top or more."""
    planted, _ = clusters(2)
    whole = SELECTOR.score(Spec(), fit(planted), planted.pool)
    part = SELECTOR.score(Spec(), fit(planted, Spec(solve_rows=2000)), planted.pool)
    assert len(set(best(whole, 120)) & set(best(part, 120))) / 120 >= 0.85


def test_a_shuffled_pool_gives_the_same_rows():
    planted = cats_and_dogs(pool_rows=2000)
    fitted = fit(planted)
    order = np.random.default_rng(0).permutation(2000)
    whole, other = (SELECTOR.score(Spec(), fitted, p) for p in (planted.pool, cut(planted.pool, order)))
    assert whole["id"].gather(best(whole, 20)).to_list() == other["id"].gather(best(other, 20)).to_list()


def test_why_columns_add_up():
    """-score <= distance - price - eps log(b share): equality, since share is that target's part of the sum."""
    planted = cats_and_dogs(pool_rows=1000)
    fitted = fit(planted, VECTORS_ALONE)
    out = SELECTOR.score(VECTORS_ALONE, fitted, planted.pool)
    eps = fitted.facts["epsilon"]
    b, share = 1 / len(planted.target), out["share"].to_numpy().astype(float)
    want = out["distance"].to_numpy() - out["price"].to_numpy() - eps * np.log(b / share)
    np.testing.assert_allclose(-out["score"].to_numpy(), want, atol=1e-5)


def test_a_solve_that_does_not_converge_is_an_error():
    message = (
        r"selector 'nudge' must bring its marginal error to 0.001 within 3 iterations; got .* Raise its option epsilon"
    )
    with pytest.raises(InputError, match=message):
        fit(cats_and_dogs(pool_rows=2000), Spec(epsilon=0.005, max_iterations=3))


def test_an_empty_reference_is_refused_not_replaced():
    planted = cats_and_dogs(pool_rows=1000)
    with pytest.raises(InputError, match="selector 'nudge' needs a reference with at least one row"):
        fit(planted, reference=cut(planted.reference, []))


def test_doubling_a_targets_weight_is_the_same_as_having_it_twice():
    planted = cats_and_dogs(pool_rows=2000)
    few = cut(planted.target, np.arange(0, 200, 20))
    twice = Shard(
        pl.concat([few.rows, few.rows[:1].with_columns(id=pl.lit("again"))]), np.vstack([few.vectors, few.vectors[:1]])
    )
    heavy = few.rows.with_columns(meta=pl.Series(['{"w": 2}'] + ['{"w": 1}'] * 9))
    spec = Spec(phrasing=0, tolerance=1e-6)
    one = SELECTOR.fit(spec, sample=planted.pool, target=twice, reference=None, seed=0)
    usual = [median_cost(planted.pool.vectors, y) for y in (twice.vectors, few.vectors)]
    # the same epsilon in units of cost
    other_spec = Spec(phrasing=0, tolerance=1e-6, row_weight="w", epsilon=0.1 * usual[0] / usual[1])
    weighed = Shard(heavy, few.vectors)
    other = SELECTOR.fit(other_spec, sample=planted.pool, target=weighed, reference=None, seed=0)
    ours, theirs = (
        SELECTOR.score(s, f, planted.pool)["score"].to_numpy() for s, f in ((spec, one), (other_spec, other))
    )
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=1e-4)


def test_tasks_share_the_weight_as_the_recipe_says():
    planted = cats_and_dogs(pool_rows=1000)
    tasks = ["dogs"] * 150 + ["cats"] * 50
    target = Shard(planted.target.rows.with_columns(task=pl.Series(tasks)), planted.target.vectors)

    def weights(spec: Spec) -> np.ndarray:
        return SELECTOR.fit(spec, sample=planted.pool, target=target, reference=None, seed=0).arrays["weight"]

    assert weights(Spec())[:150].sum() == pytest.approx(0.75)
    assert weights(Spec(task_weights="equal"))[:150].sum() == pytest.approx(0.5)
    assert weights(Spec(task_weights={"dogs": 1, "cats": 4}))[:150].sum() == pytest.approx(0.2)
    with pytest.raises(InputError, match="must weigh every task of the target and no other"):
        weights(Spec(task_weights={"dogs": 1}))
    with pytest.raises(InputError, match="'w' is none"):
        weights(Spec(row_weight="w"))


def test_slack_keeps_prices_together():
    """What dogs may pay more than cats, of which there are plenty, falls with the slack, down to nothing."""
    planted = cats_and_dogs(pool_rows=2000)
    few = cut(planted.target, np.arange(0, 200, 10))

    def spread(slack: float | None) -> float:
        fitted = SELECTOR.fit(Spec(slack=slack), sample=planted.pool, target=few, reference=None, seed=0)
        return float(np.ptp(fitted.arrays["price"]))

    held, loose, looser, none = (spread(s) for s in (None, 0.5, 0.05, 1e-4))
    assert held > loose > looser > none
    assert none < 0.01


@pytest.mark.parametrize("epsilon", [1e-4, 1e4])
def test_absurd_epsilons_rank_finitely(epsilon):
    planted = cats_and_dogs(pool_rows=500)
    spec = Spec(epsilon=epsilon, tolerance=0.09)
    fitted = SELECTOR.fit(spec, sample=planted.pool, target=planted.target, reference=None, seed=0)
    assert SELECTOR.score(spec, fitted, planted.pool)["score"].is_finite().all()


def test_strange_vectors_are_answered_or_refused_in_one_sentence():
    planted = cats_and_dogs(pool_rows=500)
    vectors = planted.target.vectors
    alone, same = cut(planted.target, [3]), Shard(planted.target.rows, np.repeat(vectors[:1], 200, 0))
    constant = Shard(planted.pool.rows, np.repeat(vectors[:1], 500, 0))
    for pool, target in ((planted.pool, alone), (planted.pool, same), (constant, same), (constant, planted.target)):
        fitted = SELECTOR.fit(Spec(), sample=pool, target=target, reference=None, seed=0)
        out = SELECTOR.score(Spec(), fitted, pool)
        assert out["score"].is_finite().all()
        assert (out["share"] > 0).all()
    inside = SELECTOR.fit(Spec(), sample=planted.pool, target=cut(planted.pool, range(40)), reference=None, seed=0)
    assert SELECTOR.score(Spec(), inside, planted.pool)["score"].is_finite().all()
    broken = vectors.copy()
    broken[7, 3] = np.nan
    with pytest.raises(InputError, match="finite vectors of its target"):
        SELECTOR.fit(Spec(), sample=planted.pool, target=Shard(planted.target.rows, broken), reference=None, seed=0)
    narrow = Shard(planted.target.rows, unit(vectors[:, :32]))
    with pytest.raises(InputError, match="as wide as the reference"):
        SELECTOR.fit(Spec(), sample=planted.pool, target=narrow, reference=None, seed=0)


def test_rows_to_avoid_push_their_like_away():
    """Three kinds in equal parts, a target of the first two, the second avoided: the picks are of the first alone."""
    rng = np.random.default_rng(5)
    centres = np.eye(3, 16)
    pool = np.concatenate([around(c, 300, 0.4, rng) for c in centres])
    target = np.concatenate([around(c, 30, 0.4, rng) for c in centres[:2]])
    given = {"sample": shard(vectors=pool), "target": shard(vectors=target), "reference": None, "seed": 0}
    kind = np.repeat(np.arange(3), 300)
    plain = SELECTOR.score(VECTORS_ALONE, SELECTOR.fit(VECTORS_ALONE, **given), given["sample"])
    counts = np.bincount(kind[best(plain, 200)], minlength=3)
    assert counts[2] == 0
    assert counts[:2].min() > 50, "without it, both kinds of the target are picked"
    spec = Spec(phrasing=0, avoid_weight=0.9)
    fitted = SELECTOR.fit(spec, **given, avoid=shard(vectors=around(centres[1], 30, 0.4, rng)))
    out = SELECTOR.score(spec, fitted, given["sample"])
    assert np.bincount(kind[best(out, 200)], minlength=3).tolist() == [200, 0, 0]
    assert np.allclose(out["score"] + out["penalty"], plain["score"], atol=1e-6)


def test_what_is_avoided_falls_by_the_potential_of_an_independent_solver():
    """penalty = -w f', f' of POT's log-domain solver from the reference to the avoided rows."""
    rng = np.random.default_rng(6)
    pool, target, away = (unit(rng.normal(size=(n, 8))) for n in (80, 12, 9))
    spec = Spec(phrasing=0, avoid_weight=0.5, epsilon=0.5, tolerance=1e-6)
    given = {"sample": shard(vectors=pool), "target": shard(vectors=target), "reference": None, "seed": 0}
    fitted = SELECTOR.fit(spec, **given, avoid=shard(vectors=away))
    penalty = SELECTOR.score(spec, fitted, given["sample"])["penalty"].to_numpy()
    cost = 2 - 2 * pool.astype(np.float64) @ away.T
    _, log = ot.sinkhorn(
        [], [], cost, fitted.facts["epsilon"], method="sinkhorn_log", log=True, stopThr=1e-12, numItermax=20_000
    )
    f = fitted.facts["epsilon"] * log["log_u"]
    assert np.allclose(penalty - penalty.mean(), -0.5 * (f - f.mean()), atol=1e-4)


def worded(kind: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Texts of 20 words each, out of one vocabulary of 30 words for each kind and one of 30 that all share."""
    own = [rng.integers(0, 30, 10) for _ in kind]
    both = [rng.integers(0, 30, 10) for _ in kind]
    return [
        " ".join([f"own{k}{i}" for i in a] + [f"all{i}" for i in b]) for k, a, b in zip(kind, own, both, strict=True)
    ]


def two_wordings(seed: int = 3) -> tuple[Planted, np.ndarray]:
    """Vectors alike, two wordings, a target of one of them."""
    rng = np.random.default_rng(seed)
    centre, kind = np.eye(16)[0], np.repeat([0, 1], 300)
    pool = shard(worded(kind, rng), around(centre, 600, 0.4, rng))
    target = shard(worded(np.zeros(30, int), rng), around(centre, 30, 0.4, rng), prefix="target")
    return Planted(pool, target, pool, kind), kind


def test_rows_that_only_their_words_tell_apart_are_told_apart():
    planted, kind = two_wordings()
    found = {
        weight: SELECTOR.score(spec := Spec(phrasing=weight), fit(planted, spec), planted.pool)
        for weight in (0.0, 1.0, 3.0)
    }
    share = {weight: 1 - kind[best(out, 100)].mean() for weight, out in found.items()}
    assert 0.35 < share[0.0] < 0.65, "by vectors it is chance"
    assert share[1.0] > 0.8
    assert share[3.0] == 1.0


def without(target: Shard, i: int, pool: Shard) -> float:
    """Dsir's score of a target row by the other target rows."""
    others = cut(target, np.delete(np.arange(len(target)), i))
    fitted = DSIR.fit(DSIR.Spec(), sample=pool, target=others, reference=None, seed=0)
    return DSIR.score(DSIR.Spec(), fitted, cut(target, [i]))["score"][0]


def test_phrasing_is_dsirs_score_beside_that_of_the_part_a_row_serves():
    """Brute force from dsir's scores; a standard deviation of it moves the score as `phrasing` ones of the distance."""
    planted, _ = two_wordings()
    spec = Spec(phrasing=0.5)
    out = SELECTOR.score(spec, fitted := fit(planted, spec), planted.pool)
    alone = SELECTOR.score(VECTORS_ALONE, fit(planted, VECTORS_ALONE), planted.pool)["score"].to_numpy()
    dsir = DSIR.fit(DSIR.Spec(), sample=planted.pool, target=planted.target, reference=None, seed=0)
    row = DSIR.score(DSIR.Spec(), dsir, planted.pool)["score"].to_numpy()
    target = np.array([without(planted.target, i, planted.pool) for i in range(len(planted.target))])
    y = planted.target.vectors.astype(np.float64)
    near = np.exp(-(2 - 2 * y @ y.T) / (0.2 * fitted.facts["median_cost"]))
    part = near @ target / near.sum(1)
    theirs = [np.average(part[j], weights=s) for j, s in zip(out["targets"], out["shares"], strict=True)]
    want = row - theirs
    np.testing.assert_allclose(out["phrasing"].to_numpy(), want, atol=1e-6)
    moved = out["score"].to_numpy() - alone
    np.testing.assert_allclose(moved, 0.5 * alone.std() * (want - want.mean()) / want.std(), atol=1e-6)
    np.testing.assert_allclose(moved, -out["penalty"].to_numpy(), atol=1e-12)


def test_phrasing_does_not_take_sides_between_parts_of_a_target():
    """Half the target is of a kind that the pool seldom has, half of one that it is full of; half the pool's rows of
    each are worded as the target's. By dsir the rare kind comes first; here rows are told apart within their kind.
    """
    rng = np.random.default_rng(4)
    kind, like = np.repeat([0, 1], [100, 500]), np.tile([True, False], 300)
    centres = np.eye(16)[:2]

    def rows(kinds: np.ndarray, wording: np.ndarray, prefix: str) -> Shard:
        vectors = np.concatenate([around(centres[k], 1, 0.4, rng) for k in kinds])
        return shard(worded(wording, rng), vectors, prefix=prefix)

    both = np.repeat([0, 1], 60)
    pool = rows(kind, np.where(like, kind, kind + 2), "row")  # wordings 2 and 3 are of neither
    target = rows(both, both, "target")
    wording = SELECTOR.score(Spec(), SELECTOR.fit(Spec(), sample=pool, target=target, reference=None, seed=0), pool)[
        "phrasing"
    ].to_numpy()
    dsir = DSIR.fit(DSIR.Spec(), sample=pool, target=target, reference=None, seed=0)
    plain = DSIR.score(DSIR.Spec(), dsir, pool)["score"].to_numpy()
    mean = {(k, of): x[(kind == k) & like].mean() for k in (0, 1) for of, x in (("dsir", plain), ("here", wording))}
    assert mean[0, "dsir"] - mean[1, "dsir"] > 0.3
    assert abs(mean[0, "here"] - mean[1, "here"]) < (mean[0, "dsir"] - mean[1, "dsir"]) / 3
    for k in (0, 1):
        assert wording[(kind == k) & like].mean() > wording[(kind == k) & ~like].mean() + 0.1


@pytest.mark.parametrize("texts", [[""] * 30, ["the same words"] * 30])
def test_phrasing_that_tells_nothing_is_left_out(texts):
    """A target without a word; a pool all worded alike."""
    planted, _ = two_wordings()
    pool = planted.pool if not texts[0] else shard(["the same words"] * 600, planted.pool.vectors)
    target = shard(texts, planted.target.vectors, prefix="target")
    fitted = SELECTOR.fit(Spec(), sample=pool, target=target, reference=None, seed=0)
    out = SELECTOR.score(Spec(), fitted, pool)
    assert "penalty" not in out.columns
    want = SELECTOR.score(VECTORS_ALONE, fit(planted, VECTORS_ALONE), planted.pool)
    assert out["score"].to_list() == want["score"].to_list()


def test_phrasing_and_rows_to_avoid_add_up():
    planted, _ = two_wordings()
    away = shard(vectors=around(np.eye(16)[1], 30, 0.4, np.random.default_rng(9)))

    def score(weight: float, avoid: Shard | None) -> np.ndarray:
        spec = Spec(phrasing=weight)
        given = (planted.pool, planted.target)
        fitted = SELECTOR.fit(spec, sample=given[0], target=given[1], reference=None, seed=0, avoid=avoid)
        return SELECTOR.score(spec, fitted, planted.pool)["score"].to_numpy()

    alone = score(0, None)
    want = (score(1, None) - alone) + (score(0, away) - alone)
    np.testing.assert_allclose(score(1, away) - alone, want, atol=1e-9)
