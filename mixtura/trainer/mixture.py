"""Read a mixture's splits, row by row, as the trainer sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mixtura.errors import InputError

READ_ROWS = 1024  # rows held as Python objects at once
HELDOUT = {"validation": "validation/*.parquet", "target": "target/heldout.parquet"}


@dataclass(frozen=True)
class Row:
    """A document (`text`) or a conversation (`messages`, with parsed tool calls); one of the two is None.

    `tools` holds parsed tool definitions, or None.
    """

    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    loss_turns: tuple[int, ...] = ()  # places of the answers to learn from, where a builder marked them; (): all


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; each is turns, as `Row.messages` are."""

    prompt: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


def splits(mixture: Path) -> dict[str, list[Path]]:
    """Parquet files of `train` and of each held-out set that the mixture has, sorted by name.

    Raises:
        InputError: the folder holds no training rows.
    """
    found = {"train": sorted(mixture.glob("train/*.parquet"))}
    if not found["train"]:
        there = sorted(p.name for p in mixture.iterdir())[:10] if mixture.is_dir() else "no such folder"
        raise InputError(
            f"mixture {mixture.name!r}",
            "must hold train/*.parquet",
            got=there,
            next_step="Name a folder that `mixtura run` wrote",
        )
    found |= {name: files for name, pattern in HELDOUT.items() if (files := sorted(mixture.glob(pattern)))}
    return found


def read_rows(files: list[Path]) -> Iterator[Row]:
    """Rows of some Parquet files, in file order.

    Raises:
        InputError: a file is damaged, has neither `text` nor `messages`, or holds preference pairs.
    """
    for path, record in _records(files, ("text", "messages", "tools", "chosen", "meta")):
        yield _row(path, record)


def read_pairs(files: list[Path]) -> Iterator[Pair]:
    """Preference pairs of some Parquet files, in file order; see `holds_pairs`.

    Raises:
        InputError: a file is damaged, or a row has no chosen or no rejected answer.
    """
    for path, record in _records(files, ("prompt", "messages", "chosen", "rejected", "tools")):
        prompt, chosen, rejected = (
            [_turn(path, m) for m in record.get(c) or []] for c in ("prompt", "chosen", "rejected")
        )
        if not chosen or not rejected:
            raise InputError(f"mixture file {_where(path)!r}", "must hold chosen and rejected in every row")
        prompt = prompt or [_turn(path, m) for m in record.get("messages") or []]
        yield Pair(prompt, chosen, rejected, _parsed(path, "tools", record.get("tools")))


def holds_pairs(files: list[Path]) -> bool:
    """Whether every row is a preference pair. A pool's file has the columns too, null where there is none.

    Raises:
        InputError: a file is damaged, or some rows are pairs and others not.
    """
    pairs = rows = 0
    for path in files:
        with _opened(path) as parquet:
            rows += parquet.metadata.num_rows
            if not {"chosen", "rejected"} <= set(parquet.schema_arrow.names):
                continue
            answers = pl.DataFrame(pl.from_arrow(parquet.read(["chosen", "rejected"])))
            if any(not isinstance(t, pl.List | pl.Null) for t in answers.dtypes):
                need, got = "must hold preference pairs as turns (role, content)", str(answers["chosen"].dtype)
                raise InputError(f"mixture file {_where(path)!r}", need, got=got)
            if pl.Null not in answers.dtypes:
                pairs += answers.filter(pl.all_horizontal(pl.all().list.len() > 0)).height
    if 0 < pairs < rows:
        where = f"{files[0].parent.name}/*.parquet"
        got = f"{pairs:,} pairs in {rows:,} rows"
        raise InputError(f"mixture files {where!r}", "must hold preference pairs in every row or in none", got=got)
    return bool(rows) and pairs == rows


def _records(files: list[Path], columns: tuple[str, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in files:
        with _opened(path) as parquet:
            present = set(parquet.schema_arrow.names)
            if not present & {"text", "messages"} and not {"chosen", "rejected"} <= present:
                need = "must have a column text or messages"
                raise InputError(f"mixture file {_where(path)!r}", need, got=parquet.schema_arrow.names)
            for batch in parquet.iter_batches(READ_ROWS, columns=[c for c in columns if c in present]):
                for record in batch.to_pylist():
                    yield path, record


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(
            f"mixture file {_where(path)!r}",
            "must be a readable Parquet file",
            got=str(e),
            next_step="Build the mixture again",
        ) from e


def as_rows(frame: pl.DataFrame) -> list[Row]:
    """Rows of a table with `text`, and perhaps `messages` and `tools`.

    Raises:
        InputError: it holds preference pairs.
    """
    columns = [c for c in ("text", "messages", "tools", "chosen") if c in frame.columns]
    return [_row(Path("pool"), record) for record in frame.select(columns).iter_rows(named=True)]


def texts(files: list[Path]) -> Iterator[str]:
    """The characters that a tokenizer should know: documents, and the turns of conversations."""
    for row in _shown(files):
        if row.text is not None:
            yield row.text
        for turn in row.messages or []:
            if content := turn.get("content"):
                yield content


def _shown(files: list[Path]) -> Iterator[Row]:
    if not holds_pairs(files):
        yield from read_rows(files)
        return
    for pair in read_pairs(files):
        yield Row(messages=[*pair.prompt, *pair.chosen, *pair.rejected])


def _row(path: Path, record: dict[str, Any]) -> Row:
    if record.get("chosen"):
        raise InputError(
            f"mixture file {_where(path)!r}",
            "must hold documents or conversations",
            got="preference pairs (chosen, rejected)",
            next_step="Use them alone, as a mixture of pairs",
        )
    messages = record.get("messages")
    if not messages:
        return Row(text=record.get("text"))
    meta = record.get("meta") or ""
    marked = json.loads(meta)["loss_turns"] if meta.startswith('{"builder":') and '"loss_turns":' in meta else ()
    tools = _parsed(path, "tools", record.get("tools"))
    return Row(messages=[_turn(path, m) for m in messages], tools=tools, loss_turns=tuple(marked))


def _turn(path: Path, message: dict[str, Any]) -> dict[str, Any]:
    turn = {k: v for k, v in message.items() if v is not None}
    if "tool_calls" in turn:
        turn["tool_calls"] = _parsed(path, "tool_calls", turn["tool_calls"])
    return turn


def _parsed(path: Path, column: str, value: Any) -> Any:
    """JSON columns are strings in a mixture: their objects have no fixed schema."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except ValueError as e:
        raise InputError(f"column {column!r} of {_where(path)!r}", "must hold JSON", got=value) from e


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
