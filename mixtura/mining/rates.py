"""How sure one may be of a rate, and of several comparisons at once."""

from __future__ import annotations

import numpy as np
from scipy import stats


def clopper_pearson(passed: int, tried: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate; (0, 1) where nothing was tried.

    Source: Clopper and Pearson 1934; each side misses with at most (1 - confidence) / 2.
    """
    alpha = 1 - confidence
    low = stats.beta.ppf(alpha / 2, passed, tried - passed + 1) if passed else 0.0
    high = stats.beta.ppf(1 - alpha / 2, passed + 1, tried - passed) if passed < tried else 1.0
    return float(low), float(high)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p values, f64[n]: those at most q are false in a share of q on average.

    Source: Benjamini and Hochberg 1995, under independence or positive dependence of the tests.
    """
    n = len(p)
    order = np.argsort(p)
    stepped = p[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(stepped[::-1])[::-1])
    return adjusted
