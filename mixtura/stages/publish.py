"""From the mixture's rows to the mixture's folder: splits, ledger, card, report, manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

import mixtura
from mixtura import recipe_file
from mixtura.errors import StoreError
from mixtura.pipeline import tables
from mixtura.pipeline.card import render_card
from mixtura.pipeline.croissant import render_croissant
from mixtura.pipeline.ledger import Book, Chapter, Totals, write_ledger
from mixtura.pipeline.mixture import PoolShard, form_of, publish, write_splits
from mixtura.pipeline.report import assets_digest, render_report
from mixtura.pipeline.summary import (
    EvidenceFacts,
    Form,
    SampleFacts,
    SelectionFacts,
    SourceFacts,
    StageFacts,
    Summary,
    Tally,
)
from mixtura.pipeline.task_sets import write_task_sets
from mixtura.recipe import Pick, Sample, digest
from mixtura.rows import QUARANTINE
from mixtura.stages import lineage
from mixtura.stages.choose import Embedded, Picked
from mixtura.stages.exhibit import exhibits
from mixtura.stages.gather import Drawn, Part, Pool, Unit, sources_of
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


@dataclass(frozen=True)
class Ingredients:
    """All that a mixture is written from."""

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
                    "evidence": None if (found := _evidence(plan)) is None else asdict(found),
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
        card = _card_copy(plan, made)
        stage.line = f"{summary.total.rows:,} rows, {summary.total.tokens:,} tokens" + (
            "" if changed else ", unchanged"
        )
    return Published(plan.output, card, summary, changed)


def _draft(plan: Plan, parts: Ingredients, folder: Path) -> dict[str, Any]:
    mixed = parts.rows
    shards = _shards(plan, parts)
    form = _form(plan, parts.pool, mixed)
    splits = write_splits(
        folder,
        mixed,
        shards,
        form=form,
        rows_per_file=plan.recipe.output.rows_per_file,
        indicator=parts.marked and parts.marked.spec.indicator,
    )
    _write_target(folder, parts.pool.target)
    _write_quarantine(folder, plan, parts.pool)
    totals = write_ledger(folder / "ledger.parquet", _books(plan, parts, mixed), [_name(p) for p in parts.picked])
    summary = _summary(plan, parts, folder, form, splits, totals).check()
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


def _name(picked: Picked) -> str:
    return picked.scored.selection.word


def _shards(plan: Plan, parts: Ingredients) -> list[PoolShard]:
    open_parts = parts.pool.of(plan.recipe.chosen_from())
    scores: dict[str, dict[str, str]] = {p.path: {} for p in open_parts}
    for picked in parts.picked:
        for part, artefact in picked.scored.scores:
            scores[part.path][_name(picked)] = str(artefact.file("scores.parquet"))
    target = parts.pool.target
    ids = () if target is None else tuple(pl.read_parquet(target.rows.file("chosen.parquet"), columns=["id"])["id"])
    return [PoolShard(p.path, scores[p.path], ids) for p in open_parts]


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
    units = _units(plan, pool)
    if not any(u.ingest.facts["quarantined"] for us in units.values() for u in us):
        return
    with tables.Writer(folder / "quarantine.parquet", QUARANTINE, group_rows=1024) as out:
        for unit in (u for us in units.values() for u in us if u.ingest.facts["quarantined"]):
            out.add(pl.read_parquet(unit.ingest.file("quarantine.parquet")))


def _units(plan: Plan, pool: Pool) -> dict[str, list[Unit]]:
    """Units of every source and build, those of the samples last."""
    everything = [*pool.units, *(u for d in pool.drawn.values() for u in d.units)]
    names = dict.fromkeys([*plan.recipe.pool_names(), *sources_of(plan)])
    return {n: [u for u in everything if u.source == n] for n in names}


def _books(plan: Plan, parts: Ingredients, mixed: pl.DataFrame) -> dict[str, Book]:
    picked = pl.concat([p.frame.select("id") for p in parts.picked]).unique()
    weighed = pl.read_parquet(parts.mixed.file("mixed.parquet"))  # before rows left that spell the indicator
    ends = picked.join(weighed, on="id", how="left").with_columns(left=pl.col("id").is_in(mixed["id"].implode()).not_())
    ends = ends.with_columns(
        fate=pl.when("left").then(pl.lit("dropped")).otherwise(pl.lit("written")),
        stage=pl.when(pl.col("left") & pl.col("split").is_not_null()).then(pl.lit("mark")).otherwise(pl.lit("mix")),
        reason=pl.when(pl.col("split").is_null())
        .then(pl.lit("over-weight"))
        .when("left")
        .then(pl.lit("spells-indicator")),
        split=pl.when(~pl.col("left")).then("split"),
    )
    open_names = plan.recipe.chosen_from()
    material = pl.concat([ends.clear(), lineage.material_ends(plan, parts.pool)], how="diagonal_relaxed")
    scores = {s.rows: s.scores for s in _shards(plan, parts)}
    books: dict[str, Book] = {}
    for name, units in _units(plan, parts.pool).items():
        drawn = parts.pool.drawn.get(name)
        owner = parts.pool.parts if drawn is None else drawn.parts
        chapters = _chapters(units, owner, scores)
        if drawn is None:
            books[name] = Book(chapters, ends if name in open_names else material, ("dropped", "pick", "not-picked"))
        else:
            books[name] = Book(chapters, _drawn_ends(name, drawn, ends), ("dropped", "draw", "not-drawn"))
    return books


def _chapters(units: Sequence[Unit], parts: Sequence[Part], scores: dict[str, dict[str, str]]) -> list[Chapter]:
    by_clean = {p.clean.path: p for p in parts}
    return [
        Chapter(
            tuple(str(a.file("fates.parquet")) for a in u.clean),
            tuple(by_clean[a.path].drops for a in u.clean),
            str(u.ingest.file("quarantine.parquet")),
            tuple(scores.get(by_clean[a.path].path, {}) for a in u.clean),
            tuple(str(u.ingest.file(n)) for n in u.ingest.names("rows-")) if u.ingest.kind == lineage.BUILT else (),
        )
        for u in units
    ]


def _drawn_ends(name: str, drawn: Drawn, like: pl.DataFrame) -> pl.DataFrame:
    """Target rows are written to the mixture's folder; those of the other samples only show a distribution."""
    ends = {"chosen": ("written", None, "target"), "heldout": ("written", None, "heldout")}
    if name != "target":
        ends = {"chosen": ("dropped", f"{name}-row", None)}
    frames = [
        pl.read_parquet(drawn.rows.file(f"{file}.parquet"), columns=["id"]).with_columns(
            fate=pl.lit(fate), stage=pl.lit("draw"), reason=pl.lit(reason, pl.String), split=pl.lit(split, pl.String)
        )
        for file, (fate, reason, split) in ends.items()
    ]
    return pl.concat([like.clear(), *frames], how="diagonal_relaxed")


