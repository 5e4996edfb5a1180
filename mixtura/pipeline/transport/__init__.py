"""Entropic optimal transport with one side small: prices of M targets, and soft distances to them under prices.

Notation: unit vectors x_i (reference, weights a) and y_j (targets, weights b); c(x, y) = |x - y|^2 = 2 - 2<x, y>.

    f(x) = -eps * log sum_j b_j exp((g_j - c(x, y_j)) / eps)        soft distance of any x, under prices g
    g_j  = -eps * log sum_i a_i exp((f_i - c(x_i, y_j)) / eps)      price of target j: high where the reference lacks it

The prices say all that matters about the reference, in M numbers; f is then defined for any x, seen or not, and is the
first variation of the transport cost when mass is added at x (Cuturi 2013; Feydy et al. 2019, section 2.2). With
g = 0, f is the plain soft distance to the nearest targets.

    prices.py   the iteration over g, in f64[M]              plan.py    what arrives at the targets under g
    soft.py     f(x) of any rows, the pass over everything   logits.py  what all devices have in common
    kept.py     the few targets that each row serves         tiles.py   arithmetic in tiles of one shape
    device.py   the same sums on a GPU                       fused.py   its Triton kernels

On the CPU all arithmetic runs on one thread and in tiles of one shape, so that on one kind of CPU a result's bits
depend neither on a row's neighbours nor on the number of cores; shards are scored in parallel by processes.
"""

from mixtura.pipeline.transport.prices import Prices, median_cost, solve_prices
from mixtura.pipeline.transport.soft import SoftDistances, soft_distances
from mixtura.pipeline.transport.tiles import TILE

__all__ = ["TILE", "Prices", "SoftDistances", "median_cost", "soft_distances", "solve_prices"]
