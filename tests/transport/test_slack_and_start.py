"""Semi-unbalanced prices, warm starts and the streamed plan: POT, fixed points worked out by hand, two modes agree."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from generators import around, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.transport import median_cost, soft_distances, solve_prices


def problem(seed: int, n: int = 60, m: int = 9, d: int = 6) -> tuple[np.ndarray, ...]:
    """x f64[n, d], y f64[m, d], and positive weights a, b."""
    rng = np.random.default_rng(seed)
    x, y = (unit(rng.normal(size=(k, d))).astype(np.float64) for k in (n, m))
    return x, y, rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))


def clusters(seed: int = 0, n: int = 900, m: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """f32 rows and targets around 8 centres; the last centre has one row in a hundred."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(8, 32)))
    rows = np.vstack([around(c, k, 0.8, rng) for c, k in zip(centres, [n // 7] * 7 + [n // 100], strict=True)])
    return rows, np.vstack([around(c, m // 8, 0.8, rng) for c in centres])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999), st.sampled_from([0.1, 0.5]), st.sampled_from([0.05, 0.3, 3.0]))
def test_slack_is_pots_semi_unbalanced_transport(seed, eps, slack):
    """POT: rows held to a (an infinite penalty), columns at KL(. | b) times slack; its plan's column sums are ours."""
    x, y, a, b = problem(seed)
    cost = 2 - 2 * x @ y.T
    plan = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, eps, (np.inf, slack), reg_type="kl", method="sinkhorn_stabilized", stopThr=1e-14, numItermax=20_000
    )
    found = solve_prices(x, y, a, b, epsilon=eps, tolerance=1e-12, slack=slack)
    np.testing.assert_allclose(found.arriving, plan.sum(0), atol=1e-7)
    np.testing.assert_allclose(found.arriving.sum(), 1)
    # at the optimum arriving = b exp(-price / slack), up to the constant on all prices
    price = -slack * np.log(found.arriving / b)
    np.testing.assert_allclose(found.price, price - b @ price, atol=1e-8)


def test_slack_from_balanced_to_unpriced():
    x, y = clusters()
    tight, balanced, loose = (solve_prices(x, y, epsilon=0.1, tolerance=1e-6, slack=s) for s in (1e5, None, 1e-5))
    np.testing.assert_allclose(tight.price, balanced.price, atol=1e-3)
    np.testing.assert_allclose(balanced.arriving, 1 / len(y), atol=1e-6)
    np.testing.assert_allclose(loose.price, 0, atol=1e-3)
    spread = [np.ptp(solve_prices(x, y, epsilon=0.1, slack=s).price) for s in (0.03, 0.1, 0.3, 1.0)]
    assert spread == sorted(spread), "less slack is worth more, so prices spread less"


def test_slack_lets_an_outlier_pay_less():
    """One target opposite to all rows: its price falls under slack, and the mass that it loses goes to the others."""
    rng = np.random.default_rng(0)
    centre = np.eye(16)[0]
    x, y = around(centre, 500, 0.5, rng), np.vstack([around(centre, 19, 0.5, rng), -unit(centre[None])])
    balanced, slack = (solve_prices(x, y, epsilon=0.05, tolerance=1e-5, slack=s) for s in (None, 0.1))
    assert balanced.price.argmax() == slack.price.argmax() == 19
    assert slack.price[19] < 0.7 * balanced.price[19]
    assert slack.arriving[19] < balanced.arriving[19] == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("slack", [None, 0.3])
def test_a_warm_start_ends_at_the_same_prices_sooner(slack):
    x, y = clusters()
    cold = solve_prices(x, y, epsilon=0.05, tolerance=1e-5, slack=slack)
    again = solve_prices(x, y, epsilon=0.05, tolerance=2e-5, slack=slack, start=cold.price)
    assert again.iterations <= 2
    moved = solve_prices(x[20:], y, epsilon=0.05, tolerance=1e-5, slack=slack)
    warm = solve_prices(x[20:], y, epsilon=0.05, tolerance=1e-5, slack=slack, start=cold.price + 3.0)
    np.testing.assert_allclose(warm.price, moved.price, atol=1e-3)
    assert warm.iterations < moved.iterations


@pytest.mark.parametrize("held_bytes", [1 << 30, 0])
def test_a_start_200_epsilons_off_comes_home(held_bytes):
    """Prices drift by more than f32 has powers of e: the held shares must be made anew on the way."""
    x, y = clusters()
    start = np.linspace(-10, 10, len(y))
    found = solve_prices(x, y, epsilon=0.1, tolerance=1e-5, start=start, held_bytes=held_bytes)
    assert found.marginal_error <= 1e-5
    np.testing.assert_allclose(found.price, solve_prices(x, y, epsilon=0.1, tolerance=1e-5).price, atol=1e-3)


@pytest.mark.parametrize("eps", [0.02, 0.2, 5.0])
@pytest.mark.parametrize("slack", [None, 0.2])
def test_streamed_is_held(eps, slack):
    x, y, a, b = problem(3, n=1200, m=30)  # three tiles, the last one short
    b[4] = 0
    held, streamed = (
        solve_prices(x, y, a, b, epsilon=eps, tolerance=1e-10, slack=slack, held_bytes=h) for h in (1 << 30, 0)
    )
    assert max(held.marginal_error, streamed.marginal_error) <= 1e-10
    np.testing.assert_allclose(streamed.price, held.price, atol=1e-8)
    np.testing.assert_allclose(streamed.arriving, held.arriving, atol=1e-10)


@pytest.mark.parametrize("relative", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_epsilon_overflows(relative, dtype):
    """Finite answers, and the row by the rare centre is better than any other at every eps that can tell."""
    x, y = (v.astype(dtype) for v in clusters())
    eps = relative * median_cost(x, y)
    for slack in (None, 0.1):
        found = solve_prices(x, y, epsilon=eps, tolerance=1e-3, max_iterations=300, slack=slack)
        assert np.isfinite(found.price).all()
        assert found.arriving.sum() == pytest.approx(1, abs=1e-3)
        soft = soft_distances(x.astype(np.float32), y.astype(np.float32), found.price, epsilon=eps)
        assert np.isfinite(soft.soft).all()
        assert np.isfinite(soft.soft_unpriced).all()


@pytest.mark.parametrize("eps", [20.0, 1e4, 1e7])
def test_a_large_epsilon_is_the_mean_cost(eps):
    """f(x) = mean_j (c - g) - Var_j(c - g) / (2 eps) + O(1 / eps^2), and the rounding of f32 must not be seen in it."""
    x, y = clusters()
    price = np.linspace(-0.3, 0.3, len(y))
    paid = 2 - 2 * x.astype(np.float64) @ y.astype(np.float64).T - price
    found = soft_distances(x, y, price, epsilon=eps).soft
    np.testing.assert_allclose(found, paid.mean(1) - paid.var(1) / (2 * eps), atol=1 / eps**2 + 1e-7)


def test_what_cannot_be_is_said():
    x, y, a, b = problem(0)
    for wrong, sentence in (
        (lambda: solve_prices(x, y[:, :5], epsilon=0.1), "as wide as the reference's, 6; got 5"),
        (lambda: solve_prices(x, y, epsilon=0.0), "epsilon must be a positive number; got 0.0"),
        (lambda: solve_prices(x, y, epsilon=0.1, slack=-1.0), "slack must be a positive number; got -1.0"),
        (lambda: solve_prices(x, y, a, -b, epsilon=0.1), "weights b must be 9 numbers of 0 or more"),
        (lambda: solve_prices(x, y, start=np.zeros(3), epsilon=0.1), "one price for each of 9 targets"),
        (lambda: solve_prices(x, y[:0], epsilon=0.1), "at least one reference row and one target"),
        (lambda: soft_distances(x, y[:, :5], np.zeros(9), epsilon=0.1), "as wide as the targets', 5; got 6"),
        (lambda: soft_distances(x, y, np.zeros(8), epsilon=0.1), "prices must be 9 finite numbers"),
        (lambda: soft_distances(x, y, np.zeros(9), epsilon=0.1, groups=np.r_[1, np.zeros(8, int)]), "in order"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()
