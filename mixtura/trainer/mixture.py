"""Read a mixture's splits, row by row, as the trainer sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    for path in files:
        try:
            with pq.ParquetFile(path) as parquet:
                names = _columns(path, parquet.schema_arrow)
                for batch in parquet.iter_batches(READ_ROWS, columns=names):
                    for record in batch.to_pylist():
                        yield _row(path, record)
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
    for row in read_rows(files):
        if row.text is not None:
            yield row.text
        for turn in row.messages or []:
            if content := turn.get("content"):
                yield content


def _columns(path: Path, schema: pa.Schema) -> list[str]:
    present = set(schema.names)
    if not present & {"text", "messages"} and not {"chosen", "rejected"} <= present:
        raise InputError(f"mixture file {_where(path)!r}", "must have a column text or messages", got=schema.names)
    return [n for n in ("text", "messages", "tools", "chosen") if n in present]


def _row(path: Path, record: dict[str, Any]) -> Row:
    if record.get("chosen"):
        raise InputError(
            f"mixture file {_where(path)!r}",
            "must hold documents or conversations",
            got="preference pairs (chosen, rejected)",
            next_step="Train them with a preference trainer that loads the folder, such as TRL's DPOTrainer",
        )
    messages = record.get("messages")
    if not messages:
        return Row(text=record.get("text"))
    return Row(messages=[_turn(path, m) for m in messages], tools=_parsed(path, "tools", record.get("tools")))


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
