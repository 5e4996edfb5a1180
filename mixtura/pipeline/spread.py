"""Targets that spread their mass over rows: near ones first, none more than a level, less in a crowd.

Minimise over plans gamma (M targets to n rows), each target with mass 1/M:

    alpha / C * sum_ij gamma_ij d_ij  +  (1 - alpha) * max_ij M rho_j gamma_ij

with d the distance and rho_j the density of rows around row j, itself included. Liu, Karbasi, Rekatsinas 2024 (TSDS).
For a given maximum 1/s, target i fills its rows in order of distance, 1 / (M s rho_j) each, until its mass is spent.
As s grows, mass moves outward, and the optimal s is where one more unit of distance costs what it brings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mixtura.pipeline.threads import one_thread

TILE = 512  # rows of a product: one shape, so that a row's bits do not depend on its neighbours
ROUNDING = 1e-9  # a smaller share of a row is the rounding of running sums


@dataclass(frozen=True)
class Spread:
    """An optimal plan, as far as it must be known to weigh any row.

    level: s; a row takes 1 / (M s rho) of a target within whose radius it is.
    radius: f32[M], distance within which rows take of a target.
    at_radius: f64[M], 0 to 1, the part of that which rows exactly at the radius take.
    """

    level: float
    radius: np.ndarray
    at_radius: np.ndarray

    def share(self, distance: np.ndarray, density: np.ndarray) -> np.ndarray:
        """f64[n, M], the mass that each row takes of each target.

        Args:
            distance: f32[n, M], from `distances`.
            density: f64[n], at least 1, from `densities`.
        """
        part = np.where(distance < self.radius, 1.0, np.where(distance == self.radius, self.at_radius, 0.0))
        return part / (len(self.radius) * self.level * density[:, None])


@dataclass(frozen=True)
class Weighed:
    """Rows under a plan.

    probability: f64[n], mass that the row takes of all targets; 0 where none reaches it.
    nearest: i64[n], its nearest target, the first of equals.
    distance: f32[n], to that target.
    reaching: i32[n], targets of which it takes.
    beyond: f32[n], how far it is outside the radius that it misses least; below 0 inside.
    """

    probability: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    reaching: np.ndarray
    beyond: np.ndarray


def weigh(plan: Spread, x: np.ndarray, y: np.ndarray, density: np.ndarray) -> Weighed:
    """Weigh rows f32[n, d] of some density f64[n] by a plan from the targets f32[M, d]."""
    n = len(x)
    out = Weighed(np.zeros(n), np.zeros(n, np.int64), *(np.zeros(n, t) for t in (np.float32, np.int32, np.float32)))
    for start in range(0, n, TILE):
        rows = slice(start, start + TILE)
        far = distances(x[rows], y)
        share = plan.share(far, density[rows])
        out.probability[rows] = share.sum(1)
        out.nearest[rows] = far.argmin(1)
        out.distance[rows] = far.min(1)
        out.reaching[rows] = (share > 0).sum(1)
        out.beyond[rows] = (far - plan.radius).min(1)
    return out


def spread(distance: np.ndarray, density: np.ndarray, *, alpha: float, unit: float) -> Spread:
    """The optimal plan from the targets to some rows.

    Args:
        distance: f32[n, M], at least 0.
        density: f64[n], at least 1.
        alpha: weight of the distance against that of diversity, between 0 and 1.
        unit: C, the distance that weighs as much as full diversity.

    Memory: 44 bytes times n times M.
    """
    order = np.argsort(distance.T, axis=1, kind="stable")
    far = np.take_along_axis(distance.T, order, 1).astype(np.float64)
    filled = np.cumsum((1 / density)[order], axis=1)  # level at which each row is full, nearest first
    weighted = np.cumsum((1 / density)[order] * far, axis=1)
    # distance bought by a little more spread, once the first k rows are full: sum over them of w (d_k+1 - d)
    price = filled[:, :-1] * far[:, 1:] - weighted[:, :-1]
    level = _level(filled, price, (1 - alpha) * unit / alpha * len(far))
    radius = np.empty(len(far), np.float32)
    at_radius = np.ones(len(far))
    for i in range(len(far)):
        last = min(int(np.searchsorted(filled[i], level)), far.shape[1] - 1)
        first, beyond = np.searchsorted(far[i], far[i, last]), np.searchsorted(far[i], far[i, last], side="right")
        before = filled[i, first - 1] if first else 0.0
        radius[i] = far[i, last]
        left = (level - before) / (filled[i, beyond - 1] - before)
        at_radius[i] = min(1.0, left) if left > ROUNDING else 0.0
    return Spread(level, radius, at_radius)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """f32[n, m], Euclidean, between unit vectors f32[n, d] and f32[m, d]; a row does not depend on the others.

    A zero vector lies sqrt(2) from every unit vector, as one at a right angle.
    """
    out = np.empty((len(x), len(y)), np.float32)
    columns = torch.from_numpy(np.array(y).T.copy())
    tile = torch.zeros(TILE, x.shape[1])
    with one_thread():
        for start in range(0, len(x), TILE):
            rows = x[start : start + TILE]
            tile.numpy()[: len(rows)] = rows
            tile[len(rows) :] = 0
            product = (tile @ columns)[: len(rows)]
            out[start : start + TILE] = product.mul_(-2).add_(2).clamp_(min=0).sqrt_().numpy()
    return out


def densities(x: np.ndarray, sample: np.ndarray, sigma: float, *, own: np.ndarray) -> np.ndarray:
    """f64[n]: 1 for a row itself, plus max(0, 1 - d^2 / sigma^2) for every other row of the sample.

    Args:
        x: f32[n, d], unit vectors.
        sample: f32[m, d], unit vectors.
        sigma: width of the (Epanechnikov) kernel.
        own: i64[n], where a row stands in the sample, -1 for nowhere: it must not count twice.
    """
    found = np.empty(len(x))
    for start in range(0, len(x), TILE):
        part = slice(start, start + TILE)
        near = distances(x[part], sample).astype(np.float64)
        kernel = np.maximum(0, 1 - near * near / sigma**2)
        inside = np.flatnonzero(own[part] >= 0)
        kernel[inside, own[part][inside]] = 1
        found[part] = kernel.sum(1) + (own[part] < 0)
    return found


def _level(filled: np.ndarray, price: np.ndarray, worth: float) -> float:
    """The lowest level at which some row is full and the targets' prices sum to at least `worth`; else the highest.

    Bisection over real levels, then down to the row that is full there.
    """

    def full(level: float) -> np.ndarray:
        return np.array([np.searchsorted(row, level, side="right") for row in filled])  # rows full at this level

    def total(level: float) -> float:
        k = full(level)
        some = k > 0
        return float(price[some, np.minimum(k[some], price.shape[1]) - 1].sum()) if price.shape[1] else 0.0

    low, high = 0.0, float(filled[:, -1].min())
    if total(high * (1 - 1e-12)) < worth:
        return high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) >= worth else (middle, high)
    k = full(high * (1 + 1e-12))
    some = k > 0
    return float(filled[some, k[some] - 1].max())
