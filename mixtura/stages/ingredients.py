"""All that a mixture is written from, as the stages before left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mixtura.pipeline.mixture import PoolShard
from mixtura.stages.choose import Embedded, Picked
from mixtura.stages.gather import Pool, Unit, sources_of
from mixtura.stages.mark import Marked
from mixtura.stages.plan import Plan
from mixtura.store import Artefact


@dataclass(frozen=True)
class Ingredients:
    """Pool, vectors, picks and rows of one mixture; `marked` where answers carry an indicator."""

    pool: Pool
    embedded: Embedded
    picked: Sequence[Picked]
    mixed: Artefact
    marked: Marked | None = None

    @property
    def rows(self) -> pl.DataFrame:
        """The mixture's rows in order; with their marks, where there are any."""
        return pl.read_parquet(self.mixed.file("mixed.parquet")) if self.marked is None else self.marked.mixed

    @property
    def digests(self) -> list[str]:
        """Digests of everything that reaches the mixture's bytes."""
        pool = self.pool
        drawn = pool.drawn.values()
        units = [u for owner in (pool, *drawn) for u in owner.units]
        return [
            self.mixed.digest,
            *(a.digest for u in units for a in (u.ingest, *u.clean)),
            *(p.rows.digest for owner in (pool, *drawn) for p in owner.parts),
            *(d.rows.digest for d in drawn),
            *(a.digest for a in pool.surveyed),
            *(a.digest for p in self.picked for _, a in p.scored.scores),
            *(p.scored.fitted.digest for p in self.picked),
            *(a.digest for a in (*self.embedded.parts, *self.embedded.drawn.values())),
            *([self.marked.made.digest] if self.marked else []),
        ]


def units_of(plan: Plan, pool: Pool) -> dict[str, list[Unit]]:
    """Units of every source and build, those of the samples last."""
    everything = [*pool.units, *(u for d in pool.drawn.values() for u in d.units)]
    names = dict.fromkeys([*plan.recipe.pool_names(), *sources_of(plan)])
    return {n: [u for u in everything if u.source == n] for n in names}


def scored_shards(plan: Plan, parts: Ingredients) -> list[PoolShard]:
    """The pool's parts that a selection may read, each with its scores under every selection that read it."""
    open_parts = parts.pool.of(plan.recipe.chosen_from())
    scores: dict[str, dict[str, str]] = {p.path: {} for p in open_parts}
    for picked in parts.picked:
        for part, artefact in picked.scored.scores:
            scores[part.path][picked.word] = str(artefact.file("scores.parquet"))
    target = parts.pool.target
    ids = () if target is None else tuple(pl.read_parquet(target.rows.file("chosen.parquet"), columns=["id"])["id"])
    return [PoolShard(p.path, scores[p.path], ids) for p in open_parts]
