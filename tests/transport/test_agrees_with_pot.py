"""Potentials against POT's log-domain solver in float64: epsilons a decade apart, weights uniform and not."""

from __future__ import annotations

import numpy as np
import ot
import pytest
from generators import unit

from mixtura.pipeline.transport import solve_prices


@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
@pytest.mark.parametrize(("n", "m"), [(300, 60), pytest.param(2_000, 500, marks=pytest.mark.slow)])
def test_potentials_are_those_of_pot(n, m, epsilon, weighted):
    rng = np.random.default_rng(n)
    x, y = (unit(rng.normal(size=(k, 24))).astype(np.float64) for k in (n, m))
    a, b = (rng.dirichlet(np.ones(k)) if weighted else np.full(k, 1 / k) for k in (n, m))
    cost = 2 - 2 * x @ y.T
    log = ot.sinkhorn(
        a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-8, numItermax=20_000, log=True, warn=False
    )[1]
    g = epsilon * (log["log_v"] - np.log(b))
    g -= b @ g
    found = solve_prices(x, y, a, b, epsilon=epsilon, tolerance=1e-8, max_iterations=20_000)
    assert found.marginal_error <= 1e-8
    assert np.abs(found.price - g).max() <= 1e-4 * np.abs(g).max()
    logits = (found.price - cost) / epsilon + np.log(b)
    top = logits.max(1)
    f = -epsilon * (top + np.log(np.exp(logits - top[:, None]).sum(1)))
    exact = epsilon * (log["log_u"] - np.log(a))
    exact += (a @ f) - (a @ exact)
    assert np.abs(f - exact).max() <= 1e-4 * np.abs(exact).max()
