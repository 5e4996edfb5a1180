"""Logits of targets, and distances from their sums: what every device's arithmetic has in common.

A logit is in bits, log2 of a target's weight in a row's sum: exp2 takes half the time of exp.

    z_ij = scale <x_i, y_j> + added_j = log2(b_j exp((g_j - c(x_i, y_j)) / eps))
"""

from __future__ import annotations

import math

import numpy as np


class Logits:
    """What does not depend on the rows.

    Args:
        y: f32[M, d].
        price: f64[M], in units of cost.
        b: f64[M], sums to 1.
        epsilon: in units of cost.
        groups: i32[M] in order, or None.

    Attributes:
        bit: in units of cost.
        change: f64[M], what turns a logit under prices into one without.
        slices: where each group's targets are; group: i64[M].
    """

    def __init__(
        self, y: np.ndarray, price: np.ndarray, b: np.ndarray, epsilon: float, groups: np.ndarray | None
    ) -> None:
        self.y, self.bit, self.grouped, self.priced = y, epsilon * math.log(2), groups is not None, bool(price.any())
        self.scale = 2.0 / self.bit
        with np.errstate(divide="ignore"):  # a weight of 0 adds -inf, and exp2(-inf) is 0
            self.added = (price - 2.0) / self.bit + np.log2(b)
        self.change = -price / self.bit
        self.group = np.zeros(len(y), np.int64) if groups is None else np.asarray(groups, np.int64)
        ends = np.cumsum(np.bincount(self.group)).tolist()
        self.slices = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self.log_weight = np.log2([b[g].sum() for g in self.slices])

    def cost(self, logit: np.ndarray, target: np.ndarray) -> np.ndarray:
        """c(x, y), f32: what prices and weights added to a logit is taken off again."""
        return (2.0 - self.bit * (logit - self.added[target])).astype(np.float32)

    def best(self, top: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each row, the largest logit over all groups, and the target that has it; arguments as of `distances`."""
        at = np.arange(len(top)), top.argmax(1)
        return top[at], (target + [g.start for g in self.slices])[at]

    def distances(
        self, top: np.ndarray, mass: np.ndarray, target: np.ndarray, plain: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Fields of `SoftDistances`.

        Args:
            top: f[n, G], the largest logit of each group.
            mass: f64[n, G], sum of exp2(logit - top).
            target: i64[n, G], where the largest is, counted within the group.
            plain: f64[n, G], log2 of the sum without prices; read only where there are prices.
        """
        of_group = top + np.log2(mass)
        log_mass = log_of_sum(of_group)
        logit, nearest = self.best(top, target)
        soft = -self.bit * log_mass
        found = {
            "soft": soft,
            "soft_unpriced": -self.bit * log_of_sum(plain) if self.priced else soft,
            "target": nearest,
            "share": np.exp2(logit - log_mass).astype(np.float32),
            "distance": self.cost(logit, nearest),
        }
        return found | ({"soft_by_group": -self.bit * (of_group - self.log_weight)} if self.grouped else {})


def log_of_sum(logs: np.ndarray) -> np.ndarray:
    """f64[n], log2 sum exp2 over columns; of one column, that column's own bits."""
    if logs.shape[1] == 1:
        return logs[:, 0]
    top = logs.max(1, keepdims=True)
    return top[:, 0] + np.log2(np.exp2(logs - top).sum(1))
