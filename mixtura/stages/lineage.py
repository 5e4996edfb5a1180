"""What builds did, for the books: which rows they read, what became of them, and how many they made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mixtura import recipe_file
from mixtura.errors import CountError
from mixtura.pipeline.leaks import find_leaks
from mixtura.pipeline.summary import BuildFacts, LeakFacts, StageFacts
from mixtura.recipe import NearDedup
from mixtura.rows import CONTENT
from mixtura.stages.gather import Part, Pool, Unit
from mixtura.stages.plan import Plan

BUILT = "built"  # kind of artefact that a build leaves in the place of ingest's
USED = "built-upon"  # why a row that a build read is not itself in the mixture


def material_ends(plan: Plan, pool: Pool) -> pl.DataFrame:
    """Ends of the rows that builds read and no selection may choose: `id, fate, stage, reason`."""
    chosen = {name for s in plan.recipe.select for name in plan.recipe.sources_of(s)}
    closed = [p for p in pool.parts if p.source not in chosen]
    ids = pl.concat([_ids(p) for p in closed]) if closed else pl.DataFrame(schema={"id": pl.String})
    used = pl.when(pl.col("built") > 0).then(pl.lit(USED)).otherwise(pl.col("reason"))
    ends = ids.join(_turned(pool.units), on="id", how="inner", maintain_order="left").with_columns(reason=used)
    return ends.select("id", "reason", fate=pl.lit("dropped"), stage=pl.lit("build"))


def stage_facts(plan: Plan, pool: Pool, raw_rows: int) -> StageFacts | None:
    """The books of the build stage: rows of the pool in; they and the new ones out, less what only served builds."""
    if not plan.recipe.build:
        return None
    units = _built(pool.units)
    made = sum(u.ingest.facts["rows"] for u in units)
    dropped = dict(material_ends(plan, pool)["reason"].value_counts().iter_rows())
    for reason, n in (item for u in units for a in u.clean for item in a.facts["dropped"].items()):
        dropped[reason] = dropped.get(reason, 0) + n
    for part in pool.of([b.word for b in plan.recipe.build]):
        for reason, n in pl.read_parquet(part.drops, columns=["reason"])["reason"].value_counts().iter_rows():
            dropped[reason] = dropped.get(reason, 0) + n
    written = raw_rows + made - sum(dropped.values())
    return StageFacts("build", raw_rows, written, dict(sorted(dropped.items())), made=made)


def build_facts(plan: Plan, pool: Pool) -> tuple[BuildFacts, ...]:
    """What each build read, made and refused, in the recipe's order."""
    return tuple(
        _facts(plan, i, [u for u in _built(pool.units) if u.source == spec.word], pool.surveyed[i].facts)
        for i, spec in enumerate(plan.recipe.build)
    )


def leak_facts(plan: Plan, pool: Pool, folder: Path) -> LeakFacts | None:
    """Whether anything of the built rows that were written is on more than one side of the splits.

    Raises:
        CountError: rows of one parent are in several splits; a fault of ours.
    """
    if not plan.recipe.build:
        return None
    files = sorted(folder.glob("*/*-of-*.parquet"))
    splits = pl.concat([pl.read_parquet(p, columns=["id"]).with_columns(split=pl.lit(p.parent.name)) for p in files])
    columns = ["id", "parents", "meta", "messages", "text"]
    made = pool.of([b.word for b in plan.recipe.build])
    rows = pl.concat([pl.read_parquet(p.path, columns=columns).join(splits, on="id") for p in made])
    wanted = rows.select(id=pl.col("parents").explode()).unique()
    content = ["id", *CONTENT]
    found = [pl.read_parquet(p.path, columns=content).join(wanted, on="id", how="semi") for p in pool.parts]
    near = plan.recipe.clean.near_dedup or NearDedup()
    leaks = find_leaks(rows, pl.concat(found).unique("id", maintain_order=True), near, folder / ".shingles")
    if leaks.shared_parents:
        raise CountError(f"{leaks.shared_parents} rows have descendants in several splits. A fault of Mixtura.")
    return leaks


def licenses(parts: Sequence[Part]) -> str:
    """The licences of built rows, each once."""
    names = [pl.read_parquet(p.path, columns=["license"])["license"].drop_nulls().unique() for p in parts]
    return ", ".join(sorted({n for some in names for n in some})) or "unknown"


def _facts(plan: Plan, number: int, units: list[Unit], learned: dict) -> BuildFacts:
    spec = plan.recipe.build[number]
    lines = _turned(units)
    refused: dict[str, int] = {}
    for reason, n in (item for u in units for item in u.ingest.facts["refused"].items()):
        refused[reason] = refused.get(reason, 0) + n
    return BuildFacts(
        name=spec.word,
        builder=spec.builder,
        paper=recipe_file.builder_of(spec).source,
        options=recipe_file.builder_spec_of(spec).model_dump(mode="json"),
        sources=tuple(spec.sources),
        parents=lines.height,
        used=lines.filter(pl.col("built") > 0).height,
        rows=sum(u.ingest.facts["rows"] for u in units),
        refused=dict(sorted(refused.items())),
        facts=learned,
    )


def _built(units: tuple[Unit, ...]) -> list[Unit]:
    return [u for u in units if u.ingest.kind == BUILT]


def _turned(units: tuple[Unit, ...] | list[Unit]) -> pl.DataFrame:
    """What became of the rows that builds read: `id, built, reason`, one line per row, over all builds of `units`."""
    made = [u.ingest for u in units if u.ingest.kind == BUILT]
    if not made:
        return pl.DataFrame(schema={"id": pl.String, "built": pl.Int64, "reason": pl.String})
    lines = pl.concat([pl.read_parquet(a.file("turned.parquet"), columns=["id", "built", "reason"]) for a in made])
    reason = pl.col("reason").drop_nulls().first()
    return lines.group_by("id", maintain_order=True).agg(pl.col("built").cast(pl.Int64).sum(), reason)


def _ids(part: Part) -> pl.DataFrame:
    return pl.read_parquet(part.path, columns=["id"])
