"""Write the mixture: rows gathered from the pool into splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from mixtura.errors import InputError, StoreError
from mixtura.pipeline import marking, tables
from mixtura.pipeline.mix import SPLITS
from mixtura.pipeline.summary import Form, Tally
from mixtura.rows import MESSAGES, ROW

TURN = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))

CONTENT: dict[Form, list[pa.Field]] = {
    "text": [pa.field("text", pa.string())],
    "messages": [pa.field("messages", MESSAGES)],
    "preference": [pa.field(name, MESSAGES) for name in ("prompt", "chosen", "rejected")],
}
# of which columns of a row a content column of turns is made
MADE_OF = {
    "messages": ("messages", "chosen"),
    "prompt": ("messages",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
}
ABOUT = [
    pa.field("tokens", pa.int32()),
    pa.field("source", pa.string()),
    pa.field("license", pa.string()),
    pa.field("language", pa.string()),
    pa.field("task", pa.string()),
    pa.field("selection", pa.string()),
    pa.field("rank", pa.int64()),
    pa.field("score", pa.float64()),
    pa.field("why", pa.string()),  # JSON: the selector's own account of the score
    pa.field("file", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("meta", pa.string()),
]
MARK = pa.struct([pa.field("turn", pa.int32()), pa.field("score", pa.float32()), pa.field("marked", pa.bool_())])
MARKS = pa.field("marks", pa.list_(MARK))  # of each answer, by its place in the messages; only where marks were asked
PLACES = pa.field("places", pa.list_(pa.int32()))  # messages that carry the indicator
# columns that are there where some row has a value: tool definitions, and the parents of built rows
SOMETIMES = [pa.field("tools", pa.string()), pa.field("parents", pa.list_(pa.string()))]

SERVED = 3  # targets that a row's account names


@dataclass(frozen=True)
class PoolShard:
    """Where one shard of the pool lies, with its scores.

    rows: Parquet of schema ROW.
    scores: selection → Parquet of id, score and why-columns, in row order.
    target_ids: of the target's rows, to which the column `targets` points.
    """

    rows: str
    scores: dict[str, str]
    target_ids: tuple[str, ...] = ()


def form_of(rows: pl.DataFrame, wanted: str) -> Form:
    """What trainers will see.

    Args:
        rows: `has_text, has_messages, has_chosen` (booleans) of every row of the mixture.
        wanted: `output.form` of the recipe.

    Raises:
        InputError: the wanted form is impossible for some row.
    """
    conversations, pairs = bool(rows["has_messages"].all()), bool(rows["has_chosen"].all())
    if wanted == "auto":
        return "preference" if pairs and rows.height else "messages" if conversations and rows.height else "text"
    if wanted == "preference" and not pairs:
        count = int((~rows["has_chosen"]).sum())
        raise InputError("output.form", f"cannot be 'preference': {count:,} rows have no chosen and rejected answer")
    return wanted  # pyright: ignore[reportReturnType]


def write_splits(
    folder: Path,
    mixed: pl.DataFrame,
    shards: Sequence[PoolShard],
    *,
    form: Form,
    rows_per_file: int,
    indicator: str | None = None,
) -> dict[str, Tally]:
    """Write `SPLIT/SPLIT-00000-of-00003.parquet`, rows in the mixture's order.

    One pass over the shards deals the chosen rows to the files they belong to; then each file is sorted and written
    by itself, so that memory holds one shard or one file, never the mixture.

    Args:
        folder: the draft of the mixture.
        mixed: `id, selection, rank, score, split` in order, from `mix`.
        shards: the pool.
        form: from `form_of`.
        rows_per_file: rows of one file at most.
        indicator: written into the messages at each row's `places`; `mixed` then has the columns `places` and `marks`.

    Returns:
        Rows, tokens and bytes of each split that has rows.

    Raises:
        StoreError: a row of the mixture is not in the pool.
    """
    placed = mixed.with_columns(at=pl.int_range(pl.len()).over("split")).with_columns(
        part=pl.col("at") // rows_per_file
    )
    deal = folder / ".deal"
    deal.mkdir()
    parts = {(s, p): n for s, p, n in placed.group_by("split", "part").len().iter_rows()}
    marks = [MARKS, PLACES] if indicator else []
    schema = pa.schema([*ROW, *(f for f in ABOUT if f.name not in ROW.names), *marks, pa.field("at", pa.int64())])
    writers = {key: tables.Writer(deal / f"{key[0]}-{key[1]}.parquet", schema) for key in parts}
    try:
        for shard in shards:
            _deal(shard, placed, writers)
    finally:
        for writer in writers.values():
            writer.__exit__(None, None, None)
    if lost := mixed.height - sum(w.rows for w in writers.values()):
        raise StoreError(f"{lost} rows of the mixture are missing from the pool; delete the store and run again")
    # in every file or in none: `datasets` refuses splits whose columns differ
    dealt = [deal / f"{s}-{p}.parquet" for s, p in parts]
    extra = [f for f in SOMETIMES if any(_has(path, pl.col(f.name)) for path in dealt)]
    extra += [MARKS] if indicator else []
    schema = pa.schema([pa.field("id", pa.string()), *_content_fields(dealt, form), *ABOUT, *extra])
    tallies: dict[str, Tally] = {}
    for split in (s for s in SPLITS if (s, 0) in parts):
        (folder / split).mkdir()
        count = 1 + max(p for s, p in parts if s == split)
        done = [_file(folder, deal, (split, part, count), form, indicator, schema) for part in range(count)]
        tallies[split] = Tally(sum(d.rows for d in done), sum(d.tokens for d in done), sum(d.bytes for d in done))
    shutil.rmtree(deal)
    return tallies


def _deal(shard: PoolShard, placed: pl.DataFrame, writers: Mapping[tuple[str, int], tables.Writer]) -> None:
    ids = pl.read_parquet(shard.rows, columns=["id"])
    here = ids.with_row_index("row").join(placed, on="id", maintain_order="left")
    if not here.height:
        return
    rows = pl.read_parquet(shard.rows)[here["row"]]
    rows = rows.with_columns(here.drop("row", "id"), why=_why(shard, here))
    for (split, part), piece in rows.group_by(["split", "part"], maintain_order=True):
        writers[str(split), int(part)].add(piece.drop("split", "part"))  # pyright: ignore[reportArgumentType]


def _why(shard: PoolShard, here: pl.DataFrame) -> pl.Series:
    """JSON of the why-columns of the selection that each row belongs to."""
    why: list[str | None] = [None] * here.height
    for (selection,), mine in here.with_row_index("slot").group_by(["selection"], maintain_order=True):
        columns = [c for c in pl.read_parquet_schema(shard.scores[str(selection)]) if c not in ("id", "score", "costs")]
        if not columns:
            continue
        scores = pl.read_parquet(shard.scores[str(selection)], columns=columns)[mine["row"]]
        for slot, record in zip(mine["slot"], scores.iter_rows(named=True), strict=True):
            if (targets := record.pop("targets", None)) is not None:
                shares = record.pop("shares", None) or [None] * len(targets)
                named = [(shard.target_ids[t], s) for t, s in zip(targets, shares, strict=True)][:SERVED]
                record["serves"] = [[i, round(s, 4)] if s is not None else [i] for i, s in named]
            why[slot] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return pl.Series("why", why, dtype=pl.String)


def _has(path: Path, value: pl.Expr) -> bool:
    """Whether any row has a value there."""
    return pl.scan_parquet(path).select(value.is_not_null().any()).collect().item() or False


def _file(
    folder: Path,
    deal: Path,
    name: tuple[str, int, int],
    form: Form,
    indicator: str | None,
    schema: pa.Schema,
) -> Tally:
    split, part, count = name
    rows = pl.read_parquet(deal / f"{split}-{part}.parquet").sort("at")
    if indicator:
        rows = rows.with_columns(marking.written(rows["messages"], rows["places"].to_list(), indicator))
    rows = rows.with_columns(**content_of(rows, form))
    path = folder / split / f"{split}-{part:05}-of-{count:05}.parquet"
    tables.write(path, tables.conform(rows, schema), group_rows=4096)
    return Tally(rows.height, int(rows["tokens"].cast(pl.Int64).sum()), path.stat().st_size)


def _content_fields(dealt: Sequence[Path], form: Form) -> list[pa.Field]:
    """Turns without `tool_calls` where no turn of any file has one: a column of nulls makes chat templates stumble."""
    calls = pl.element().struct.field("tool_calls").is_not_null().any()

    def calling(column: str) -> bool:
        some = pl.when(pl.col(column).list.eval(calls).list.first()).then(True)
        return any(_has(path, some) for path in dealt)

    turns = {f.name for f in CONTENT[form] if f.type == MESSAGES and not any(calling(c) for c in MADE_OF[f.name])}
    return [pa.field(f.name, TURN) if f.name in turns else f for f in CONTENT[form]]


def content_of(rows: pl.DataFrame, form: Form) -> dict[str, pl.Series]:
    """The content columns of a form.

    A conversation in the text form reads `User: …`, `Assistant: …`, a blank line between turns; a document in the
    messages form is an assistant's turn without a question, so that all of it is trained on.
    """
    if form == "text":
        turns = [_transcript(c) for c in ("messages", "chosen")]
        joined = pl.concat_str(turns, separator="\n\n").str.strip_chars("\n")
        return {"text": rows.select(text=pl.coalesce("text", joined))["text"]}
    if form == "messages":
        turn = pl.struct(role=pl.lit("assistant"), content="text", tool_calls=pl.lit(None, pl.String))
        said = pl.col("messages").list.concat(pl.col("chosen").fill_null([]))
        return {"messages": rows.select(messages=pl.coalesce(said, pl.concat_list(turn)))["messages"]}
    return {
        name: rows[column].rename(name)
        for name, column in (("prompt", "messages"), ("chosen", "chosen"), ("rejected", "rejected"))
    }


def _transcript(column: str) -> pl.Expr:
    turn = pl.element().struct
    said = pl.concat_str(
        turn.field("role").str.to_titlecase(),
        pl.lit(": "),
        pl.coalesce(turn.field("content"), turn.field("tool_calls")),
    )
    return pl.col(column).list.eval(said).list.join("\n\n").fill_null("")
