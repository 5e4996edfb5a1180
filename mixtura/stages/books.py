"""The ledger's books: what became of every record of every source, build and sample."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mixtura.pipeline.ledger import Book, Chapter
from mixtura.stages import lineage
from mixtura.stages.gather import Drawn, Part, Unit
from mixtura.stages.ingredients import Ingredients, scored_shards, units_of
from mixtura.stages.plan import Plan


def books(plan: Plan, parts: Ingredients, mixed: pl.DataFrame) -> dict[str, Book]:
    """A book for every source, build and sample.

    Args:
        plan: of the run.
        parts: what the stages left.
        mixed: the mixture's rows.
    """
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
    scores = {s.rows: s.scores for s in scored_shards(plan, parts)}
    found: dict[str, Book] = {}
    for name, units in units_of(plan, parts.pool).items():
        drawn = parts.pool.drawn.get(name)
        owner = parts.pool.parts if drawn is None else drawn.parts
        chapters = _chapters(units, owner, scores)
        if drawn is None:
            found[name] = Book(chapters, ends if name in open_names else material, ("dropped", "pick", "not-picked"))
        else:
            found[name] = Book(chapters, _drawn_ends(name, drawn, ends), ("dropped", "draw", "not-drawn"))
    return found


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
