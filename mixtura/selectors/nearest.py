"""Nearest: soft distance to the nearest target rows. Nudging without prices, and its essential control."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, pack_ids, rows_of, unpack_ids, vectors_of
from mixtura.pipeline.transport import median_cost, soft_distances
from mixtura.recipe import Positive


class Spec(contract.Spec):
    """Options of nearest."""

    epsilon: Positive = Field(
        0.1,
        description="Softness, in units of the median cost of sample and target: near 0 only the very nearest target "
        "counts, higher prefers rows with many targets near.",
    )


class Nearest:
    """score = eps log sum_j b_j exp(-|x - y_j|^2 / eps): at most 0, higher is nearer."""

    name: ClassVar[str] = "nearest"
    source: ClassVar[str] = "soft k-nearest neighbours: Kang et al. 2024 (GOT-D), equation of the dual with g = 0"
    needs: ClassVar[Needs] = Needs(vectors=True, target=True)
    scale: ClassVar[Scale] = "rank"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Keep the targets; the sample only says what a usual distance is."""
        rows = rows_of(self.name, self.needs, target, "target")
        y = vectors_of(self.name, self.needs, target, "target")
        usual = median_cost(vectors_of(self.name, self.needs, sample, "sample"), y)
        arrays = {"target": y, "target_id": pack_ids(rows["id"])}
        facts = {"target_rows": len(y), "median_cost": usual, "epsilon": spec.epsilon * usual}
        return Fitted(arrays, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, nearest_target_id, share, distance`.

        `share` is how much of the score that target makes; `distance` is the squared distance to it, 0 to 4.
        """
        x = vectors_of(self.name, self.needs, shard, "shard")
        targets = fitted.arrays["target"]
        found = soft_distances(x, targets, np.zeros(len(targets)), epsilon=fitted.facts["epsilon"])
        return pl.DataFrame(
            {
                "id": shard.rows["id"],
                "score": -found.soft,
                "nearest_target_id": unpack_ids(fitted.arrays["target_id"]).gather(found.target),
                "share": found.share,
                "distance": found.distance,
            }
        )


SELECTOR = Nearest()
