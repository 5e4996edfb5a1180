"""RDS: rows whose hidden states in a causal LM lie in the direction of a target row's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl

from mixtura.pipeline import lm
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, pack_ids, rows_of, unpack_ids
from mixtura.pipeline.index import Index

KEPT = 8  # targets kept per row, for a rule that goes round them


class Spec(lm.Spec):
    """Options of rds: those of the language model."""


class Rds:
    """score = the cosine to the nearest target of the position-weighted mean of last hidden states.

    Rule 'round_robin' of `pick` is the paper's: targets take turns, each taking the row nearest to it that is left. It
    goes by the columns `targets` and `costs`, so a row is on offer to its nearest targets only, where the paper keeps
    all pairs. Rule 'top' takes the rows nearest to any target.

    Differs from the paper: turns of a conversation are joined by newlines, without a chat template.
    """

    name: ClassVar[str] = "rds"
    source: ClassVar[str] = "Ivison et al. 2025, Large-Scale Data Selection for Instruction Tuning (RDS+), section 3"
    needs: ClassVar[Needs] = Needs(target=True, columns=("plain",), model=True)
    scale: ClassVar[Scale] = "rank"
    rules: ClassVar[tuple[str, ...]] = ("round_robin",)
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Read the targets; the pool's sample and the reference play no part.

        Raises:
            InputError: there is no target, or the model is unfit.
        """
        rows = rows_of(self.name, self.needs, target, "target")
        states, read = lm.open_model(spec).pooled(rows["plain"].to_list())
        facts = {"target_rows": rows.height, "target_tokens": int(read.sum()), "dimensions": states.shape[1]}
        return Fitted({"target": states, "target_id": pack_ids(rows["id"])}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, nearest_target_id, tokens_read, targets, costs`.

        `targets` (list[i32], positions among the target rows sorted by id) are the row's nearest, up to eight, and
        `costs` (list[f32]) one minus the cosine to each, 0 to 2, ascending. A row without a token has cosine 0.
        """
        rows = rows_of(self.name, self.needs, shard, "shard")
        states, read = lm.open_model(spec).pooled(rows["plain"].to_list())
        cosine, nearest = Index(fitted.arrays["target"], device="cpu").search(states, KEPT)
        return pl.DataFrame(
            {
                "id": rows["id"],
                "score": cosine[:, 0].astype(np.float64),
                "nearest_target_id": unpack_ids(fitted.arrays["target_id"]).gather(nearest[:, 0]),
                "tokens_read": read,
                "targets": pl.Series(nearest.astype(np.int32)).cast(pl.List(pl.Int32)),
                "costs": pl.Series(1 - cosine).cast(pl.List(pl.Float32)),
            }
        )


SELECTOR = Rds()
