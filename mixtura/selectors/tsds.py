"""TSDS: each target spreads its mass over the rows nearest to it, as far as diversity is worth the distance.

A row in a crowd of near-duplicates takes a share of what one row would. The optimum has a closed form: one level tells
how much a row may take from one target, and each target one radius within which rows take it. Level and radii are
found on a sample of the pool; any row is then weighed by itself.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, pack_ids, rows_of, unpack_ids, vectors_of
from mixtura.pipeline.spread import Spread, densities, distances, spread, weigh
from mixtura.recipe import Positive

BEHIND = 20.0  # nats by which rows outside all radii lie behind the lightest inside: Gumbel noise rarely exceeds 15


class Spec(contract.Spec):
    """Options of tsds."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Near 1 only the nearest rows count; near 0 every row counts as much."
    )
    distance_unit: Positive = Field(
        default=1.0,  # the authors' configuration: "in the same scale as the norm of the embeddings", here 1
        description="The paper's C: a distance that counts as much as full diversity. Higher spreads over more rows.",
    )
    sigma: Positive = Field(
        default=0.75, description="Distance below which rows crowd one another; vectors have unit norm."
    )
    sample_rows: PositiveInt = Field(
        default=5000,
        description="Pool rows that stand for the pool: more place the radii better, and cost "
        "time in proportion; memory is 44 bytes times these times the target rows.",
    )


class Tsds:
    """score = log of a row's probability under the optimal plan from the targets, up to a constant.

    Rule 'gumbel' of `pick` draws rows by it without replacement, where the paper draws with it: no row comes twice.
    A row that no target reaches has probability 0 in the paper; here it lies `BEHIND` nats behind those that are
    reached, by its distance, so that any budget has an answer.

    Differs further: a pool beyond `sample_rows` is weighed by its sample; unit vectors; exact distances to every
    sampled row, where the paper's code searches an approximate index for a few thousand.
    """

    name: ClassVar[str] = "tsds"
    source: ClassVar[str] = "Liu, Karbasi, Rekatsinas 2024, TSDS, algorithm KNN-KDE; arXiv:2410.11303"
    needs: ClassVar[Needs] = Needs(vectors=True, target=True)
    scale: ClassVar[Scale] = "log_weight"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Solve the plan on the sample; the reference plays no part."""
        ids = rows_of(self.name, self.needs, target, "target")["id"]
        y = vectors_of(self.name, self.needs, target, "target")
        x = vectors_of(self.name, self.needs, sample, "sample")[: spec.sample_rows]
        sample_ids = rows_of(self.name, self.needs, sample, "sample")["id"][: spec.sample_rows]
        density = densities(x, x, spec.sigma, own=np.arange(len(x)))
        plan = spread(distances(x, y), density, alpha=spec.alpha, unit=spec.distance_unit)
        reached = weigh(plan, x, y, density).probability > 0
        facts = {
            "sample_rows": len(x),
            "target_rows": len(y),
            "level": plan.level,
            "median_radius": round(float(np.median(np.minimum(plan.radius, 2))), 6),
            "near_duplicates": round(float(density.mean() - 1), 6),  # of a row of the sample, on average
            "rows_reached": int(reached.sum()),
        }
        arrays = {"target": y, "sample": x, "radius": plan.radius, "at_radius": plan.at_radius}
        return Fitted(arrays | {"target_id": pack_ids(ids), "sample_id": pack_ids(sample_ids)}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, nearest_target_id, distance, targets_reaching, near_duplicates`.

        `distance` (0 to 2) is to the nearest target; `targets_reaching` counts those that spread to the row;
        `near_duplicates` is the row's crowd in the sample, each neighbour by its nearness.
        """
        x, a = vectors_of(self.name, self.needs, shard, "shard"), fitted.arrays
        plan = Spread(fitted.facts["level"], a["radius"], a["at_radius"])
        density = densities(x, a["sample"], spec.sigma, own=_places(shard.rows["id"], unpack_ids(a["sample_id"])))
        found = weigh(plan, x, a["target"], density)
        lightest = -np.log(plan.level * len(a["target"]) * (len(a["sample"]) + 1))
        with np.errstate(divide="ignore"):
            outside = lightest - BEHIND - np.maximum(found.beyond, 0)
            score = np.where(found.probability > 0, np.log(found.probability), outside)
        return pl.DataFrame(
            {
                "id": shard.rows["id"],
                "score": score,
                "nearest_target_id": unpack_ids(a["target_id"]).gather(found.nearest),
                "distance": found.distance,
                "targets_reaching": found.reaching,
                "near_duplicates": density - 1,
            }
        )


def _places(ids: pl.Series, sample: pl.Series) -> np.ndarray:
    """i64[n], where each row stands in the sample; -1 for one outside."""
    at = pl.DataFrame({"id": sample, "at": np.arange(len(sample))})
    found = ids.to_frame("id").join(at, on="id", how="left", maintain_order="left")
    return found["at"].fill_null(-1).to_numpy()


SELECTOR = Tsds()
