"""The row: its Arrow schema, its content id, and its plain text.

A row is one example: a document (`text`), a conversation (`messages`) or a preference pair (`messages` as the
prompt, `chosen`, `rejected`). The id is a hash of that content alone, so it is the same on every machine, in every
shard, and for every file that holds the same example.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import polars as pl
import pyarrow as pa


class Message(TypedDict, total=False):
    """One turn. `tool_calls` is a JSON string: its arguments have no fixed schema."""

    role: str
    content: str | None
    tool_calls: str | None


MESSAGES = pa.list_(
    pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string()), pa.field("tool_calls", pa.string())])
)

ROW = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # 32 hex digits, see content_id
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),  # origin: the file as the recipe names it
        pa.field("offset", pa.int64(), nullable=False),  # origin: byte offset, or row number (see the reader)
        pa.field("text", pa.string()),
        pa.field("messages", MESSAGES),
        pa.field("chosen", MESSAGES),
        pa.field("rejected", MESSAGES),
        pa.field("tools", pa.string()),  # JSON
        pa.field("task", pa.string()),
        pa.field("language", pa.string()),
        pa.field("license", pa.string()),
        pa.field("split_group", pa.string()),  # null: the row stands alone
        pa.field("tokens", pa.int32()),  # set by clean
        pa.field("meta", pa.string()),  # JSON: the columns that the recipe did not map, or what a builder says of it
        pa.field("parents", pa.list_(pa.string())),  # ids of the rows that a builder made it of; null: it was read
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),  # a reason code and a sentence
        pa.field("raw", pa.binary(), nullable=False),  # the first MAX_RAW bytes, unchanged
        pa.field("raw_bytes", pa.int64(), nullable=False),  # length of the whole record
    ]
)

MAX_RAW = 1 << 20  # a longer bad record keeps its first MiB; file and offset lead to the rest

CONTENT = ("text", "messages", "chosen", "rejected", "tools")

_DOCUMENT = hashlib.blake2b(b"t", digest_size=16)
_OTHER = hashlib.blake2b(b"m", digest_size=16)


def canonical(text: str) -> str:
    """Text as the id sees it: NFC, newlines as LF, no surrounding white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def content_id(row: Mapping[str, Any]) -> str:
    """128-bit BLAKE2b of the canonical content, as 32 hex digits.

    A plain document hashes its text; anything else hashes the JSON of its content fields, prefixed so that no
    document can collide with a conversation.
    """
    text = row.get("text")
    if text is not None and not (row.get("messages") or row.get("chosen") or row.get("rejected") or row.get("tools")):
        return _hashed(_DOCUMENT, canonical(text))
    content = {k: _canonical_value(row[k]) for k in CONTENT if row.get(k)}
    return _hashed(_OTHER, json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def document_ids(texts: Sequence[str]) -> list[str]:
    """`content_id` of many plain documents."""
    return [_hashed(_DOCUMENT, canonical(text)) for text in texts]


def _hashed(prefixed: Any, body: str) -> str:
    state = prefixed.copy()  # a copy costs half of what a new one does
    state.update(body.encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _canonical_value(value: Any) -> Any:
    if isinstance(value, str):
        return canonical(value)
    return [{k: canonical(v) if isinstance(v, str) else v for k, v in turn.items() if v is not None} for turn in value]


def plain_text(rows: pl.DataFrame) -> pl.Series:
    """What a selector or an encoder reads of each row: its text, or its turns joined by newlines.

    Args:
        rows: any number of rows with at least `text` and `messages`.

    Returns:
        String series `plain`, in row order, never null.
    """
    turns = [_joined(c) for c in ("messages", "chosen") if c in rows.columns]
    joined = pl.concat_str([pl.col("text").fill_null(""), *turns], separator="\n").str.strip_chars("\n")
    return rows.select(joined.alias("plain"))["plain"]


def _joined(column: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().struct.field("content").fill_null("")).list.join("\n").fill_null("")


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema = ROW) -> pa.Table:
    """An Arrow table from row mappings; a missing column is null."""
    return pa.table({f.name: pa.array([r.get(f.name) for r in rows], f.type) for f in schema}, schema=schema)