def _summary(
    plan: Plan, parts: Ingredients, folder: Path, form: Form, splits: dict[str, Tally], totals: dict[str, Totals]
) -> Summary:
    recipe, pool = plan.recipe, parts.pool
    written = pl.scan_parquet([str(p) for p in sorted(folder.glob("*/*-of-*.parquet"))])
    by_source = written.group_by("source").agg(pl.len(), pl.col("tokens").cast(pl.Int64).sum()).collect()
    taken = {s: Tally(n, t) for s, n, t in by_source.iter_rows()}
    units = _units(plan, pool)
    for name in units:
        totals[name].check(name, sum(u.ingest.facts["read"] for u in units[name]))
    sources = tuple(
        _source_facts(plan, n, units[n], pool.of([n]), taken.get(n, Tally(0, 0))) for n in recipe.pool_names()
    )
    return Summary(
        name=recipe.name,
        seed=recipe.seed,
        fingerprint=recipe.fingerprint(),
        version=mixtura.__version__,
        recipe_yaml=recipe_file.resolved_yaml(recipe),
        form=form,
        tokenizer=recipe.clean.tokenizer,
        sources=sources,
        stages=_stages(plan, parts, [totals[n] for n in recipe.pool_names()]),
        selections=tuple(_selection_facts(p) for p in parts.picked),
        splits=splits,
        languages=_tally(written, "language", ""),
        licenses=_tally(written, "license", "unknown"),
        target=_sample_facts(recipe.target, pool.target),
        reference=_sample_facts(recipe.reference, pool.reference),
        avoid=_sample_facts(recipe.avoid, pool.drawn.get("avoid")),
        encoder=parts.embedded.encoder,
        near_duplicates=near.sentence() if (near := recipe.clean.near_dedup) else None,
        evidence=_evidence(plan),
        marks=None if parts.marked is None else parts.marked.facts,
        builds=lineage.build_facts(plan, pool),
        leaks=lineage.leak_facts(plan, pool, folder),
    )


def _evidence(plan: Plan) -> EvidenceFacts | None:
    """What a probe of this very recipe measured."""
    if not plan.evidence.is_file():
        return None
    try:
        return TypeAdapter(EvidenceFacts).validate_json(plan.evidence.read_bytes())
    except ValidationError as e:
        raise StoreError(f"{plan.evidence.name} must be what a probe left; delete it and probe again") from e


def _source_facts(plan: Plan, name: str, units: Sequence[Unit], parts: Sequence[Part], taken: Tally) -> SourceFacts:
    spec = plan.recipe.sources.get(name)
    made = {b.word: b.builder for b in plan.recipe.build}
    dropped: dict[str, int] = {}
    for unit in units:
        for artefact in unit.clean:
            _add(dropped, artefact.facts["dropped"])
    for part in parts:
        _add(dropped, dict(pl.read_parquet(part.drops, columns=["reason"])["reason"].value_counts().iter_rows()))
    ingests = [u.ingest.facts for u in units]
    return SourceFacts(
        name=name,
        license=spec.license if spec else lineage.licenses(parts),
        revision=spec.revision if spec else "",
        files=sum(f["files"] for f in ingests),
        bytes=sum(f["bytes"] for f in ingests),
        read=sum(f["read"] for f in ingests),
        quarantined=sum(f["quarantined"] for f in ingests),
        dropped=dict(sorted(dropped.items())),
        pool_rows=sum(p.rows.facts["rows"] for p in parts),
        pool_tokens=sum(p.rows.facts["tokens"] for p in parts),
        picked_rows=taken.rows,
        picked_tokens=taken.tokens,
        builder=made.get(name, ""),
    )


