"""Prices and soft distances against POT in f64, finite differences, closed forms, and bit-for-bit laws."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from generators import around, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from mixtura.pipeline.transport import TILE, median_cost, soft_distances, solve_prices

F32 = 2e-5  # of costs up to 4 and eps of 0.05 and more: a few units in the last place of f32


def problem(seed: int, n: int = 40, m: int = 9, d: int = 6) -> tuple[np.ndarray, ...]:
    """x f64[n, d], y f64[m, d], and positive weights a, b."""
    rng = np.random.default_rng(seed)
    x, y = (unit(rng.normal(size=(k, d))).astype(np.float64) for k in (n, m))
    a, b = rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))
    return x, y, a, b


def cost(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 2 - 2 * x.astype(np.float64) @ y.astype(np.float64).T


def pot(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, eps: float) -> tuple[np.ndarray, ...]:
    """f, g (with sum b g = 0) and the value of OT_eps, from POT: <P, c> + eps KL(P | a b)."""
    plan, log = ot.sinkhorn(a, b, cost(x, y), eps, method="sinkhorn_log", stopThr=1e-13, numItermax=50_000, log=True)
    f, g = eps * (log["log_u"] - np.log(a)), eps * (log["log_v"] - np.log(b))
    value = (plan * cost(x, y)).sum() + eps * (plan * np.log(plan / np.outer(a, b))).sum()
    return f + b @ g, g - b @ g, value


def soft(x: np.ndarray, y: np.ndarray, g: np.ndarray, b: np.ndarray, eps: float) -> np.ndarray:
    """The formula as it is written, by scipy."""
    return -eps * logsumexp((g - cost(x, y)) / eps, b=b, axis=1)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 999), st.sampled_from([0.05, 0.1, 0.5, 2.0]), st.integers(1, 12))
def test_prices_are_those_of_pot(seed, eps, m):
    x, y, a, b = problem(seed, m=m)
    _, g, _ = pot(x, y, a, b, eps)
    found = solve_prices(x, y, a, b, epsilon=eps, tolerance=1e-11)
    assert found.marginal_error <= 1e-11
    np.testing.assert_allclose(found.price, g, atol=1e-8)


def test_soft_distance_at_solve_points_is_the_potential_of_the_full_solve():
    x, y, a, b = problem(1)
    f, _, _ = pot(x, y, a, b, 0.1)
    x, y = x.astype(np.float32), y.astype(np.float32)
    found = solve_prices(x, y, a, b, epsilon=0.1, tolerance=1e-6)
    np.testing.assert_allclose(soft_distances(x, y, found.price, epsilon=0.1, b=b).soft, f, atol=F32)


def test_soft_distance_is_the_derivative_of_the_transport_cost():
    """d/dt OT_eps((1 - t) a + t delta_x) at 0 is f(x) - <a, f>, for an x outside the solve; the step errs by O(t)."""
    eps, t = 0.2, 1e-5
    x, y, a, b = problem(2)
    f, g, value = pot(x, y, a, b, eps)
    new = unit(np.random.default_rng(3).normal(size=(5, x.shape[1])))
    slopes = [
        (pot(np.vstack([x, row]), y, np.append((1 - t) * a, t), b, eps)[2] - value) / t
        for row in new.astype(np.float64)
    ]
    found = soft_distances(new, y.astype(np.float32), g, epsilon=eps, b=b)
    np.testing.assert_allclose(found.soft - a @ f, slopes, atol=3e-4)


def test_small_eps_reaches_the_exact_optimum():
    """The dual value lies within eps log(n m) of the linear programme's, an independent solver."""
    eps = 0.005
    x, y, a, b = problem(4, n=60, m=15)
    found = solve_prices(x, y, a, b, epsilon=eps, tolerance=1e-7)
    dual = a @ soft(x, y, found.price, b, eps) + b @ found.price
    exact = ot.emd2(a, b, cost(x, y))
    assert found.marginal_error <= 1e-7
    assert exact - 1e-6 <= dual <= exact + eps * np.log(60 * 15)


def test_duplicating_a_row_is_doubling_its_weight():
    x, y, _, _ = problem(5, n=10)
    a = np.full(10, 1 / 11)
    a[3] = 2 / 11
    twice = solve_prices(np.vstack([x, x[3]]), y, epsilon=0.1, tolerance=1e-12)
    np.testing.assert_allclose(twice.price, solve_prices(x, y, a, epsilon=0.1, tolerance=1e-12).price, atol=1e-10)


def test_weight_of_zero_is_absence():
    x, y, a, b = problem(6)
    a[:5] = 0
    b[-1] = 0
    a, b = a / a.sum(), b / b.sum()
    whole = solve_prices(x, y, a, b, epsilon=0.1, tolerance=1e-12).price
    part = solve_prices(x[5:], y[:-1], a[5:], b[:-1], epsilon=0.1, tolerance=1e-12).price
    np.testing.assert_allclose(whole[:-1], part, atol=1e-10)
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("shift", [0.0, -1.25, 2.5])
def test_constant_on_all_prices_shifts_scores_and_no_rank(shift):
    x, y, a, b = problem(7, n=300)
    g = solve_prices(x, y, a, b, epsilon=0.1).price
    base = soft_distances(x.astype(np.float32), y.astype(np.float32), g, epsilon=0.1, b=b).soft
    moved = soft_distances(x.astype(np.float32), y.astype(np.float32), g + shift, epsilon=0.1, b=b).soft
    np.testing.assert_allclose(moved, base - shift, atol=F32)


