"""After the mix: score the answers of the mixture's rows, and decide which of them are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.pipeline import marking, tables
from mixtura.pipeline.summary import MarkFacts, MarkTally
from mixtura.recipe import Marks
from mixtura.stages.choose import Embedded, Picked, Scored, score_with
from mixtura.stages.gather import Part, Pool
from mixtura.stages.plan import Plan, Tracker
from mixtura.store import Artefact, code_version

PERCENTS = (0, 5, 25, 50, 75, 95, 100)  # of the scores of answers, in the card
UNSEEN = "not-scored"  # the selection did not score the answer's row, or its selector left the answer out


@dataclass(frozen=True)
class Marked:
    """The marks of a mixture.

    made: artefact with `marks.parquet` (a line for each answer: what `marking.mark` says, and `reason` where its
        selector says why there is no score) and `mixed.parquet` (the mixture without rows that spell the indicator).
    spec: the recipe's word on marks.
    scored: the selection whose scores decided.
    """

    made: Artefact
    spec: Marks
    scored: Scored

    @property
    def answers(self) -> pl.DataFrame:
        """`marks.parquet`, in order of row id and turn."""
        return pl.read_parquet(self.made.file("marks.parquet"))

    @property
    def mixed(self) -> pl.DataFrame:
        """The mixture's rows in order, each with `places` and `marks` (see `mixture.MARKS`)."""
        told = self.answers.sort("id", "turn")
        marks = told.group_by("id", maintain_order=True).agg(
            places=pl.col("place").filter("marked").unique(maintain_order=True),
            marks=pl.struct("turn", "score", "marked"),
        )
        mixed = pl.read_parquet(self.made.file("mixed.parquet"))
        return mixed.join(marks, on="id", how="left", maintain_order="left")

    @property
    def facts(self) -> MarkFacts:
        """What card and report say of the marks."""
        told, selection = self.answers, self.scored.selection
        scored, chosen = told.filter(pl.col("score").is_not_null()), told.filter("marked")
        counted = told.group_by("source").agg(pl.len(), pl.col("score").count(), pl.col("marked").sum()).sort("source")
        why = told.filter(pl.col("score").is_null()).group_by("reason").len().sort("reason")
        values, marked, rest = (
            f["score"].to_numpy().astype(np.float64) for f in (scored, chosen, scored.filter(~pl.col("marked")))
        )
        return MarkFacts(
            indicator=self.spec.indicator,
            selector=selection.selector,
            paper=recipe_file.selector_of(selection).source,
            options=recipe_file.spec_of(selection).model_dump(mode="json"),
            column=self.spec.score,
            threshold=self.spec.threshold,
            share=self.spec.share,
            control=self.spec.control,
            rows=chosen["id"].n_unique(),
            messages=chosen.select("id", "place").unique().height,
            no_score=dict(why.iter_rows()),
            no_message=scored["place"].null_count(),
            by_source={source: MarkTally(*counts) for source, *counts in counted.iter_rows()},
            quantiles={str(p): float(np.percentile(values, p)) for p in PERCENTS} if len(values) else {},
            lowest_marked=float(marked.min()) if len(marked) else None,
            highest_unmarked=float(rest.max()) if len(rest) else None,
        )


def mark(plan: Plan, pool: Pool, embedded: Embedded, picked: Sequence[Picked], mixed: Artefact) -> Marked:
    """Mark answers of the mixture; scores come from a selection, or are made for the mixture's rows alone.

    Raises:
        InputError: every row of the mixture spells out the indicator.
        MixturaError: the selector gave no scores of answers.
    """
    spec, marker = plan.recipe.mix.marks, recipe_file.marker_of(plan.recipe)
    assert spec is not None
    assert marker is not None
    with plan.stage("mark") as stage:
        parts = [p for p in _narrowed(plan, stage, pool, mixed) if p.rows.facts["rows"]]
        if spec.selection is not None:
            scored = next(p.scored for p in picked if p.word == spec.selection)
        else:
            scored = score_with(plan, stage, replace(pool, parts=tuple(parts)), embedded, {}, marker)
        made = stage.add(_marks(plan, spec, parts, scored, mixed))
        facts = made.facts
        stage.line = f"{facts['marked']:,} of {facts['scored']:,} scored answers marked" + (
            f", {lost:,} rows that spell {spec.indicator} dropped" if (lost := facts["read"] - facts["rows"]) else ""
        )
    return Marked(made, spec, scored)


