"""From files to the pool: ingest, clean, dedup, and the samples that show target and reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura.errors import InputError
from mixtura.pipeline import clean as cleaning
from mixtura.pipeline import dedup as deduping
from mixtura.pipeline import ingest as ingesting
from mixtura.pipeline import tables
from mixtura.pipeline.hashing import keys
from mixtura.pipeline.locate import locate
from mixtura.recipe import Clean, Sample, Source
from mixtura.stages.plan import Plan
from mixtura.store import Artefact, code_version


@dataclass(frozen=True)
class Unit:
    """One unit of ingest (a large file, or a bundle of small ones) and its cleaned shards."""

    source: str
    ingest: Artefact
    clean: tuple[Artefact, ...] = ()


@dataclass(frozen=True)
class Part:
    """One shard of the pool: the cleaned shard, what dedup dropped of it, and the rows that stayed."""

    source: str
    clean: Artefact
    drops: str
    rows: Artefact

    @property
    def path(self) -> str:
        """The rows' Parquet file."""
        return str(self.rows.file("rows.parquet"))


@dataclass(frozen=True)
class Drawn:
    """The target, the reference or rows to avoid: units and parts, and the sample drawn from them.

    rows: artefact `sample` with `chosen.parquet` and `heldout.parquet`, each sorted by id.
    """

    units: tuple[Unit, ...]
    parts: tuple[Part, ...]
    rows: Artefact


@dataclass(frozen=True)
class Pool:
    """Everything that gathering leaves behind, and what builds add to it.

    drawn: by role: target, reference, avoid.
    surveyed: what each build's builder learned of the rows it read, in the recipe's order.
    """

    units: tuple[Unit, ...]
    parts: tuple[Part, ...]
    drawn: dict[str, Drawn]
    surveyed: tuple[Artefact, ...] = ()

    @property
    def target(self) -> Drawn | None:
        """What the user wants."""
        return self.drawn.get("target")

    @property
    def reference(self) -> Drawn | None:
        """What the base model was trained on."""
        return self.drawn.get("reference")

    def of(self, sources: list[str] | None) -> list[Part]:
        """Parts of some sources, or of all."""
        return [p for p in self.parts if sources is None or p.source in sources]


def sources_of(plan: Plan) -> dict[str, Source]:
    """Pool sources, then target, reference and rows to avoid where the recipe has them."""
    return {**plan.recipe.sources, **plan.recipe.samples}


def ingest(plan: Plan) -> list[Unit]:
    """Read every file of every source; one unit per large file or bundle of small ones.

    Raises:
        InputError: a path is not allowed, nothing matches, a source is empty or has too much quarantine.
    """
    named = sources_of(plan)
    bundles = [b for n, s in named.items() for b in ingesting.bundles(n, s, locate(n, s, plan.where))]
    jobs = [ingesting.IngestJob(b, str(plan.store.root), plan.shard_rows) for b in bundles]
    with plan.stage("ingest", len(jobs)) as stage:
        made = plan.map(stage, ingesting.ingest, jobs)
        units = [Unit(b.source, a) for b, a in zip(bundles, made, strict=True)]
        for name, source in named.items():
            ingesting.check_source(name, source, [u.ingest for u in units if u.source == name])
        read, bad = (sum(u.ingest.facts[k] for u in units) for k in ("read", "quarantined"))
        stage.line = f"{read:,} records read from {sum(u.ingest.facts['files'] for u in units):,} files" + (
            f", {bad:,} quarantined" if bad else ""
        )
    return units


def clean(plan: Plan, units: list[Unit]) -> list[Unit]:
    """Normalise and filter every shard."""
    spec, seed, store = plan.recipe.clean, plan.recipe.seed, str(plan.store.root)
    if spec.tokenizer != "words":
        spec = spec.model_copy(update={"tokenizer": plan.model(spec.tokenizer)})
    jobs = [
        cleaning.CleanJob(str(u.ingest.file(n)), u.ingest.files[n]["sha256"], spec, seed, store)
        for u in units
        for n in u.ingest.names("rows-")
    ]
    with plan.stage("clean", len(jobs)) as stage:
        made = iter(plan.map(stage, cleaning.clean_shard, jobs))
        done = [Unit(u.source, u.ingest, tuple(next(made) for _ in u.ingest.names("rows-"))) for u in units]
        read, kept = (sum(a.facts[k] for a in stage.made) for k in ("read", "kept"))
        stage.line = f"{kept:,} of {read:,} rows kept" + _reasons(stage.made)
    return done


