"""Rows and shards for the tests of cleaning and deduplication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline import tables
from mixtura.pipeline.clean import CleanJob, clean_shard
from mixtura.pipeline.dedup import PoolJob, dedup, pool_shard
from mixtura.recipe import Clean
from mixtura.rows import content_id, table
from mixtura.store import Artefact, Store, file_digest

Row = Mapping[str, Any]


def row(text: str | None = None, *, source: str = "web", file: str = "a.jsonl", offset: int = 0, **more: Any) -> Row:
    """A row as ingest writes it."""
    content = {"text": text, **more}
    return {"id": content_id(content), "source": source, "file": file, "offset": offset, **content}


def rows_of(texts: Sequence[str], *, source: str = "web", file: str = "a.jsonl") -> list[Row]:
    """Documents of one file, in order."""
    return [row(t, source=source, file=file, offset=i) for i, t in enumerate(texts)]


def turns(*said: str | tuple[str | None, str]) -> list[dict[str, Any]]:
    """User and assistant by turns; a pair is (content, tool_calls)."""
    both = [s if isinstance(s, tuple) else (s, None) for s in said]
    return [
        {"role": ("user", "assistant")[i % 2], "content": content, "tool_calls": calls}
        for i, (content, calls) in enumerate(both)
    ]


def clean_rows_of(folder: Path, rows: Sequence[Row], clean: Clean, shard_rows: int = 1000) -> list[Artefact]:
    """Write shards of at most `shard_rows` rows and clean each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for first in range(0, len(rows), shard_rows):
        path = folder / f"rows-{first:06d}.parquet"
        tables.write(path, table(rows[first : first + shard_rows]))
        made.append(clean_shard(CleanJob(str(path), file_digest(path), clean, 0, str(folder / "store"))))
    return made


def pool_of(
    folder: Path,
    rows: Sequence[Row],
    clean: Clean,
    *,
    source_order: Sequence[str] = ("web",),
    target: Sequence[Row] = (),
    shard_rows: int = 1000,
) -> tuple[pl.DataFrame, pl.DataFrame, Artefact]:
    """Clean, deduplicate, and read the outcome.

    Returns:
        Surviving rows; dropped rows with `reason, survivor, similarity`; the artefact.
    """
    shards = clean_rows_of(folder / "pool", rows, clean, shard_rows)
    protected = clean_rows_of(folder / "target", target, clean) if target else []
    store = Store(folder / "store")
    made = dedup(shards, clean=clean, source_order=source_order, protected=protected, store=store)
    kept, dropped = [], []
    for number, shard in enumerate(shards):
        name = f"drops-{number:05d}.parquet"
        drops, whole = pl.read_parquet(made.file(name)), pl.read_parquet(shard.file("rows.parquet"))
        job = PoolJob(
            str(shard.file("rows.parquet")), shard.digest, str(made.file(name)), made.digest, str(folder / "store")
        )
        kept.append(pl.read_parquet(pool_shard(job).file("rows.parquet")))
        dropped.append(whole[drops["row"].to_list()].hstack(drops.drop("row")))
    return pl.concat(kept), pl.concat(dropped), made


def sentences(n: int, words: int, rng: np.random.Generator, vocabulary: int = 5000) -> list[list[str]]:
    """n texts of random words: their shingles do not overlap by chance."""
    return [[f"w{k}" for k in rng.integers(0, vocabulary, words)] for _ in range(n)]
