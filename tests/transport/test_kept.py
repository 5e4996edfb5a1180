"""Targets kept of each row, and groups of targets: brute force, and one call against several."""

from __future__ import annotations

import numpy as np
import pytest
from generators import unit
from scipy.special import logsumexp

from mixtura.pipeline.transport import TILE, soft_distances
from mixtura.pipeline.transport.kept import largest_shares


def problem(n: int, m: int, seed: int = 0, d: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f32[n, d], f32[m, d], prices f64[m]."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(n, d))), unit(rng.normal(size=(m, d))), rng.normal(size=m) * 0.1


def shares_of(x: np.ndarray, y: np.ndarray, price: np.ndarray, eps: float, b: np.ndarray) -> np.ndarray:
    """f64[n, m], as it is written, by scipy."""
    logits = (price - 2 + 2 * x.astype(np.float64) @ y.astype(np.float64).T) / eps + np.log(b)
    return np.exp(logits - logsumexp(logits, axis=1)[:, None])


@pytest.mark.parametrize("eps", [0.003, 0.05, 0.5, 30.0])
@pytest.mark.parametrize(("m", "keep"), [(1, 3), (7, 2), (200, 5), (200, 64), (300, 400)])
def test_kept_targets_are_those_of_a_full_sort(eps, m, keep):
    x, y, price = problem(TILE + 60, m)
    b = np.random.default_rng(1).dirichlet(np.ones(m))
    found = soft_distances(x, y, price, epsilon=eps, b=b, keep=keep)
    assert found.targets is not None
    assert found.shares is not None
    assert found.costs is not None
    assert found.targets.shape == found.shares.shape == found.costs.shape == (len(x), keep)
    exact = shares_of(x, y, price, eps, b)
    cost = 2 - 2 * x.astype(np.float64) @ y.astype(np.float64).T
    there = found.targets >= 0
    rows = np.broadcast_to(np.arange(len(x))[:, None], there.shape)[there]
    np.testing.assert_allclose(found.shares[there], exact[rows, found.targets[there]], atol=2e-3)  # f32 over eps
    np.testing.assert_allclose(found.costs[there], cost[rows, found.targets[there]], atol=2e-5)
    np.testing.assert_array_equal(found.targets[:, 0], found.target)
    assert (np.diff(found.shares, axis=1) <= 0).all()
    wanted = np.minimum(np.maximum((exact >= 1 / 64).sum(1), 1), keep)
    assert np.mean(there.sum(1) == wanted) > 0.97, "all but shares within rounding of 1/64"
    largest = -np.sort(-exact, axis=1)[:, :keep]
    np.testing.assert_allclose(
        np.where(there[:, :m], found.shares[:, :m], 0)[there[:, :m]], largest[there[:, :m]], atol=2e-3
    )
    assert (found.shares[~there] == 0).all()
    assert (found.costs[~there] == 0).all()


def test_ties_are_kept_by_index_after_the_target():
    exps = np.full((TILE, 5), 1.0, np.float32)
    exps[:, 2] = 0.5
    factor = np.full((TILE, 1), 1 / 4.5)
    place, at, share = largest_shares(exps, factor, np.zeros(5, int), np.full(TILE, 3), 4)
    np.testing.assert_array_equal(place, np.arange(4 * TILE))
    np.testing.assert_array_equal(at.reshape(TILE, 4) % 5, np.tile([3, 0, 1, 4], (TILE, 1)))
    np.testing.assert_allclose(share, 1 / 4.5, rtol=1e-6)


def test_duplicate_targets_share_alike():
    x, y, _ = problem(40, 3)
    found = soft_distances(x, np.repeat(y[:1], 5, axis=0), np.zeros(5), epsilon=0.1, keep=5)
    assert found.targets is not None
    np.testing.assert_array_equal(np.sort(found.targets, 1), np.tile(np.arange(5), (40, 1)))
    np.testing.assert_allclose(found.shares, 0.2, atol=1e-6)


def test_keeping_changes_nothing_else_and_bits_do_not_depend_on_company():
    x, y, price = problem(TILE + 9, 50)
    plain, whole = (soft_distances(x, y, price, epsilon=0.05, keep=k) for k in (0, 6))
    for name in ("soft", "soft_unpriced", "target", "share", "distance"):
        assert getattr(plain, name).tobytes() == getattr(whole, name).tobytes()
    assert plain.targets is None
    order = np.random.default_rng(0).permutation(len(x))
    part = soft_distances(x[order], y, price, epsilon=0.05, keep=6)
    for name in ("targets", "shares", "costs"):
        assert getattr(part, name).tobytes() == getattr(whole, name)[order].tobytes()


@pytest.mark.parametrize("scale", [0.1, 40.0])  # the second: groups so far apart that one underflows beside the other
def test_groups_are_calls_of_their_own(scale):
    eps, sizes = 0.1, [40, 1, 25]
    x, y, price = problem(600, sum(sizes))
    price = price * scale
    b = np.random.default_rng(2).dirichlet(np.ones(len(y)))
    groups = np.repeat(np.arange(3, dtype=np.int32), sizes)
    found = soft_distances(x, y, price, epsilon=eps, b=b, keep=4, groups=groups)
    assert found.soft_by_group is not None
    for k in range(3):
        of = groups == k
        alone = soft_distances(x, y[of], price[of], epsilon=eps, b=b[of] / b[of].sum())
        np.testing.assert_allclose(found.soft_by_group[:, k], alone.soft, atol=2e-5)
    together = soft_distances(x, y, price, epsilon=eps, b=b, keep=4)
    for name in ("soft", "soft_unpriced", "share", "distance", "shares", "costs"):
        np.testing.assert_allclose(getattr(found, name), getattr(together, name), atol=1e-4)
    np.testing.assert_array_equal(found.target, together.target)
    np.testing.assert_array_equal(found.targets, together.targets)


def test_weight_of_zero_takes_no_mass():
    x, y, price = problem(100, 20)
    b = np.r_[np.zeros(5), np.full(15, 1 / 15)]
    whole = soft_distances(x, y, price, epsilon=0.1, b=b, keep=20)
    part = soft_distances(x, y[5:], price[5:], epsilon=0.1, keep=15)
    for name in ("soft", "soft_unpriced", "share", "distance"):
        np.testing.assert_allclose(getattr(whole, name), getattr(part, name), atol=2e-5)
    assert whole.targets is not None
    assert not np.isin(whole.targets, np.arange(5)).any()


def test_no_rows_give_no_rows():
    x, y, price = problem(4, 6)
    none = soft_distances(x[:0], y, price, epsilon=0.1, keep=2, groups=np.array([0, 0, 0, 1, 1, 1]))
    assert none.soft.shape == (0,)
    assert none.targets is not None
    assert none.targets.shape == (0, 2)
    assert none.soft_by_group is not None
    assert none.soft_by_group.shape == (0, 2)
