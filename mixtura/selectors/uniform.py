"""Uniform: every row has the same chance. The baseline that stands in every comparison.

A row's draw is keyed by its id and the seed, so the pick does not depend on how the pool was cut or ordered, and a
pool that grows keeps the draws of the rows it had.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl

from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of
from mixtura.pipeline.hashing import unit_noise


class Spec(contract.Spec):
    """No options: the seed is the recipe's."""


class Uniform:
    """score = log(draw), draw uniform in (0, 1): the best n are a simple random sample of n.

    Every rule of `pick` then samples uniformly, Gumbel noise included, so that exchanging the word of another
    selector for `uniform` changes nothing else in a recipe.
    """

    name: ClassVar[str] = "uniform"
    source: ClassVar[str] = "simple random sampling without replacement"
    needs: ClassVar[Needs] = Needs()
    scale: ClassVar[Scale] = "log_weight"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Remember the seed."""
        return Fitted(facts={"seed": seed})

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, draw`: the draw is the row's number in (0, 1)."""
        rows = rows_of(self.name, self.needs, shard, "shard")
        draw = unit_noise(rows["id"], fitted.facts["seed"], "uniform")
        return pl.DataFrame({"id": rows["id"], "score": np.log(draw), "draw": draw})


SELECTOR = Uniform()
