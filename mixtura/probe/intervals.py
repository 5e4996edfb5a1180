"""Paired differences with intervals over seeds and rows, and what remains of them after several comparisons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 4_000


@dataclass(frozen=True)
class Difference:
    """How much better the one is than the other; positive is better.

    mean: in bits per byte. low, high: 95 % interval. p: two-sided, of no difference; at least 1 / DRAWS.
    """

    mean: float
    low: float
    high: float
    p: float


def bits_per_byte(nats: np.ndarray, size: np.ndarray) -> float:
    """Of all rows together.

    Args:
        nats: f64[..., rows].
        size: f64[rows], bytes.
    """
    return float(nats.sum() / np.log(2) / (size.sum() * max(nats.size // max(len(size), 1), 1)))


def difference(theirs: np.ndarray, ours: np.ndarray, size: np.ndarray, *, seed: int = 0) -> Difference:
    """Bootstrap of `theirs - ours` over seeds and, within all, over rows (Owen 2007: the pigeonhole bootstrap).

    Rows and seeds are crossed: every seed is measured on the same rows, so both are drawn with replacement, together.
    Its interval is conservative where rows and seeds act independently. With three seeds an interval is a coarse one.

    Args:
        theirs: f64[seeds, rows], nats of each row under the other.
        ours: alike.
        size: f64[rows], bytes.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    gain = (theirs - ours) / np.log(2)
    seeds, rows = gain.shape
    drawn = np.empty(DRAWS)
    for i in range(DRAWS):
        some = rng.integers(rows, size=rows)
        drawn[i] = gain[rng.integers(seeds, size=seeds)][:, some].mean(0).sum() / size[some].sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
    return Difference(gain.mean(0).sum() / size.sum(), float(low), float(high), max(2 * float(tail), 1 / DRAWS))


def holm(p: dict[str, float]) -> dict[str, float]:
    """p-values that hold for all comparisons together (Holm 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, value * (len(p) - i)))
        adjusted[name] = largest
    return adjusted
