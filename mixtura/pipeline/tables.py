"""Parquet the house way: zstd, page checksums, row groups of a fixed size whatever came in."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "write_page_checksum": True}


def write(path: Path, table: pa.Table | pl.DataFrame, group_rows: int = 1 << 16) -> None:
    """Write a table that fits in memory."""
    arrow = table.to_arrow() if isinstance(table, pl.DataFrame) else table
    pq.write_table(_plain(arrow), path, row_group_size=group_rows, **OPTIONS)


def ragged(values: np.ndarray, there: np.ndarray) -> pl.Series:
    """A column of lists out of a matrix: of each row the values that are `there`, in order.

    Args:
        values: [n, k].
        there: bool[n, k].
    """
    ends = np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int64)
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(ends, values[there])))


class Writer:
    """Write a table piece by piece; the file's bytes depend on the rows, not on how they came.

    Args:
        path: the file.
        schema: of every piece.
        group_rows: rows in a row group; also the most rows held in memory.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_rows: int = 1 << 14) -> None:
        self.schema, self.group_rows, self.rows = schema, group_rows, 0
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._file = pq.ParquetWriter(path, schema, **OPTIONS)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and (self._held_rows or not self.rows):
            self._flush(self._held_rows)
        self._file.close()

    def add(self, piece: pa.Table | pl.DataFrame) -> None:
        """Append rows; columns are cast to the schema, missing ones are null."""
        arrow = conform(piece, self.schema)
        self._held.append(arrow)
        self._held_rows += arrow.num_rows
        while self._held_rows >= self.group_rows:
            self._flush(self.group_rows)

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables(self._held) if self._held else self.schema.empty_table()
        # combined first: chunk borders reach the pages, and with them the bytes
        self._file.write_table(table.slice(0, rows).combine_chunks(), row_group_size=self.group_rows)
        self.rows += rows
        rest = table.slice(rows)
        self._held, self._held_rows = ([rest], rest.num_rows) if rest.num_rows else ([], 0)


def conform(piece: pa.Table | pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The piece with exactly the schema's columns."""
    arrow = piece.to_arrow() if isinstance(piece, pl.DataFrame) else piece
    columns = [
        arrow[f.name].cast(f.type) if f.name in arrow.column_names else pa.nulls(arrow.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def _plain(table: pa.Table) -> pa.Table:
    """Polars' large and view types as the ordinary ones that every reader knows."""
    return table.cast(pa.schema([pa.field(f.name, _plain_type(f.type), f.nullable) for f in table.schema]))


def _plain_type(t: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(t) or pa.types.is_string_view(t):
        return pa.string()
    if pa.types.is_large_binary(t) or pa.types.is_binary_view(t):
        return pa.binary()
    if pa.types.is_large_list(t):
        return pa.list_(_plain_type(t.value_type))
    if pa.types.is_struct(t):
        return pa.struct([pa.field(f.name, _plain_type(f.type)) for f in t])
    return t
