"""How far a row is worded like the target rows that it serves: what its vector does not tell.

A vector says what a row is about and forgets most of how it is put. N-gram weights (DSIR) know that alone, and taken
over a whole target they also say which part of it a row is of, against what prices say: of a target half news and half
code, all code is worded more like the target than any news. So each row is measured beside the part of the target that
it serves: between parts phrasing has nothing to say, within a part everything.

Source: the weights are Xie et al. 2023 (DSIR), section 3; the comparison with the part served is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline.ngrams import bucket_counts, held_out_log_weights, log_ratio, log_weights
from mixtura.pipeline.transport import SoftDistances

BUCKETS, PSEUDO_COUNT = 10_000, 1.0  # of n-grams: dsir's defaults
PART = 0.2  # of the median cost: how far target rows may lie apart and be of one part
ALIKE = 1e-6  # nats: a spread of rounding alone
BLOCK = 1 << 20  # numbers of the targets' costs in memory at once


@dataclass(frozen=True)
class Phrasing:
    """What is known of a target's n-grams.

    Attributes:
        ratio: i64[buckets], see `ngrams.log_ratio`, of the target and the pool.
        target: f64[M], nats per n-gram of the part that each target row is of.
        mean: nats per n-gram, of the texts with a word in a sample of the pool, each beside the part it serves.
        scale: units of cost per nat: the standard deviation of the sample's soft distances over that of the same.
    """

    ratio: np.ndarray
    target: np.ndarray
    mean: float = 0.0
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
        found, worded = cls(ratio, parts)._found(pool, served)
        if not wanted.sum() or not worded.any():
            return None
        mean, spread = float(found[worded].mean()), float(found[worded].std())
        return cls(ratio, parts, mean, float(served.soft.std()) / spread) if spread >= ALIKE else None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Phrasing | None:
        """From what `arrays` and `facts` gave; None where there is none."""
        if "phrasing_ratio" not in arrays:
            return None
        numbers = (facts[f"phrasing_{name}"] for name in ("mean", "scale"))
        return cls(arrays["phrasing_ratio"], arrays["phrasing_target"], *numbers)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """For a selector's `Fitted`."""
        return {"phrasing_ratio": self.ratio, "phrasing_target": self.target}

    @property
    def facts(self) -> dict[str, float]:
        """Likewise."""
        return {"phrasing_mean": self.mean, "phrasing_scale": self.scale}

    def beyond(self, texts: pl.Series, served: SoftDistances) -> np.ndarray:
        """f64[n], nats per n-gram that each text is likelier the target's, less the same of the part it serves.

        The pool's mean where there is no word.

        Args:
            texts: of n rows.
            served: of the same rows, their `targets` kept.
        """
        found, worded = self._found(texts, served)
        return np.where(worded, found, self.mean)

    def cost(self, beyond: np.ndarray) -> np.ndarray:
        """f64[n], in units of cost: 0 for a row as usual in the pool, lower for one worded more like what it serves."""
        return self.scale * (self.mean - beyond)

    def _found(self, texts: pl.Series, served: SoftDistances) -> tuple[np.ndarray, np.ndarray]:
        """As `beyond`, and whether a text has a word at all, bool[n]."""
        assert served.targets is not None
        assert served.shares is not None
        shares = served.shares.astype(np.float64)  # 0 where there are no more targets
        theirs = (shares * self.target[served.targets]).sum(1) / shares.sum(1)
        weight, count = log_weights(texts, self.ratio)
        return weight / np.maximum(count, 1) - theirs, count > 0


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