def dedup(plan: Plan, units: list[Unit]) -> Pool:
    """One row per duplicate cluster, over all sources; rows of target and avoid leave the pool; samples are drawn."""
    by_source = {n: [u for u in units if u.source == n] for n in sources_of(plan)}
    pool_units = [u for n in plan.recipe.sources for u in by_source[n]]
    with plan.stage("dedup") as stage:
        drawn = {n: _draw(plan, stage, n, by_source[n]) for n in plan.recipe.samples}
        target = plan.recipe.target
        leave = [n for n in drawn if n == "avoid" or (n == "target" and target and target.exclude_from_pool)]
        protected = [a for n in leave for u in by_source[n] for a in u.clean]
        parts, found = unique(plan, stage, pool_units, list(plan.recipe.sources), protected)
        if not sum(p.rows.facts["rows"] for p in parts):
            step = "Loosen clean, or add a source"
            raise InputError("pool", "must keep at least one row", got=found.facts["dropped"], next_step=step)
        stage.line = f"{found.facts['kept']:,} of {found.facts['read']:,} rows kept" + _reasons([found])
    return Pool(tuple(pool_units), tuple(parts), drawn)


def unique(
    plan: Plan,
    stage: Any,
    units: list[Unit],
    order: list[str],
    protected: list[Artefact],
    *,
    clean: Clean | None = None,
    protected_reason: str = "in-target",
) -> tuple[list[Part], Artefact]:
    """One row per duplicate cluster of some units, and what was found; `clean` is the recipe's, unless given."""
    clean = clean or plan.recipe.clean
    shards = [(u.source, a) for u in units for a in u.clean]
    found = stage.add(
        deduping.dedup(
            [a for _, a in shards],
            clean=clean,
            source_order=order,
            protected=protected,
            store=plan.store,
            protected_reason=protected_reason,
        )
    )
    names = found.names("drops-")
    jobs = [
        deduping.PoolJob(
            str(a.file("rows.parquet")), a.files["rows.parquet"]["sha256"],
            str(found.file(n)), found.files[n]["sha256"], str(plan.store.root),
        )
        for (_, a), n in zip(shards, names, strict=True)
    ]  # fmt: skip
    rows = plan.map(stage, deduping.pool_shard, jobs)
    parts = [Part(s, a, str(found.file(n)), r) for (s, a), n, r in zip(shards, names, rows, strict=True)]
    if not clean.exact_dedup:
        _check_ids(parts)
    return parts, found


def _check_ids(parts: list[Part]) -> None:
    """Without exact dedup equal rows may be left, which no score, pick or ledger entry could tell apart."""
    ids = pl.concat([pl.read_parquet(p.path, columns=["id"]) for p in parts])["id"]
    if twice := len(ids) - ids.n_unique():
        need, step = "can be false only where no two rows are equal", "Set it to true, or leave it out"
        raise InputError("clean.exact_dedup", need, got=f"{twice:,} copies", next_step=step)


def _draw(plan: Plan, stage: Any, name: str, units: list[Unit]) -> Drawn:
    """Draw a role's sample, and set rows aside, all by hash."""
    spec = sources_of(plan)[name]
    assert isinstance(spec, Sample)
    parts, _ = unique(plan, stage, units, [name], [])
    heldout = getattr(spec, "heldout_rows", 0)

    def write(folder: Path) -> dict[str, Any]:
        rows = pl.concat([pl.read_parquet(p.path) for p in parts])
        if rows.height <= heldout:
            need = f"must have more than its {heldout} held-out rows"
            raise InputError(name, need, got=f"{rows.height} rows after cleaning", next_step="Lower heldout_rows")
        # the same rows are held out whatever the seed: runs that differ in it are measured on one yardstick
        apart = np.argsort(keys(rows["id"], 0, f"heldout/{name}"), kind="stable")
        aside, rest = rows[apart[:heldout]], rows[apart[heldout:]]
        chosen = rest[np.argsort(keys(rest["id"], plan.recipe.seed, f"draw/{name}"), kind="stable")[: spec.rows]]
        tables.write(folder / "heldout.parquet", aside.sort("id"))
        tables.write(folder / "chosen.parquet", chosen.sort("id"))
        return {"rows": chosen.height, "heldout_rows": aside.height, "read": rows.height}

    rows = plan.store.make(
        "sample",
        write,
        inputs=[p.rows.digest for p in parts],
        spec={"name": name, "rows": spec.rows, "heldout": heldout, "seed": plan.recipe.seed},
        code=code_version(__name__),
    )
    return Drawn(tuple(units), tuple(parts), stage.add(rows))


def _reasons(made: list[Artefact]) -> str:
    total: dict[str, int] = {}
    for artefact in made:
        for reason, n in artefact.facts.get("dropped", {}).items():
            total[reason] = total.get(reason, 0) + n
    return "".join(f", {n:,} {r}" for r, n in sorted(total.items(), key=lambda item: -item[1])[:4] if n)
