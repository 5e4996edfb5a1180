"""Entropic optimal transport with one side small: prices of M targets, and soft distances to them under prices.

Notation: unit vectors x_i (reference, weights a) and y_j (targets, weights b); c(x, y) = |x - y|^2 = 2 - 2<x, y>.

    f(x) = -eps * log sum_j b_j exp((g_j - c(x, y_j)) / eps)        soft distance of any x, under prices g
    g_j  = -eps * log sum_i a_i exp((f_i - c(x_i, y_j)) / eps)      price of target j: high where the reference lacks it

The prices say all that matters about the reference, in M numbers; f is then defined for any x, seen or not, and is the
first variation of the transport cost when mass is added at x (Cuturi 2013; Feydy et al. 2019, section 2.2). With
g = 0, f is the plain soft distance to the nearest targets.

All arithmetic here runs on one thread and in tiles of one shape, so that on one kind of CPU a result's bits depend
neither on a row's neighbours nor on the number of cores; shards are scored in parallel by processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

TILE = 512  # rows of a tile: with M = 400 in f32 it is 0.8 MB, within a core's cache
FAR = 20.0  # nats a scaling may drift before it is absorbed into the potentials; f32 keeps 87
NEAR = 60.0  # nats between prices up to which exp(-87), the least f32, is lost in the rounding of an unpriced sum
LEAST_SCALE = 1e-3  # of the median cost: where all vectors are equal, eps must not be zero


@dataclass(frozen=True)
class Prices:
    """What `solve_prices` found.

    Attributes:
        price: f64[M], in units of cost, with sum_j b_j price_j = 0.
        iterations: over all levels of eps.
        marginal_error: sum_j |mass that arrives at j - b_j|, of 1.
    """

    price: np.ndarray
    iterations: int
    marginal_error: float


@dataclass(frozen=True)
class SoftDistances:
    """What each row costs under prices, and why. Arrays of n, in row order.

    Attributes:
        soft: f64, f(x) under the prices.
        soft_unpriced: f64, f(x) under prices of zero.
        target: i64, the target that takes the largest share of the row's mass.
        share: f32, that share, in (0, 1].
        distance: f32, c(x, y) to that target, in [0, 4].
    """

    soft: np.ndarray
    soft_unpriced: np.ndarray
    target: np.ndarray
    share: np.ndarray
    distance: np.ndarray


def median_cost(x: np.ndarray, y: np.ndarray, most: int = 1024) -> float:
    """Median of c(x_i, y_j) over the first `most` rows of each; the unit in which eps is given. At least 1e-3."""
    with _one_thread():
        cost = 2.0 - 2.0 * (_tensor(x[:most]).double() @ _tensor(y[:most]).double().T)
    return max(float(np.median(cost.numpy())), LEAST_SCALE)


def solve_prices(
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
    *,
    epsilon: float,
    tolerance: float = 1e-4,
    max_iterations: int = 5000,
    annealing: float = 0.5,
) -> Prices:
    """Sinkhorn's algorithm for the prices of y, in the dtype of x (f32 for use, f64 for tests).

    The scalings are iterated on a kernel that holds the potentials of the last absorption (Schmitzer 2019,
    section 3.1): two matrix-vector products an iteration, exponentials only when eps falls or a scaling drifts.
    eps falls from the largest cost by factors of `annealing`, each level starting from the last one's prices.

    Args:
        x: [n, d], unit L2 norm; 2 n M numbers are held in memory.
        y: [M, d], unit L2 norm, same dtype.
        a: [n], weights that sum to 1; None is uniform. Zeros are allowed.
        b: [M], likewise.
        epsilon: in units of cost.
        tolerance: of the marginal error at which to stop.
        max_iterations: over all levels; `marginal_error` says how far it came.
        annealing: in (0, 1).
    """
    with _one_thread():
        x_, y_ = _tensor(x), _tensor(y)
        weights = [
            torch.full((len(p),), 1 / len(p), dtype=x_.dtype) if w is None else _tensor(w).to(x_.dtype)
            for p, w in ((x, a), (y, b))
        ]
        sinkhorn = _Sinkhorn(2.0 - 2.0 * (x_ @ y_.T), *weights)
        eps = max(float(sinkhorn.cost.max()), epsilon)
        error = np.inf
        while True:
            last = eps <= epsilon
            # rough prices are enough until the last level
            error = sinkhorn.run(max(eps, epsilon), tolerance if last else 0.05, max_iterations)
            if last:
                break
            eps *= annealing
        price = sinkhorn.g.double().numpy()
        weight = weights[1].double().numpy()
        return Prices(price - weight @ price / weight.sum(), sinkhorn.iterations, error)


class _Sinkhorn:
    """State of the iteration: potentials f [n] and g [M] over a cost [n, M]."""

    def __init__(self, cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        self.cost, self.a, self.b = cost, a, b
        self.g = torch.zeros_like(b)
        self.kernel = torch.empty_like(cost)
        self.iterations = 0

    def run(self, eps: float, tolerance: float, most: int) -> float:
        """Iterate at one eps; returns the marginal error."""
        error, drifted = float("inf"), True
        while drifted:
            self._absorb(eps)
            v, drifted = torch.ones_like(self.b), False
            while self.iterations < most and not drifted:
                u = 1 / (self.kernel @ (self.b * v))
                arriving = self.kernel.T @ (self.a * u)
                error = float((self.b * (v * arriving - 1).abs()).sum())
                self.iterations += 1
                if error <= tolerance:
                    break
                v = 1 / arriving
                drifted = not bool((v.log().abs().max() < FAR) & (u.log().abs().max() < FAR))
            if bool(torch.isfinite(v).all()):
                self.g += eps * v.log()
        return error

    def _absorb(self, eps: float) -> None:
        """Kernel = exp((f + g - c) / eps), with g and f each renewed in the log domain."""
        k = self.kernel
        f = self._soft_min(eps, self.g + eps * self.b.log(), dim=1)
        self.g = self._soft_min(eps, (f + eps * self.a.log())[:, None], dim=0)
        f = self._soft_min(eps, self.g + eps * self.b.log(), dim=1)
        torch.sub(self.g, self.cost, out=k).add_(f[:, None]).div_(eps).exp_()

    def _soft_min(self, eps: float, potential: torch.Tensor, dim: int) -> torch.Tensor:
        """-eps log sum exp((potential - c) / eps) along a side."""
        k = torch.sub(potential, self.cost, out=self.kernel).div_(eps)
        top = k.amax(dim, keepdim=True)
        return -eps * (top.squeeze(dim) + k.sub_(top).exp_().sum(dim).log())


def soft_distances(
    x: np.ndarray, y: np.ndarray, price: np.ndarray, *, epsilon: float, b: np.ndarray | None = None
) -> SoftDistances:
    """f(x) under prices, for rows seen or not, in O(M d) memory beside the input.

    Args:
        x: f32[n, d], unit L2 norm.
        y: f32[M, d], unit L2 norm.
        price: f64[M], in units of cost; zeros give the plain soft distance.
        epsilon: in units of cost; must be positive.
        b: f64[M], positive weights that sum to 1; None is uniform.

    Returns:
        A row's numbers have the same bits whichever rows come with it.
    """
    log_weight = np.log(np.full(len(y), 1 / len(y)) if b is None else b)
    bias = ((price - 2.0) / epsilon + log_weight).astype(np.float32)
    plain_bias = (log_weight - 2.0 / epsilon).astype(np.float32)
    without = _Without(plain_bias.astype(np.float64) - bias, epsilon) if price.any() else None
    scaled = torch.from_numpy(np.ascontiguousarray(y.T.astype(np.float32) * np.float32(2.0 / epsilon)))
    added = torch.from_numpy(bias)
    out = [np.empty(len(x), t) for t in (np.float64, np.float64, np.int64, np.float32, np.float32)]
    logits, scratch = torch.empty(TILE, len(y)), torch.empty(TILE, len(y))
    with _one_thread():
        for rows, tile in _tiles(x):
            torch.addmm(added, tile, scaled, out=logits)
            top, target, mass = _log_sum_exp(logits, scratch)
            soft = -epsilon * (top.astype(np.float64) + np.log(mass))
            plain = soft if without is None else without.prices(logits, scratch, top)
            distance = 2.0 - epsilon * (top - bias[target])
            for whole, part in zip(out, (soft, plain, target, 1 / mass, distance), strict=True):
                whole[rows] = part[: rows.stop - rows.start]
    return SoftDistances(*out)


class _Without:
    """Soft distances of a tile had there been no prices, from its logits under prices.

    Args:
        change: f64[M], nats; what turns a logit under prices into one without.
        epsilon: in units of cost.
    """

    def __init__(self, change: np.ndarray, epsilon: float) -> None:
        self.epsilon, self.most = epsilon, float(change.max())
        self.near = float(np.ptp(change)) < NEAR
        self.change = torch.from_numpy(change.astype(np.float32))
        self.factor = torch.from_numpy(np.exp(change - self.most).astype(np.float32))

    def prices(self, logits: torch.Tensor, scratch: torch.Tensor, top: np.ndarray) -> np.ndarray:
        """f64[TILE]; `scratch` holds exp(logits - top), and both tiles are spent."""
        if self.near:  # weigh the exponentials again: none that matters has underflowed
            mass, shift = scratch.mul_(self.factor).sum(1).numpy().astype(np.float64), self.most
        else:
            (top, _, mass), shift = _log_sum_exp(logits.add_(self.change), scratch), 0.0
        return -self.epsilon * (top.astype(np.float64) + np.log(mass) + shift)


def _log_sum_exp(logits: torch.Tensor, scratch: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row maxima f32, where they are i64, and sums of exp(logit - maximum) f64; numpy's argmax is 10 times torch's."""
    table = logits.numpy()
    target = table.argmax(1)
    top = table[np.arange(TILE), target]
    torch.sub(logits, torch.from_numpy(top)[:, None], out=scratch).exp_()
    return top, target, scratch.sum(1).numpy().astype(np.float64)


def _tiles(x: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows copied into one buffer of TILE rows, the rest zeros: the product then never sees another shape."""
    tile = torch.zeros(TILE, x.shape[1])
    for start in range(0, len(x), TILE):
        rows = slice(start, min(start + TILE, len(x)))
        tile.numpy()[: rows.stop - start] = x[rows]  # by numpy: rows read from Parquet are read-only, torch objects
        tile[rows.stop - start :] = 0
        yield rows, tile


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy: torch refuses arrays that are read-only, as those from Parquet are."""
    return torch.from_numpy(np.array(array))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
