"""TSDS: against a linear program, its two limits in closed form, and planted near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from generators import Planted, cut, shard, two_topics, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mixtura.pipeline.pick import pick
from mixtura.pipeline.spread import densities, distances, spread
from mixtura.recipe import Pick
from mixtura.selectors.tsds import BEHIND, SELECTOR, Spec


def scores(planted, spec=None, rows=None):
    spec = spec or Spec()
    fitted = SELECTOR.fit(spec, sample=planted.pool, target=planted.target, reference=None, seed=0)
    return SELECTOR.score(spec, fitted, rows or planted.pool)


def problem(x: np.ndarray, y: np.ndarray) -> Planted:
    return Planted(shard(vectors=x, prefix="p"), shard(vectors=y, prefix="t"), shard(vectors=y), np.zeros(len(x)))


def optimum(far: np.ndarray, density: np.ndarray, alpha: float, c: float) -> float:
    """Least alpha/C <gamma, d> + (1 - alpha) max M rho gamma over plans gamma [n, M], each target of mass 1/M."""
    n, m = far.shape
    cost = np.r_[alpha / c * far.ravel(), 1 - alpha]
    upper = np.c_[np.diag(np.repeat(density, m) * m), -np.ones(n * m)]
    equal = np.c_[np.tile(np.eye(m), n), np.zeros(m)]
    solved = linprog(cost, upper, np.zeros(n * m), equal, np.full(m, 1 / m), bounds=(0, None), method="highs")
    assert solved.status == 0
    return solved.fun


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(0.05, 0.95),
    st.sampled_from([0.05, 0.5, 5.0]),
    st.sampled_from([0.01, 0.75, 1.5]),
    st.booleans(),
)
def test_the_plan_is_the_optimum_of_the_linear_program(seed, n, m, alpha, c, sigma, twins):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.normal(size=(n, 4))), unit(rng.normal(size=(m, 4)))
    if twins:
        x = np.concatenate([x, x[: n // 2 + 1]])
    far = distances(x, y)
    density = densities(x, x, sigma, own=np.arange(len(x)))
    plan = spread(far, density, alpha=alpha, unit=c)
    gamma = plan.share(far, density)
    np.testing.assert_allclose(gamma.sum(0), 1 / m, rtol=1e-9)
    ours = alpha / c * (gamma * far).sum() + (1 - alpha) * (m * density[:, None] * gamma).max()
    assert ours == pytest.approx(optimum(far.astype(np.float64), density, alpha, c), rel=1e-7)


def test_alpha_near_one_takes_only_the_nearest_row_of_each_target():
    rng = np.random.default_rng(3)
    x, y = unit(rng.normal(size=(50, 6))), unit(rng.normal(size=(4, 6)))
    out = scores(problem(x, y), Spec(alpha=1 - 1e-9, sigma=1e-3))
    nearest = (x @ y.T).argmax(0)
    reached = out["targets_reaching"].to_numpy() > 0
    assert set(np.flatnonzero(reached)) == set(nearest)
    mass = np.exp(out["score"].to_numpy()) * reached
    np.testing.assert_allclose(mass, np.bincount(nearest, minlength=50) / 4, rtol=1e-9)


def test_alpha_near_zero_is_uniform_where_nothing_crowds():
    rng = np.random.default_rng(4)
    x, y = unit(rng.normal(size=(40, 6))), unit(rng.normal(size=(3, 6)))
    out = scores(problem(x, y), Spec(alpha=1e-9, sigma=1e-3))
    np.testing.assert_allclose(np.exp(out["score"].to_numpy()), 1 / 40, rtol=1e-9)


def test_a_crowd_of_copies_takes_the_share_of_one_row():
    """Eight copies of one row and eight single rows at the same distance: 9 places, each of 1/9 at alpha near 0."""
    singles = np.eye(10)[1:10] * 0.6
    singles[:, 0] = 0.8  # all at one angle from the target, and 0.85 apart
    x = unit(np.concatenate([np.repeat(singles[:1], 8, axis=0), singles[1:]]))
    out = scores(problem(x, unit(np.eye(10)[:1])), Spec(alpha=1e-9, sigma=0.5))
    mass = np.exp(out["score"].to_numpy())
    assert mass[:8].sum() == pytest.approx(1 / 9, rel=1e-3)  # f32: a copy's distance to its twin is up to 5e-4
    np.testing.assert_allclose(mass[8:], 1 / 9, rtol=1e-3)
    np.testing.assert_allclose(out["near_duplicates"].to_numpy(), [7] * 8 + [0] * 8, atol=1e-4)


def test_target_topic_fills_the_budget_by_draw_and_by_rank_without_duplicates():
    planted = two_topics()
    spec = Spec(alpha=0.9, distance_unit=0.05)
    table = planted.pool.rows.select("id", "source", "tokens").join(scores(planted, spec), on="id")
    for rule in ("top", "gumbel"):
        ids = pick(table, Pick(rule=rule, budget_rows=40), scale=SELECTOR.scale, seed=1)["id"]
        assert ids.n_unique() == 40
        assert (planted.kind[planted.pool.rows["id"].is_in(ids.to_list()).to_numpy()] == 1).all()


def test_rows_that_no_target_reaches_come_behind_by_their_distance():
    planted = two_topics()
    out = scores(planted, Spec(alpha=0.9, distance_unit=0.05))
    score, reached = out["score"].to_numpy(), out["targets_reaching"].to_numpy() > 0
    assert 0 < reached.sum() < len(reached)
    assert score[reached].min() - score[~reached].max() > BEHIND
    one = scores(Planted(planted.pool, cut(planted.target, [0]), planted.reference, planted.kind), Spec(alpha=0.9))
    outside = one.filter(one["targets_reaching"] == 0).sort("distance")
    assert outside["score"].is_sorted(descending=True)


def test_a_row_outside_the_sample_weighs_as_it_would_inside():
    """One row left out of 300: it takes what it takes within, but for what it moved; the others' density is lower."""
    planted = two_topics()
    whole = scores(planted)
    rest = Planted(cut(planted.pool, np.arange(1, 300)), planted.target, planted.reference, planted.kind)
    outside = scores(rest, rows=cut(planted.pool, [0]))
    assert outside["near_duplicates"][0] == pytest.approx(whole["near_duplicates"][0], rel=1e-12)
    assert outside["score"][0] == pytest.approx(whole["score"][0], abs=0.05)


def test_mass_is_one_where_the_pool_is_the_sample():
    planted = two_topics()
    fitted = SELECTOR.fit(Spec(), sample=planted.pool, target=planted.target, reference=None, seed=0)
    out = SELECTOR.score(Spec(), fitted, planted.pool)
    reached = out.filter(out["targets_reaching"] > 0)
    assert np.exp(reached["score"].to_numpy()).sum() == pytest.approx(1, rel=1e-9)
    assert fitted.facts["rows_reached"] == reached.height


def test_options_are_checked():
    for wrong in ({"alpha": 0}, {"alpha": 1}, {"sigma": 0}, {"distance_unit": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Spec.model_validate(wrong)
