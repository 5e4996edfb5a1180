"""`mixtura check`: look at a sample of every source and predict what a run costs. Writes nothing that stays."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from mixtura import recipe_file
from mixtura.cli.terminal import console, table
from mixtura.errors import InputError
from mixtura.pipeline import scoring, tables
from mixtura.pipeline.contract import Shard
from mixtura.pipeline.ingest import SampledRows, sample_rows
from mixtura.pipeline.locate import locate
from mixtura.recipe import Build, Recipe, Selection
from mixtura.rows import content_id, plain_text
from mixtura.rows import table as row_table
from mixtura.stages import choose
from mixtura.stages.gather import sources_of
from mixtura.stages.plan import Plan, Settings
from mixtura.store import Store

R = TypeVar("R")

SAMPLE_ROWS = 1_000  # of each source
JUDGED_ROWS = 16  # that a selector with a language model is timed on
# Peak memory in MiB, after two measured runs (benchmarks/LOG.md): 0.95 GiB in one process; 2.2 GiB with two workers
OWN_MIB, WORKER_MIB, TEXT_FACTOR = 900, 500, 6.0


@dataclass(frozen=True)
class Estimate:
    """One source, extrapolated from its sample."""

    name: str
    files: int
    bytes: int
    rows: int
    kept: float  # share that cleaning keeps
    broken: float  # share that quarantine takes
    text_bytes: float  # of a row
    tokens: float  # of a kept row


def show(recipe: Recipe, settings: Settings) -> None:
    """Print what the recipe's sources hold and what a run will cost, and warn where a setting loses much.

    Raises:
        InputError: whatever a run would refuse before it begins.
    """
    plan = Plan.of(recipe, settings.model_copy(update={"store": tempfile.mkdtemp(prefix="mixtura-check-")}))
    try:
        estimates, seconds, stored = _sampled(plan)
    finally:
        shutil.rmtree(plan.store.root, ignore_errors=True)
    console.print(f"[bold]{recipe.name}[/]  recipe {recipe.fingerprint()} is valid\n")
    table(
        ["source", "files", "MB", "rows", "kept by clean", "broken", "tokens a row"],
        [
            (e.name, e.files, f"{e.bytes / 1e6:,.1f}", e.rows, f"{e.kept:.1%}", f"{e.broken:.1%}", round(e.tokens))
            for e in estimates
        ],
    )
    _cost(plan, estimates, seconds, stored, settings)
    for warning in _warnings(recipe, estimates):
        console.print(f"[yellow]![/] {warning}")


def _sampled(plan: Plan) -> tuple[list[Estimate], dict[str, float], float]:
    """Estimates, seconds a row by stage, and bytes of artefacts a row, measured on the sample."""
    seconds: dict[str, float] = {}
    estimates, texts, cleaned = [], [], []
    read = 0
    for name, spec in sources_of(plan).items():
        files = locate(name, spec, plan.where)
        sample: SampledRows = _timed(
            seconds, "ingest", lambda f=files, n=name, s=spec: sample_rows(n, s, f, SAMPLE_ROWS)
        )
        read += sample.read
        kept = _timed(seconds, "clean", lambda s=sample, n=name: _cleaned(plan, n, s))
        cleaned.append(kept)
        texts += plain_text(kept).to_list()
        good = max(len(sample.rows), 1)
        size = sum(len(str(r.get("text") or r.get("messages"))) for r in sample.rows) / good
        tokens = float(kept["tokens"].mean() or 0)  # pyright: ignore[reportArgumentType]
        shares = (kept.height / good, sample.quarantined / max(sample.read, 1))
        estimates.append(Estimate(name, len(files), sample.bytes, sample.estimated_rows, *shares, size, tokens))
    for stage, spent in list(seconds.items()):
        seconds[stage] = spent / max(read, 1)
    if texts and any(recipe_file.selector_of(s).needs.vectors for s in plan.recipe.select):
        seconds["embed"] = _embedding(plan, texts)
    by_source = dict(zip(sources_of(plan), cleaned, strict=True))
    for selection in plan.recipe.select:
        if recipe_file.selector_of(selection).needs.model:
            share = sum(by_source[n].height for n in selection.sources or by_source) / max(len(texts), 1)
            seconds[f"score by {selection.word}"] = share * _judging(plan, selection, by_source)
    stored = sum(p.stat().st_size for p in plan.store.root.rglob("*.parquet")) / max(read, 1)
    return estimates, seconds, stored


def _cleaned(plan: Plan, name: str, sample: SampledRows) -> pl.DataFrame:
    from mixtura.pipeline.clean import CleanJob, clean_shard

    rows = [{**r, "id": content_id(r), "source": name} for r in sample.rows]
    path = plan.store.root / f"{name}.parquet"
    tables.write(path, row_table(rows))
    job = CleanJob(str(path), name, plan.recipe.clean, plan.recipe.seed, str(plan.store.root))
    return pl.read_parquet(clean_shard(job).file("rows.parquet"))


def _embedding(plan: Plan, texts: list[str]) -> float:
    """Seconds to embed a row."""
    from mixtura.pipeline import embed

    spec, store = plan.recipe.embed, Store(plan.store.root)
    if spec.encoder == "fitted":
        encoder = embed.load_encoder(spec, embed.fit_encoder(spec, texts, seed=0, store=store, inputs=["check"]))
    else:
        encoder = embed.load_encoder(spec, model_path=plan.model(spec.encoder))
    some = texts[:500]
    began = time.perf_counter()
    encoder.encode(some)
    return (time.perf_counter() - began) / len(some)


def _judging(plan: Plan, selection: Selection, by_source: dict[str, pl.DataFrame]) -> float:
    """Seconds to score one of its rows, where a language model reads it; fitted to the rows that it is timed on."""
    pool = pl.concat([by_source[n] for n in selection.sources or plan.recipe.sources])
    if not pool.height:
        return 0.0
    options = recipe_file.spec_of(selection).model_dump(mode="json")
    selected = scoring.Selected(selection.selector, options, choose.language_model(plan, selection))
    some = _shard(pool[:: max(1, pool.height // JUDGED_ROWS)][:JUDGED_ROWS])
    target = _shard(by_source["target"][:JUDGED_ROWS]) if "target" in by_source else None
    fitted = selected.selector.fit(selected.spec, sample=some, target=target, reference=None, seed=plan.recipe.seed)
    began = time.perf_counter()
    selected.selector.score(selected.spec, fitted, some)
    return (time.perf_counter() - began) / len(some)


def _shard(rows: pl.DataFrame) -> Shard:
    return Shard(rows.with_columns(plain_text(rows)))


def _cost(plan: Plan, estimates: list[Estimate], seconds: dict[str, float], stored: float, settings: Settings) -> None:
    rows = sum(e.rows for e in estimates)
    kept = sum(e.rows * e.kept for e in estimates)
    if not rows:
        raise InputError(
            "sources", "must hold at least one row", next_step="Look at the quarantine: the files may be broken"
        )
    took = {s: (rows if s in ("ingest", "clean") else kept) * v / settings.workers for s, v in seconds.items()}
    text = sum(e.text_bytes * e.rows for e in estimates) / rows
    others = settings.workers if settings.workers > 1 else 0
    peak = OWN_MIB + others * (WORKER_MIB + TEXT_FACTOR * settings.shard_rows * text / 2**20)
    console.print(
        f"\n{rows:,} rows, {kept:,.0f} after clean (before duplicates), "
        f"about {sum(e.rows * e.kept * e.tokens for e in estimates):,.0f} tokens"
    )
    parts = ", ".join(f"{s} {v:.0f}" for s, v in took.items())
    console.print(
        f"about {sum(took.values()):,.0f} s with {settings.workers} workers ({parts}), plus dedup and other scores"
    )
    console.print(f"about {stored * rows / 1e6:,.0f} MB of artefacts, {peak / 1024:.1f} GiB of memory at most")
    for build in plan.recipe.build:
        if build.options.get("model") and recipe_file.builder_of(build).needs.generator:
            console.print(f"{build.word!r} asks a model about {_asked(build, estimates)}: on top of that, maybe hours")


def _asked(build: Build, estimates: list[Estimate]) -> str:
    """The rows that a build reads, in words; what another build makes is not known before it is made."""
    rows = sum(e.rows * e.kept for e in estimates if e.name in build.sources)
    made = [name for name in build.sources if name not in {e.name for e in estimates}]
    counted = [f"{rows:,.0f} rows"] if rows else []
    return " and ".join(counted + [f"all that {name!r} makes" for name in made])


def _warnings(recipe: Recipe, estimates: list[Estimate]) -> list[str]:
    """What a person would want to know before the run."""
    found = [
        f"clean drops {1 - e.kept:.0%} of {e.name!r}: is a limit too strict?"
        for e in estimates
        if e.kept < 0.5 and e.rows
    ]
    limits = {**recipe.sources, **recipe.samples}
    for e in estimates:
        limit = getattr(limits[e.name], "max_quarantine", 1.0)
        if e.broken > limit:
            found.append(f"{e.broken:.1%} of {e.name!r} is broken, over max_quarantine {limit:.1%}: the run will stop")
    pool = sum(e.rows * e.kept for e in estimates if e.name in recipe.sources)
    tokens = sum(e.rows * e.kept * e.tokens for e in estimates if e.name in recipe.sources)
    for s in recipe.select:
        budget, have, unit = (
            (s.pick.budget_rows, pool, "rows") if s.pick.budget_rows else (s.pick.budget_tokens, tokens, "tokens")
        )
        if budget and budget > have:
            found.append(f"selection {s.word!r} wants {budget:,} {unit}; the sources hold about {have:,.0f}")
    return found


def _timed(seconds: dict[str, float], stage: str, work: Callable[[], R]) -> R:
    began = time.perf_counter()
    result = work()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
    return result
