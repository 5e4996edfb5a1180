"""Parquet files written in bounded batches: memory follows a batch, never the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixtura.rows import QUARANTINE, ROW

BATCH_ROWS = 8192
BATCH_BYTES = 32 << 20
# level 1: text shrinks to 40 %, at 400 MB/s; level 3 gains 5 % for half the speed. Nobody asks for minima and maxima
OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "write_statistics": False}
# dictionaries only where values repeat: a tenth less time to write and to read, the same size
REPEATING = ("source", "file", "task", "language", "license")


class _Writer:
    """Collects rows as columns, and writes a row group whenever BATCH_ROWS or BATCH_BYTES is reached.

    Columns, not row mappings: the garbage collector does not walk strings, and it would walk mappings again and again.
    A column may lag behind where rows lacked it; it is filled up with nulls, or with what `same` says, when a row has
    it again or when the rows are written.

    count: rows added so far.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.count = schema, 0
        self.constant: dict[str, Any] = {}
        self._clear()
        self.file: pq.ParquetWriter | None = None

    def same(self, **values: Any) -> None:
        """From now on rows that lack these columns have these values in them: what is so of a whole file."""
        for name in self.constant:
            self._filled(name)
        self.constant = values

    def hold(self, row: Mapping[str, Any], size: int) -> bool:
        """Take a row of about `size` bytes, where a missing column is null; True when it is time to write."""
        names = tuple(row)
        if names != self.names:  # rare: the rows of a file are mostly alike
            self.names, self.appends = names, [self._filled(name).append for name in names]
        for append, value in zip(self.appends, row.values(), strict=True):
            append(value)
        self.count += 1
        self.held += 1
        self.held_bytes += size
        return self.held >= BATCH_ROWS or self.held_bytes >= BATCH_BYTES

    def hold_many(self, columns: Mapping[str, list[Any]], rows: int, size: int) -> bool:
        """Take rows by columns of equal length, of about `size` bytes together; True when it is time to write."""
        for name, values in columns.items():
            self._filled(name).extend(values)
        self.names = ()  # the others lag behind again
        self.count += rows
        self.held += rows
        self.held_bytes += size
        return self.held >= BATCH_ROWS or self.held_bytes >= BATCH_BYTES

    def flush(self, path: Path) -> None:
        """Write what is held into `path`, opening it if it is not."""
        if self.file is None:
            repeating: Any = [n for n in REPEATING if n in self.schema.names]  # the stubs know only a bool
            self.file = pq.ParquetWriter(path, self.schema, use_dictionary=repeating, **OPTIONS)
        if self.held:
            self.file.write_table(pa.Table.from_arrays([self._array(f) for f in self.schema], schema=self.schema))
        self._clear()

    def _clear(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        self.names: tuple[str, ...] = ()
        self.appends: list[Callable[[Any], None]] = []
        self.held = self.held_bytes = 0

    def _filled(self, name: str) -> list[Any]:
        column = self.columns[name]
        column += [self.constant.get(name)] * (self.held - len(column))
        return column

    def _array(self, column: pa.Field) -> pa.Array:
        if not self.columns[column.name]:
            return pa.repeat(pa.scalar(self.constant.get(column.name), column.type), self.held)
        return pa.array(self._filled(column.name), column.type)

    def finish(self) -> None:
        """Write the footer."""
        if self.file is not None:
            self.file.close()
            self.file = None


class RowWriter(_Writer):
    """`rows-00000.parquet`, … of at most `shard_rows` rows each; no file where there is no row."""

    def __init__(self, folder: Path, shard_rows: int) -> None:
        super().__init__(ROW)
        self.folder, self.shard_rows = folder, shard_rows

    def add(self, row: Mapping[str, Any], size: int) -> None:
        """Add one row, a mapping of ROW's columns (missing ones are null) of about `size` bytes."""
        self._written_if(self.hold(row, size))

    def extend(self, columns: Mapping[str, list[Any]], size: int) -> None:
        """Add rows that are given as columns of ROW of equal length, `id` among them, of about `size` bytes."""
        rows = len(columns["id"])
        at = 0
        while at < rows:
            end = min(rows, at + self.shard_rows - self.count % self.shard_rows)
            part = columns if end - at == rows else {k: v[at:end] for k, v in columns.items()}
            self._written_if(self.hold_many(part, end - at, size * (end - at) // rows))
            at = end

    def _written_if(self, due: bool) -> None:
        full = self.count % self.shard_rows == 0
        if due or full:
            self.flush(self._path())
        if full:
            self.finish()

    def close(self) -> None:
        """Write what is left."""
        if self.held:
            self.flush(self._path())
        self.finish()

    def _path(self) -> Path:
        return self.folder / f"rows-{(self.count - 1) // self.shard_rows:05d}.parquet"


class QuarantineWriter(_Writer):
    """`quarantine.parquet`, which is there even when it is empty."""

    def __init__(self, folder: Path) -> None:
        super().__init__(QUARANTINE)
        self.path = folder / "quarantine.parquet"

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record, a mapping of QUARANTINE's columns."""
        if self.hold(record, len(record["raw"])):
            self.flush(self.path)

    def close(self) -> None:
        """Write what is left."""
        self.flush(self.path)
        self.finish()