def _narrowed(plan: Plan, stage: Tracker, pool: Pool, mixed: Artefact) -> list[Part]:
    """The pool's parts with the mixture's rows alone: a language model reads no other."""
    ids = pl.read_parquet(mixed.file("mixed.parquet"), columns=["id"])

    def narrow(part: Part) -> Artefact:
        def write(folder: Path) -> dict[str, Any]:
            rows = pl.read_parquet(part.path).join(ids, on="id", how="semi", maintain_order="left")
            tables.write(folder / "rows.parquet", rows)
            return {"rows": rows.height}

        inputs = [part.rows.digest, mixed.digest]
        return plan.store.make("narrowed", write, inputs=inputs, spec={}, code=code_version(__name__))

    return [replace(p, rows=stage.add(narrow(p))) for p in pool.of(plan.recipe.chosen_from())]


def _marks(plan: Plan, spec: Marks, parts: Sequence[Part], scored: Scored, mixed: Artefact) -> Artefact:
    def write(folder: Path) -> dict[str, Any]:
        told, spelt = _told(spec, parts, scored)
        rows = pl.read_parquet(mixed.file("mixed.parquet"))
        kept = rows.join(spelt, on="id", how="anti", maintain_order="left")
        if rows.height and not kept.height:
            step = "Choose another indicator"
            need = "must not be spelt out by every row of the mixture"
            raise InputError("mix.marks.indicator", need, got=spec.indicator, next_step=step)
        told = told.join(kept.select("id"), on="id", how="semi").sort("id", "turn")
        told = marking.mark(told, spec, seed=plan.recipe.seed)
        tables.write(folder / "marks.parquet", told)
        tables.write(folder / "mixed.parquet", kept)
        counts = {"scored": int(told["score"].is_not_null().sum()), "marked": int(told["marked"].sum())}
        splits = dict(kept.group_by("split", maintain_order=True).len().iter_rows())
        return {"read": rows.height, "rows": kept.height, "splits": splits, **counts}

    inputs = [mixed.digest, *(p.rows.digest for p in parts), *(a.digest for _, a in scored.scores)]
    key = {"marks": spec.model_dump(mode="json", exclude={"options", "selector", "selection"})}
    return plan.store.make(
        "marks", write, inputs=inputs, spec=key | {"seed": plan.recipe.seed}, code=code_version(__name__)
    )


def _told(spec: Marks, parts: Sequence[Part], scored: Scored) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every answer of the mixture with its score, and the ids of rows that spell out the indicator."""
    files = [a.file("scores.parquet") for _, a in scored.scores]
    selector = recipe_file.selector_of(scored.selection)
    told, spelt = [], []
    for part in parts:
        rows = pl.read_parquet(part.path, columns=["id", "source", *marking.SPOKEN])
        told.append(marking.answers(rows))
        spelt.append(rows.filter(marking.spells(rows, spec.indicator)).select("id"))
    ids = pl.concat([pl.read_parquet(p.path, columns=["id"]) for p in parts])
    scores = []
    for file in files:
        some = pl.read_parquet(file).join(ids, on="id", how="semi")
        scores.append(marking.turn_scores(selector.name, spec.score, some))
    everything = pl.concat(told).join(pl.concat(scores), on=["id", "turn"], how="left", maintain_order="left")
    silent = pl.when(pl.col("score").is_null()).then(pl.coalesce("reason", pl.lit(UNSEEN)))
    return everything.with_columns(reason=silent), pl.concat(spelt)
