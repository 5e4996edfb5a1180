"""The benchmark's parts at tiny sizes: what it draws, what it compares, what it promises."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks import nudge, transport_peers
from mixtura.pipeline.transport import soft_distances, solve_prices

PLAN = nudge.of_rows(1_600)


def test_shards_are_cuts_of_one_pool():
    drawn = nudge.Drawn(PLAN)
    np.testing.assert_array_equal(drawn.pool(1_000), drawn.pool(1_600)[:1_000])
    np.testing.assert_allclose(np.linalg.norm(drawn.y, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["streamed torch", "POT lazy"])
def test_peers_solve_the_same_problem(name):
    """Their f is ours up to a constant: the comparison of seconds is one of equal work."""
    drawn = nudge.Drawn(PLAN)
    x, y = drawn.pool(300), drawn.y
    price = solve_prices(x, y, epsilon=0.2, tolerance=1e-6).price
    f = soft_distances(x, y, price, epsilon=0.2).soft
    other = transport_peers.PEERS[name](x, y, 0.2, 1e-5)
    np.testing.assert_allclose(other - other.mean(), f - f.mean(), atol=1e-3)


def test_figures_of_a_tiny_pool():
    assert nudge.score_over_gemm(PLAN) > 1
    assert nudge.overlap_with_whole_solve(PLAN) == 1, "the sample is the whole pool"
    ours = nudge.solve_and_score(PLAN)
    assert 0 <= ours["extra_gib"] < 1
    assert [n for n, _ in nudge.seconds_by_rows(PLAN)] == [200, 400, 800, 1_600]
