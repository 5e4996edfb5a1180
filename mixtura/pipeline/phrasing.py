"""How far a row is worded like the target rows that it serves: what its vector does not tell.

A vector says what a row is about and forgets most of how it is put. N-gram weights (DSIR) know that alone, and taken
over a whole target they also say which part of it a row is of, against what prices say: of a target half news and half
code, all code is worded more like the target than any news. So each row is measured beside the part of the target that
it serves: between parts phrasing has nothing to say, within a part everything.

A short text is worded like the target by chance more easily than a long one, and picks are the extremes: without a
remedy the best of many rows are short and lucky. So a text's weight is believed only as far as its length bears it.

Source: the weights are Xie et al. 2023 (DSIR), section 3; the belief is the linear empirical Bayes estimate (Efron and
Morris 1973), its two variances fitted to the pool; the comparison with the part served is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import nnls

from mixtura.pipeline.ngrams import bucket_counts, held_out_log_weights, log_ratio, log_weights
from mixtura.pipeline.transport import SoftDistances

BUCKETS, PSEUDO_COUNT = 10_000, 1.0  # of n-grams: dsir's defaults
PART = 0.2  # of the median cost: how far target rows may lie apart and be of one part
ALIKE = 1e-6  # nats: a spread of rounding alone
FITS = 3  # times that the variances are fitted, each with the weights that the one before gives
BLOCK = 1 << 20  # numbers of the targets' costs in memory at once


@dataclass(frozen=True)
class Phrasing:
    """What is known of a target's n-grams.

    Attributes:
        ratio: i64[buckets], see `ngrams.log_ratio`, of the target and the pool.
        target: f64[M], nats per n-gram of the part that each target row is of.
        mean: nats per n-gram, of all texts of a sample of the pool, each beside the part it serves.
        doubt: n-grams of which a text needs as many for half of what sets it apart to be believed.
        scale: units of cost per nat: its standard deviation there beside the soft distance's.
    """

    ratio: np.ndarray
    target: np.ndarray
    mean: float = 0.0
    doubt: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(
        cls,
        *,
        target: pl.Series,
        vectors: np.ndarray,
        width: float,
        pool: pl.Series,
        served: SoftDistances,
    ) -> Phrasing | None:
        """From texts; None where they tell nothing: a target without a word, or a pool all worded alike.

        Args:
            target: of the target's rows.
            vectors: f32[M, d] of the same, unit L2 norm.
            width: PART in units of cost.
            pool: of a sample of the pool.
            served: soft distances of that sample, with the targets that its rows serve.
        """
        wanted, present = (bucket_counts(texts, BUCKETS) for texts in (target, pool))
        ratio = log_ratio(wanted, present, PSEUDO_COUNT)
        # a target row's n-grams are likelier in the target for its being there; no other row has that
        parts = of_parts(held_out_log_weights(target, present, PSEUDO_COUNT), vectors, width)
        found, count = cls(ratio, parts)._found(pool, served)
        if not wanted.sum() or not count.any():
            return None
        mean = float(found[count > 0].mean())
        known = cls(ratio, parts, mean, doubt_of(found - mean, count))
        spread = float(known._believed(found, count).std())
        return replace(known, scale=float(served.soft.std()) / spread) if spread >= ALIKE else None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Phrasing | None:
        """From what `arrays` and `facts` gave; None where there is none."""
        if "phrasing_ratio" not in arrays:
            return None
        numbers = (facts[f"phrasing_{name}"] for name in ("mean", "doubt", "scale"))
        return cls(arrays["phrasing_ratio"], arrays["phrasing_target"], *numbers)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """For a selector's `Fitted`."""
        return {"phrasing_ratio": self.ratio, "phrasing_target": self.target}

    @property
    def facts(self) -> dict[str, float]:
        """Likewise."""
        return {"phrasing_mean": self.mean, "phrasing_doubt": self.doubt, "phrasing_scale": self.scale}

    def beyond(self, texts: pl.Series, served: SoftDistances) -> np.ndarray:
        """f64[n], nats per n-gram that each text is likelier the target's, less the same of the part it serves.

        What the text's length does not bear is replaced by the pool's mean, all of it where there is no word.

        Args:
            texts: of n rows.
            served: of the same rows, their `targets` kept.
        """
        return self._believed(*self._found(texts, served))

    def cost(self, beyond: np.ndarray) -> np.ndarray:
        """f64[n], in units of cost: 0 for a row as usual in the pool, lower for one worded more like what it serves."""
        return self.scale * (self.mean - beyond)

    def _found(self, texts: pl.Series, served: SoftDistances) -> tuple[np.ndarray, np.ndarray]:
        """As `beyond` at any length, and n-grams of each text."""
        assert served.targets is not None
        assert served.shares is not None
        shares = served.shares.astype(np.float64)  # 0 where there are no more targets
        theirs = (shares * self.target[served.targets]).sum(1) / shares.sum(1)
        weight, count = log_weights(texts, self.ratio)
        return weight / np.maximum(count, 1) - theirs, count

    def _believed(self, found: np.ndarray, count: np.ndarray) -> np.ndarray:
        """The mean, and of what a text is beside it the share that its length bears."""
        share = count / np.maximum(count + self.doubt, 1)
        return self.mean + np.where(count > 0, found - self.mean, 0.0) * share


def doubt_of(deviation: np.ndarray, count: np.ndarray) -> float:
    """How many observations a mean needs for half of its deviation to be its own: noise over spread.

    A mean of n observations deviates by spread + noise / n, squared, on average: both are fitted by least squares, each
    row weighed by what the last fit expects of it. Never more than the median count: lengths that hardly differ cannot
    tell noise from spread.

    Args:
        deviation: f64[n], of each mean from the mean of all.
        count: i64[n], observations behind each, some above 0; those without any are left out.
    """
    squared, inverse = deviation[count > 0] ** 2, 1.0 / count[count > 0]
    most = float(np.median(count[count > 0]))
    if not squared.any():
        return most
    squared = squared / squared.mean()  # so that the answer is of no unit
    terms = np.stack([np.ones_like(inverse), inverse], axis=1)
    weight = np.ones_like(inverse)
    spread = noise = 0.0
    for _ in range(FITS):
        (spread, noise), _ = nnls(terms * weight[:, None], squared * weight)
        weight = 1.0 / np.maximum(terms @ (spread, noise), ALIKE**2)
    return min(float(noise / spread), most) if spread > 0 else most


def of_parts(value: np.ndarray, vectors: np.ndarray, width: float) -> np.ndarray:
    """f64[M], mean of a value over the rows about each: weights are exp(-c / width), c the squared distance.

    Args:
        value: f64[M].
        vectors: f32[M, d], unit L2 norm.
        width: in units of cost.
    """
    found = []
    rows = max(1, BLOCK // len(vectors))
    for start in range(0, len(vectors), rows):
        cost = 2.0 - 2.0 * (vectors[start : start + rows] @ vectors.T).astype(np.float64)
        weight = np.exp(-cost / width)
        found.append(weight @ value / weight.sum(1))
    return np.concatenate(found)
