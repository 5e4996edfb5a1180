"""Parquet: batch by batch, row group by row group, so that memory follows one row group's pages.

Offsets are row numbers. Rows have no bytes of their own: in quarantine they appear as JSON. A row group that cannot be
read costs its own rows; a file without a footer is one record of quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixtura.pipeline.reading import BOMB_FLOOR, Broken, Reader, Record, Spec, Stream, too_long

BATCH_BYTES = 16 << 20
BATCH_ROWS = 4096
MOST_LOST = 1_000_000  # rows of one unreadable row group that are listed one by one


def read(stream: Stream, options: Spec) -> Iterator[Record | Broken]:
    """Each row; an offset is the row's number in the file."""
    stream.file.seek(0, 2)
    size = stream.file.tell()
    stream.file.seek(0)
    try:
        # checksums where the writer gave them: a flipped bit inside a page is otherwise read as data
        file = pq.ParquetFile(stream.file, buffer_size=1 << 20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as e:
        stream.file.seek(0)
        yield Broken(0, f"bad-footer: not a whole Parquet file ({_first_line(e)})", stream.file.read(64), size)
        return
    start = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        yield from _group(file, group, start, rows, stream)
        start += rows


def _group(file: pq.ParquetFile, group: int, start: int, rows: int, stream: Stream) -> Iterator[Record | Broken]:
    facts = file.metadata.row_group(group)
    stored = sum(facts.column(c).total_compressed_size for c in range(facts.num_columns))
    if facts.total_byte_size > BOMB_FLOOR and facts.total_byte_size > stream.max_ratio * stored:
        error = f"bomb: row group {group} swells more than {stream.max_ratio:g} times (max_ratio)"
        yield from _lost(start, rows, error)
        return
    each = max(facts.total_byte_size // max(rows, 1), 1)
    batches = file.iter_batches(max(1, min(BATCH_ROWS, BATCH_BYTES // each)), row_groups=[group], use_threads=False)
    done = 0
    while done < rows:
        try:
            batch = next(batches)
        except StopIteration:
            yield from _lost(start + done, rows - done, f"bad-page: row group {group} ends early")
            return
        except (pa.ArrowException, OSError) as e:
            yield from _lost(start + done, rows - done, f"bad-page: row group {group} does not read ({_first_line(e)})")
            return
        yield from _rows(batch, start + done, stream.max_record_bytes)
        done += batch.num_rows


def _rows(batch: pa.RecordBatch, start: int, limit: int) -> Iterator[Record | Broken]:
    try:
        batch.validate(full=True)  # or bad UTF-8 would come up only later, and hostile offsets could crash
        values: list[Any] = batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, ValueError, OverflowError):
        values = [_row(batch, i) for i in range(batch.num_rows)]
    heavy = batch.nbytes > limit  # only then can one row be too long
    for number, value in enumerate(values, start):
        if isinstance(value, str):
            yield Broken(number, value, b"", 0)
        elif heavy and (size := sum(len(v) for v in value.values() if isinstance(v, str | bytes))) > limit:
            yield Broken(number, too_long(limit), b"", size)
        else:
            yield Record(number, value)


def _row(batch: pa.RecordBatch, i: int) -> dict[str, Any] | str:
    """One row, or the error that it has."""
    one = batch.slice(i, 1)
    try:
        one.validate(full=True)
        return one.to_pylist()[0]
    except (pa.ArrowException, UnicodeDecodeError, ValueError, OverflowError) as e:
        return f"bad-value: the row has a value that does not read ({_first_line(e)})"


def _lost(start: int, rows: int, error: str) -> Iterator[Broken]:
    for number in range(start, start + min(rows, MOST_LOST)):
        yield Broken(number, error, b"", 0)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


READER = Reader(read, endings=(".parquet", ".pq"), seekable=True)