def _stages(plan: Plan, parts: Ingredients, totals: Sequence[Totals]) -> tuple[StageFacts, ...]:
    units = [u for u in parts.pool.units if u.source in plan.recipe.sources]
    read, rows, bad = (sum(u.ingest.facts[k] for u in units) for k in ("read", "rows", "quarantined"))
    cleaned: dict[str, int] = {}
    for artefact in (a for u in units for a in u.clean):
        _add(cleaned, artefact.facts["dropped"])
    kept = sum(a.facts["kept"] for u in units for a in u.clean)
    lost: dict[str, int] = {}
    for part in (raw := parts.pool.of(list(plan.recipe.sources))):
        _add(lost, dict(pl.read_parquet(part.drops, columns=["reason"])["reason"].value_counts().iter_rows()))
    pool = sum(p.rows.facts["rows"] for p in raw)
    built = lineage.stage_facts(plan, parts.pool, pool)
    reasons: dict[str, int] = {}
    for total in totals:
        _add(reasons, total.dropped)
    union, written = parts.mixed.facts["read"], parts.mixed.facts["rows"]
    late = {k: {k: reasons[k]} if k in reasons else {} for k in ("not-picked", "over-weight", "spells-indicator")}
    mark = (
        ()
        if parts.marked is None
        else (StageFacts("mark", written, parts.marked.made.facts["rows"], late["spells-indicator"]),)
    )
    return (
        StageFacts("ingest", read, rows, quarantined=bad),
        StageFacts("clean", rows, kept, dict(sorted(cleaned.items()))),
        StageFacts("dedup", kept, pool, dict(sorted(lost.items()))),
        *((built,) if built else ()),
        StageFacts("pick", built.written if built else pool, union, late["not-picked"]),
        StageFacts("mix", union, written, late["over-weight"]),
        *mark,
    )


def _rule_facts(pick: Pick) -> dict[str, Any]:
    """What of a pick matters under its rule."""
    idle = {"cover": {"temperature"}, "gumbel": {"strength"}}.get(pick.rule or "", {"temperature", "strength"})
    return pick.model_dump(mode="json", exclude_none=True, exclude=idle)


def _said_of_scores(picked: Picked) -> dict[str, Any]:
    """What the selector says of all its scores together, where it says anything."""
    selection = picked.scored.selection
    summary = getattr(recipe_file.selector_of(selection), "summary", None)
    if summary is None:
        return {}
    scores = pl.concat([pl.read_parquet(s.file("scores.parquet")) for _, s in picked.scored.scores])
    return summary(recipe_file.spec_of(selection), scores)


def _selection_facts(picked: Picked) -> SelectionFacts:
    selection, facts = picked.scored.selection, picked.picks.facts
    selector = recipe_file.selector_of(selection)
    return SelectionFacts(
        name=selection.word,
        selector=selection.selector,
        paper=selector.source,
        score_kind=selector.scale,
        options=recipe_file.spec_of(selection).model_dump(mode="json"),
        pick=_rule_facts(recipe_file.pick_of(selection)),
        pool_rows=facts["pool_rows"],
        picked_rows=facts["rows"],
        picked_tokens=facts["tokens"],
        by_source={s: Tally(**t) for s, t in facts["by_source"].items()},
        facts=picked.scored.fitted.facts | _said_of_scores(picked),
    )


def _sample_facts(spec: Sample | None, drawn: Drawn | None) -> SampleFacts | None:
    if spec is None or drawn is None:
        return None
    facts = drawn.rows.facts
    return SampleFacts(tuple(spec.files), spec.license, spec.revision, facts["rows"], facts["heldout_rows"])


def _tally(rows: pl.LazyFrame, column: str, missing: str) -> dict[str, int]:
    counts = rows.select(pl.col(column).fill_null(missing)).group_by(column).len().sort(column).collect()
    return dict(counts.iter_rows())


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, n in more.items():
        total[reason] = total.get(reason, 0) + n


def _inputs(pool: Pool, plan: Plan) -> dict[str, str]:
    """Digest of each source's files, whatever the shards were."""
    read = {n: us for n, us in _units(plan, pool).items() if n in sources_of(plan)}
    return {n: digest(sorted(d for u in us for d in u.ingest.inputs)) for n, us in read.items()}


def _card_copy(plan: Plan, made: Artefact) -> Path:
    """A copy of the card in `data_cards/`, where cards of all mixtures stand side by side and are diffed."""
    folder = plan.where.base / CARDS
    folder.mkdir(exist_ok=True)
    card = folder / f"{plan.recipe.name}.md"
    for leftover in folder.glob(f".{card.name}.*"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)
    text = made.file("README.md").read_text(encoding="utf-8")
    if not card.exists() or card.read_text(encoding="utf-8") != text:
        write_synced(card, text)
    return card
