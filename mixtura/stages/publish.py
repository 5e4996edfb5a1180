"""From the mixture's rows to the mixture's folder: splits, ledger, card, report, manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

import mixtura
from mixtura import recipe_file
from mixtura.pipeline import tables
from mixtura.pipeline.card import render_card
from mixtura.pipeline.croissant import render_croissant
from mixtura.pipeline.ledger import write_ledger
from mixtura.pipeline.mixture import form_of, write_splits
from mixtura.pipeline.publication import alone, publish
from mixtura.pipeline.report import assets_digest, render_report
from mixtura.pipeline.summary import Form, Summary
from mixtura.pipeline.task_sets import write_task_sets
from mixtura.recipe import digest
from mixtura.rows import QUARANTINE
from mixtura.stages.books import books
from mixtura.stages.choose import Embedded, Picked
from mixtura.stages.exhibit import exhibits
from mixtura.stages.facts import evidence, summarise
from mixtura.stages.gather import Drawn, Pool, sources_of
from mixtura.stages.ingredients import Ingredients, scored_shards, units_of
from mixtura.stages.mark import Marked
from mixtura.stages.plan import Plan
from mixtura.store import Artefact, code_version, seal, write_synced

CARDS = "data_cards"


@dataclass(frozen=True)
class Published:
    """The mixture under its final name. `changed` is False where the same mixture was there already."""

    folder: Path
    card: Path
    summary: Summary
    changed: bool


def write(
    plan: Plan,
    pool: Pool,
    embedded: Embedded,
    picked: Sequence[Picked],
    mixed: Artefact,
    marked: Marked | None = None,
) -> Published:
    """Write the mixture as an artefact, then publish it whole under its final name, and its card beside.

    Raises:
        CountError: the books do not balance.
        InputError: the output folder holds something else.
    """
    parts = Ingredients(pool, embedded, picked, mixed, marked)
    with plan.stage("write") as stage:
        made = stage.add(
            plan.store.make(
                "mixture",
                lambda folder: _draft(plan, parts, folder),
                inputs=parts.digests,
                spec={
                    "recipe": recipe_file.resolved_yaml(plan.recipe),
                    "version": mixtura.__version__,
                    "page": assets_digest(),
                    "evidence": None if (found := evidence(plan)) is None else asdict(found),
                },
                code=code_version(__name__),
            )
        )
        summary = Summary.from_json(made.file("summary.json").read_text(encoding="utf-8"))
        facts = {
            "name": plan.recipe.name,
            "fingerprint": plan.recipe.fingerprint(),
            "version": mixtura.__version__,
            "inputs": _inputs(pool, plan),
        }
        changed = publish(Path(made.path), plan.output, facts)
        card = _card_copy(plan)
        stage.line = f"{summary.total.rows:,} rows, {summary.total.tokens:,} tokens" + (
            "" if changed else ", unchanged"
        )
    return Published(plan.output, card, summary, changed)


def _draft(plan: Plan, parts: Ingredients, folder: Path) -> dict[str, Any]:
    mixed = parts.rows
    form = _form(plan, parts.pool, mixed)
    splits = write_splits(
        folder,
        mixed,
        scored_shards(plan, parts),
        form=form,
        rows_per_file=plan.recipe.output.rows_per_file,
        indicator=parts.marked and parts.marked.spec.indicator,
    )
    _write_target(folder, parts.pool.target)
    _write_quarantine(folder, plan, parts.pool)
    totals = write_ledger(folder / "ledger.parquet", books(plan, parts, mixed), [p.word for p in parts.picked])
    summary = summarise(plan, parts, folder, form, splits, totals).check()
    text = {
        "summary.json": summary.to_json(),
        "recipe.yaml": summary.recipe_yaml,
        "README.md": render_card(summary),
        "report.html": render_report(summary, exhibits(plan, parts.pool, parts.embedded, parts.picked, parts.marked)),
    }
    for name, content in text.items():
        (folder / name).write_text(content, encoding="utf-8")
    files = {p.relative_to(folder).as_posix(): seal(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / "croissant.json").write_text(render_croissant(summary, files), encoding="utf-8")
    write_task_sets(folder, plan.recipe.output.sets, plan.recipe.name)
    return {"rows": summary.total.rows}


def _form(plan: Plan, pool: Pool, mixed: pl.DataFrame) -> Form:
    has = {f"has_{c}": pl.col(c).is_not_null() for c in ("text", "messages", "chosen")}
    frames = [
        pl.scan_parquet(p.path).select("id", **has).join(mixed.lazy().select("id"), on="id", how="semi").collect()
        for p in pool.of(plan.recipe.chosen_from())
    ]
    return form_of(pl.concat(frames), plan.recipe.output.form)


def _write_target(folder: Path, target: Drawn | None) -> None:
    """The target rows as they were used: why-columns name them, and the trainer measures on those held out."""
    if target is None:
        return
    (folder / "target").mkdir()
    for name in ("chosen", "heldout"):
        rows = pl.read_parquet(target.rows.file(f"{name}.parquet"))
        if rows.height:
            tables.write(folder / "target" / f"{name}.parquet", rows)


def _write_quarantine(folder: Path, plan: Plan, pool: Pool) -> None:
    units = units_of(plan, pool)
    if not any(u.ingest.facts["quarantined"] for us in units.values() for u in us):
        return
    with tables.Writer(folder / "quarantine.parquet", QUARANTINE, group_rows=1024) as out:
        for unit in (u for us in units.values() for u in us if u.ingest.facts["quarantined"]):
            out.add(pl.read_parquet(unit.ingest.file("quarantine.parquet")))


def _inputs(pool: Pool, plan: Plan) -> dict[str, str]:
    """Digest of each source's files, whatever the shards were."""
    read = {n: us for n, us in units_of(plan, pool).items() if n in sources_of(plan)}
    return {n: digest(sorted(d for u in us for d in u.ingest.inputs)) for n, us in read.items()}


def _card_copy(plan: Plan) -> Path:
    """A copy of the card in `data_cards/`, where cards of all mixtures stand side by side and are diffed."""
    folder = plan.where.base / CARDS
    folder.mkdir(exist_ok=True)
    card = folder / f"{plan.recipe.name}.md"
    with alone(folder):
        text = (plan.output / "README.md").read_text(encoding="utf-8")  # of the mixture that is there now
        for leftover in folder.glob(f".{card.name}.*"):  # of a run that was killed while it wrote
            leftover.unlink(missing_ok=True)
        if not card.exists() or card.read_text(encoding="utf-8") != text:
            write_synced(card, text)
    return card
