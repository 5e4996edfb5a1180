"""The ledger: one record for every input record, from its file and offset to its split, or to what removed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa

from mixtura.errors import CountError
from mixtura.pipeline import tables

FIELDS = [
    pa.field("source", pa.string(), nullable=False),
    pa.field("file", pa.string(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("raw_id", pa.string()),  # of the content as read; null in quarantine
    pa.field("id", pa.string()),  # of the content as cleaned; null where cleaning dropped it
    pa.field("tokens", pa.int32()),
    pa.field("fate", pa.string(), nullable=False),  # written, dropped, quarantined
    pa.field("stage", pa.string(), nullable=False),  # where its way ended
    pa.field("reason", pa.string()),  # a code; null where written
    pa.field("detail", pa.string()),
    pa.field("survivor", pa.string()),  # id of the row kept in its place
    pa.field("similarity", pa.float32()),  # Jaccard to the survivor
    pa.field("selection", pa.string()),
    pa.field("rank", pa.int64()),
    pa.field("split", pa.string()),
    pa.field("parents", pa.list_(pa.string())),  # ids of the rows that a builder made it of; null: it was read
]


@dataclass(frozen=True)
class Chapter:
    """The papers of one work unit of ingest: its fates by clean shard, its duplicates, its quarantine.

    fates: `clean` fates of each shard, in order.
    drops: `dedup` drops of the same shards.
    scores: for each shard, selection → scores file; empty for target and reference.
    quarantine: the unit's quarantine file.
    built: the rows of each shard as a builder made them, which name their parents; empty where rows were read.
    """

    fates: tuple[str, ...]
    drops: tuple[str, ...]
    quarantine: str
    scores: tuple[Mapping[str, str], ...] = ()
    built: tuple[str, ...] = ()


@dataclass(frozen=True)
class Book:
    """All chapters of one source, and what became of the rows that reached its end.

    ends: `id, fate, stage, reason, selection, rank, split` of rows known by name.
    otherwise: `(fate, stage, reason)` of every other row that was not dropped before.
    """

    chapters: Sequence[Chapter]
    ends: pl.DataFrame
    otherwise: tuple[str, str, str | None]


@dataclass
class Totals:
    """Records of one source by what became of them."""

    read: int = 0
    written: int = 0
    quarantined: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, entries: pl.DataFrame) -> None:
        """Count entries of the ledger."""
        self.read += entries.height
        for fate, reason, n in entries.group_by("fate", "reason").len().sort("fate", "reason").iter_rows():
            if fate == "dropped":
                self.dropped[reason] = self.dropped.get(reason, 0) + n
            else:
                setattr(self, fate, getattr(self, fate) + n)

    def check(self, source: str, read: int) -> Totals:
        """These totals, when every record read has an entry.

        Raises:
            CountError: a record has no entry, or more than one.
        """
        ends = self.written + self.quarantined + sum(self.dropped.values())
        if not self.read == ends == read:
            raise CountError(f"ledger of source {source!r} must hold {read} records; got {self.read} with {ends} ends")
        return self


def write_ledger(path: Path, books: Mapping[str, Book], selections: Sequence[str]) -> dict[str, Totals]:
    """Write `ledger.parquet`, source by source, shard by shard; memory holds one shard.

    Args:
        path: the file.
        books: source → book, in the recipe's order; target and reference are sources of their own.
        selections: names; each becomes a column `score.NAME`.

    Returns:
        Totals by source.
    """
    schema = pa.schema([*FIELDS, *(pa.field(f"score.{s}", pa.float64()) for s in selections)])
    totals: dict[str, Totals] = {}
    with tables.Writer(path, schema, group_rows=1 << 16) as out:
        for source, book in books.items():
            totals[source] = Totals()
            for chapter in book.chapters:
                for entries in _entries(book, chapter):
                    totals[source].add(entries)
                    out.add(entries)
    return totals


def _entries(book: Book, chapter: Chapter) -> Iterator[pl.DataFrame]:
    scores = chapter.scores or ({},) * len(chapter.fates)
    for number, (fates, drops, score_files) in enumerate(zip(chapter.fates, chapter.drops, scores, strict=True)):
        entries = _shard(book, pl.read_parquet(fates), pl.read_parquet(drops), score_files)
        if chapter.built:  # fates have a line for each of these rows, in their order
            entries = entries.hstack(pl.read_parquet(chapter.built[number], columns=["parents"]))
        yield entries
    bad = pl.read_parquet(chapter.quarantine, columns=["source", "file", "offset", "error"])
    if bad.height:
        yield bad.select(
            "source",
            "file",
            "offset",
            fate=pl.lit("quarantined"),
            stage=pl.lit("ingest"),
            reason=pl.col("error").str.split(":").list.first(),
            detail="error",
        )


def _shard(book: Book, fates: pl.DataFrame, drops: pl.DataFrame, score_files: Mapping[str, str]) -> pl.DataFrame:
    kept = pl.col("reason").is_null()
    fates = fates.with_columns(row=pl.when(kept).then(kept.cum_sum().cast(pl.Int32) - 1))
    duplicates = drops.select("row", "survivor", "similarity", duplicate="reason")
    told = fates.join(duplicates, on="row", how="left", maintain_order="left")
    alive = kept & pl.col("duplicate").is_null()
    ends = book.ends.select("id", "selection", "rank", "split", end="fate", at="stage", why="reason")
    told = told.with_columns(alive=alive, key=pl.when(alive).then("id"))
    told = told.join(ends, left_on="key", right_on="id", how="left", maintain_order="left")
    for name, file in score_files.items():
        scores = pl.read_parquet(file, columns=["id", "score"]).rename({"score": f"score.{name}"})
        told = told.join(scores, left_on="key", right_on="id", how="left", maintain_order="left")
    fate, stage, reason = book.otherwise
    known = pl.col("end").is_not_null()
    return told.with_columns(
        fate=pl.when("alive").then(pl.coalesce("end", pl.lit(fate))).otherwise(pl.lit("dropped")),
        stage=pl.when(~kept).then(pl.lit("clean")).when(~pl.col("alive")).then(pl.lit("dedup")).when(known).then("at")
        .otherwise(pl.lit(stage)),
        reason=pl.when(~pl.col("alive")).then(pl.coalesce("reason", "duplicate")).when(known).then("why")
        .otherwise(pl.lit(reason, dtype=pl.String)),
    )  # fmt: skip