def test_formulas_as_written():
    """Soft distance, share, target and distance against scipy, with prices and without."""
    x, y, _, b = problem(8, n=700)
    g = np.random.default_rng(0).normal(size=len(y)) * 0.3
    found = soft_distances(x.astype(np.float32), y.astype(np.float32), g, epsilon=0.07, b=b)
    np.testing.assert_allclose(found.soft, soft(x, y, g, b, 0.07), atol=F32)
    np.testing.assert_allclose(found.soft_unpriced, soft(x, y, 0 * g, b, 0.07), atol=F32)
    logits = (g - cost(x, y)) / 0.07 + np.log(b)
    mass = np.exp(logits - logsumexp(logits, axis=1)[:, None])
    assert (found.target == mass.argmax(1)).mean() > 0.99  # all but ties within rounding
    np.testing.assert_allclose(found.share, mass.max(1), atol=1e-3)  # f32 rounding over eps
    np.testing.assert_allclose(found.distance, cost(x, y)[np.arange(700), found.target], atol=F32)


def test_far_prices_do_not_overflow():
    """Prices 400 eps apart: a scaling by exp(price / eps) would be infinite in f32."""
    x, y, _, b = problem(9)
    g = np.linspace(-2, 2, len(y))
    found = soft_distances(x.astype(np.float32), y.astype(np.float32), g, epsilon=0.01, b=b)
    np.testing.assert_allclose(found.soft, soft(x, y, g, b, 0.01), atol=F32)
    np.testing.assert_allclose(found.soft_unpriced, soft(x, y, 0 * g, b, 0.01), atol=F32)


@pytest.mark.parametrize(("m", "d"), [(1, 3), (37, 64), (400, 256), (129, 384)])
def test_a_row_has_the_same_bits_in_any_company(m, d):
    """Alone, in pieces, shuffled, unaligned in memory, and whatever number of threads the caller uses."""
    rng = np.random.default_rng(0)
    x, y = unit(rng.normal(size=(TILE + 70, d))), unit(rng.normal(size=(m, d)))
    g = rng.normal(size=m) * 0.1
    whole = soft_distances(x, y, g, epsilon=0.06)

    def same(rows: np.ndarray, given: np.ndarray) -> None:
        part = soft_distances(given, y, g, epsilon=0.06)
        for name in ("soft", "soft_unpriced", "target", "share", "distance"):
            assert getattr(part, name).tobytes() == getattr(whole, name)[rows].tobytes(), name

    order = rng.permutation(len(x))
    same(order, x[order])
    for i in (0, 1, TILE - 1, TILE, len(x) - 1):
        same(np.array([i]), x[i : i + 1])
    shifted = np.frombuffer(b"\0" * 4 + x.tobytes(), np.float32)[1:].reshape(x.shape)
    same(np.arange(len(x)), shifted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        same(np.arange(len(x)), x)
        assert torch.get_num_threads() == 2, "the caller's setting is given back"
    finally:
        torch.set_num_threads(before)


def test_prices_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    x, y = unit(rng.normal(size=(3000, 64))), unit(rng.normal(size=(50, 64)))
    before = torch.get_num_threads()
    try:
        prices = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            prices.append(solve_prices(x, y, epsilon=0.06).price.tobytes())
    finally:
        torch.set_num_threads(before)
    assert prices[0] == prices[1]


def test_degenerate_problems_have_finite_answers():
    one = unit(np.ones((1, 4)))
    same = np.repeat(one, 20, axis=0)
    zeros = np.zeros((5, 4), np.float32)
    for x, y in ((one, one), (same, one), (same, same[:7]), (zeros, same[:7]), (zeros, zeros)):
        eps = 0.03 * median_cost(x, y)
        prices = solve_prices(x, y, epsilon=eps)
        np.testing.assert_allclose(prices.price, 0, atol=1e-5)  # all targets alike: all prices alike
        assert prices.marginal_error < 1e-4
        assert np.isfinite(soft_distances(x, y, prices.price, epsilon=eps).soft).all()


def test_prices_are_paid_where_the_reference_is_thin():
    """99 points at e1, one at e2; half of the target is at each: transport must carry mass to e2, so e2 is dear.

    By hand, without entropy: of the half wanted at e2 only 1/100 is there; the rest comes from e1 at cost 2, hence
    g(e2) - g(e1) = 2; f(e) = -g(e) on both, so adding mass at e2 saves 2 more than adding it at e1.
    """
    eps = 0.02
    e = np.eye(3)
    x = np.vstack([np.repeat(e[:1], 99, 0), e[1:2]])
    price = solve_prices(x, e[:2], epsilon=eps, tolerance=1e-9).price
    f = soft_distances(e[:2].astype(np.float32), e[:2].astype(np.float32), price, epsilon=eps).soft
    assert price[1] - price[0] == pytest.approx(2, abs=eps * np.log(100))  # entropy: eps times logs of mass ratios
    assert f[0] - f[1] == pytest.approx(2, abs=eps * np.log(100))


def test_median_cost_by_hand():
    e = np.eye(4, dtype=np.float32)
    assert median_cost(e[:1], e[:3]) == pytest.approx(2)  # costs 0, 2, 2
    assert median_cost(e[:1], e[:1]) == pytest.approx(1e-3)  # all equal: the floor


def test_f32_solve_is_the_f64_solve():
    rng = np.random.default_rng(1)
    centres = unit(rng.normal(size=(8, 32)))
    x, y = (np.vstack([around(c, k, 0.8, rng) for c in centres]) for k in (100, 5))
    exact = solve_prices(x.astype(np.float64), y.astype(np.float64), epsilon=0.05, tolerance=1e-9)
    np.testing.assert_allclose(solve_prices(x, y, epsilon=0.05, tolerance=1e-5).price, exact.price, atol=2e-4)
