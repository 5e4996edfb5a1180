"""What card, report and terminal say of a mixture, gathered from what the stages left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

import mixtura
from mixtura import recipe_file
from mixtura.errors import StoreError
from mixtura.pipeline.ledger import Totals
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
from mixtura.recipe import Pick, Sample
from mixtura.stages import lineage
from mixtura.stages.choose import Picked
from mixtura.stages.gather import Drawn, Part, Unit
from mixtura.stages.ingredients import Ingredients, units_of
from mixtura.stages.plan import Plan


def summarise(
    plan: Plan, parts: Ingredients, folder: Path, form: Form, splits: dict[str, Tally], totals: dict[str, Totals]
) -> Summary:
    """All facts of a mixture.

    Args:
        plan: of the run.
        parts: what the stages left.
        folder: where the splits are written.
        form: of the rows.
        splits: rows and tokens of each.
        totals: of each book of the ledger.

    Raises:
        CountError: a book does not balance with what was read.
        StoreError: see `evidence`.
    """
    recipe, pool = plan.recipe, parts.pool
    written = pl.scan_parquet([str(p) for p in sorted(folder.glob("*/*-of-*.parquet"))])
    by_source = written.group_by("source").agg(pl.len(), pl.col("tokens").cast(pl.Int64).sum()).collect()
    taken = {s: Tally(n, t) for s, n, t in by_source.iter_rows()}
    units = units_of(plan, pool)
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
        evidence=evidence(plan),
        marks=None if parts.marked is None else parts.marked.facts,
        builds=lineage.build_facts(plan, pool),
        leaks=lineage.leak_facts(plan, pool, folder),
    )


def evidence(plan: Plan) -> EvidenceFacts | None:
    """What a probe of this very recipe measured.

    Raises:
        StoreError: the file is not what a probe leaves.
    """
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
