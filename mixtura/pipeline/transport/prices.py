"""Prices of the targets: Sinkhorn's algorithm, iterated on the small side only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mixtura.errors import InputError
from mixtura.pipeline.threads import one_thread
from mixtura.pipeline.transport.device import DevicePlan
from mixtura.pipeline.transport.plan import HeldPlan, Plan, StreamedPlan
from mixtura.pipeline.transport.tiles import tensor

LEAST_SCALE = 1e-3  # of the median cost: where all vectors are equal, eps must not be zero
HELD_BYTES = 256 << 20  # what a solve may hold of n x M; above, it streams
STEP = 80.0  # nats a price may rise at once: below exp(-87) of its weight, f32 does not know how little arrives
ROUGH = 0.05  # marginal error at which eps falls on: more exact prices of a softer problem are soon forgotten


@dataclass(frozen=True)
class Prices:
    """What `solve_prices` found.

    Attributes:
        price: f64[M], in units of cost, with sum_j b_j price_j = 0; 0 where b_j is.
        iterations: over all levels of eps.
        marginal_error: sum_j |mass that arrives at j - mass wanted there|, of 1.
        arriving: f64[M], mass that arrives at each target, of 1: b_j within the error, or what the slack lets by.
    """

    price: np.ndarray
    iterations: int
    marginal_error: float
    arriving: np.ndarray


def median_cost(x: np.ndarray, y: np.ndarray, most: int = 1024) -> float:
    """Median of c(x_i, y_j) over the first `most` rows of each; the unit in which eps is given. At least 1e-3.

    Raises:
        InputError: a side is empty, or the widths differ.
    """
    _check_sides(x, y)
    with one_thread():
        cost = 2.0 - 2.0 * (tensor(x[:most]).double() @ tensor(y[:most]).double().T)
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
    slack: float | None = None,
    start: np.ndarray | None = None,
    held_bytes: int = HELD_BYTES,
    device: str = "cpu",
) -> Prices:
    """Sinkhorn's algorithm for the prices of y, in the dtype of x (f32 for use, f64 for tests).

    eps falls from the largest cost by factors of `annealing`, each level starting from the last one's prices. A
    target's mass may be let slip at a cost of slack * KL(arriving | b) (semi-unbalanced transport, Chizat et al. 2018,
    with the constant on all prices at its optimum in every step, Séjourné et al. 2022): then no target pays more than
    about slack times the logarithm of how much more it wants than it gets.

    Args:
        x: [n, d], unit L2 norm.
        y: [M, d], unit L2 norm, same dtype.
        a: [n], weights that sum to 1; None is uniform. Zeros are allowed.
        b: [M], likewise.
        epsilon: in units of cost.
        tolerance: of the marginal error at which to stop.
        max_iterations: over all levels; `marginal_error` says how far it came.
        annealing: in (0, 1).
        slack: in units of cost; lower lets noisy targets pay less, None holds every target to its weight.
        start: f64[M], prices of a problem nearby, in units of cost; eps then does not fall, it is `epsilon` at once.
        held_bytes: 2 n M numbers are held in memory where they fit in here; else an iteration streams over x.
        device: cpu, or a torch device, which holds x and y in f16: for n M of 10^9 and more.

    Raises:
        InputError: the widths of x and y differ, a weight is negative or all are zero, or an option is out of range.
    """
    _check(x, y, epsilon, slack, start)
    a_, b_ = _weights("a", a, len(x)), _weights("b", b, len(y))
    wanted = b_ > 0
    held = 2 * x.dtype.itemsize * len(x) * int(wanted.sum()) <= held_bytes
    with one_thread():
        plan: Plan
        if device != "cpu":
            plan = DevicePlan(x, y[wanted], a_, b_[wanted], device)
        else:
            plan = (HeldPlan if held else StreamedPlan)(x, y[wanted], a_, b_[wanted])
        solve = _Solve(plan, b_[wanted], np.inf if slack is None else slack, max_iterations)
        if start is not None:
            solve.price = np.asarray(start, np.float64)[wanted]
        for eps in _levels(x, y, epsilon, annealing) if start is None else [epsilon]:
            solve.run(eps, tolerance if eps == epsilon else max(ROUGH, tolerance))
    price, arriving = np.zeros(len(y)), np.zeros(len(y))
    price[wanted] = solve.price - b_[wanted] @ solve.price
    arriving[wanted] = solve.arriving
    return Prices(price, solve.iterations, solve.error, arriving)


class _Solve:
    """State of the iteration over prices f64[M]."""

    def __init__(self, plan: Plan, b: np.ndarray, slack: float, most: int) -> None:
        self.plan, self.b, self.slack, self.most = plan, b, slack, most
        self.price = np.zeros(len(b))
        self.arriving = np.zeros(len(b))
        self.error, self.iterations = np.inf, 0

    def run(self, eps: float, tolerance: float) -> None:
        """Iterate at one eps until what arrives is what is wanted, or the iterations are spent."""
        damping = 1.0 if np.isinf(self.slack) else self.slack / (self.slack + eps)
        while True:
            self.arriving = self.plan.arriving(self.price, eps)
            self.error = float(np.abs(self.arriving - self._wanted()).sum())
            self.iterations += 1
            if self.error <= tolerance or self.iterations >= self.most:
                return
            with np.errstate(divide="ignore"):
                lack = np.minimum(-np.log(self.arriving / self.b), STEP)
            self.price = damping * (self.price + eps * lack)
            self.price -= self.b @ self.price

    def _wanted(self) -> np.ndarray:
        """Mass wanted at these prices: b, or b exp(-price / slack), which a constant on all prices brings to sum 1."""
        if np.isinf(self.slack):
            return self.b
        logits = -self.price / self.slack
        mass = self.b * np.exp(logits - logits.max())
        return mass / mass.sum()


def _levels(x: np.ndarray, y: np.ndarray, epsilon: float, annealing: float) -> Iterator[float]:
    """From about the largest cost down to epsilon."""
    some = tensor(x[:1024]).double() @ tensor(y[:1024]).double().T
    eps = float(2.0 - 2.0 * some.min())
    while eps > epsilon:
        yield eps
        eps *= annealing
    yield epsilon


def _weights(name: str, given: np.ndarray | None, n: int) -> np.ndarray:
    if given is None:
        return np.full(n, 1 / n)
    weights = np.asarray(given, np.float64)
    if weights.shape != (n,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise InputError(f"weights {name}", f"must be {n} numbers of 0 or more, not all 0", got=weights)
    return weights / weights.sum()


def _check(x: np.ndarray, y: np.ndarray, epsilon: float, slack: float | None, start: np.ndarray | None) -> None:
    _check_sides(x, y)
    for name, value in (("epsilon", epsilon), ("slack", slack)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(name, "must be a positive number", got=value)
    if start is not None and np.shape(start) != (len(y),):
        raise InputError("start", f"must be one price for each of {len(y)} targets", got=np.shape(start))


def _check_sides(x: np.ndarray, y: np.ndarray) -> None:
    if not len(x) or not len(y):
        raise InputError("transport", "needs at least one reference row and one target", got=(len(x), len(y)))
    if x.shape[1:] != y.shape[1:]:
        raise InputError(
            "targets",
            f"must have vectors as wide as the reference's, {x.shape[1]}",
            got=y.shape[1],
            next_step="Embed both with one encoder",
        )
