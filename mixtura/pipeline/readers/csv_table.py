"""CSV and TSV after RFC 4180: quoted fields may hold newlines; the first record names the columns.

Records are cut from the bytes before they are decoded, so each has its byte offset and its raw bytes, and a bad byte,
a stray quote or a wrong number of fields costs that record alone.
"""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field, field_validator

from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken, decoded, lines, stem, too_long

RETRY_BYTES = 64 << 20  # how much may be looked at again after stray quotes, so that hostile files stay linear


class Options(Spec):
    """Options of the reader."""

    delimiter: str | None = Field(None, min_length=1, max_length=1, description="By default ',', or tab for .tsv.")
    header: list[str] | None = Field(None, description="Column names of a file whose first record is data.")
    encoding: str = Field("utf-8", description="A codec that keeps ASCII bytes, such as cp1252.")

    @field_validator("encoding")
    @classmethod
    def _keeps_ascii(cls, value: str) -> str:
        try:
            kept = 'a,"\n'.encode(codecs.lookup(value).name) == b'a,"\n'
        except (LookupError, UnicodeError):
            kept = False
        if not kept:
            raise ValueError(f"must be a codec that keeps ASCII bytes, such as cp1252; got {value!r}")
        return value


def read(stream: Stream, options: Options) -> Iterator[Record | Broken]:
    """Each record; an offset is the byte at which it starts."""
    delimiter = options.delimiter or ("\t" if stem(stream.name).endswith((".tsv", ".tab")) else ",")
    csv.field_size_limit(max(stream.max_record_bytes, 1))  # the module has one limit for the process
    header = options.header
    for item in _records(stream, _Dialect(delimiter, options.encoding), len(header) if header else None):
        if isinstance(item, Broken):
            yield item
            if header is None:  # without it no value has a name
                return
            continue
        offset, raw, fields = item
        if header is None:
            header = [name or f"column_{i}" for i, name in enumerate(fields)]
            if len(set(header)) < len(header):
                yield broken(offset, f"bad-header: column names must differ; this file has {header}", raw)
                return
        else:
            yield Record(offset, dict(zip(header, fields, strict=True)), raw)


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    encoding: str

    def fields(self, raw: bytes, width: int | None) -> list[str]:
        """The fields of one record.

        Raises:
            ValueError: a quarantine error.
        """
        text = _decode(raw, self.encoding)
        try:
            fields = next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except csv.Error as e:
            raise ValueError(f"bad-csv: {e}") from e
        if width is not None and len(fields) != width:
            raise ValueError(f"wrong-field-count: the record has {len(fields)} fields, the header {width}")
        return fields

    def stays_open(self, line: bytes, quoted: bool) -> bool:
        """Whether a quoted field is open where a line ends, given whether one is where it starts."""
        if b'"' not in line:
            return quoted
        at, delimiter = 0, self.delimiter.encode()
        while True:
            if quoted:
                at = line.find(b'"', at)
                if at < 0:
                    return True
                if line[at + 1 : at + 2] == b'"':
                    at += 2
                    continue
                quoted = False
            elif line[at : at + 1] == b'"':
                quoted, at = True, at + 1
                continue
            at = line.find(delimiter, at)
            if at < 0:
                return False
            at += 1


def _records(stream: Stream, dialect: _Dialect, width: int | None) -> Iterator[tuple[int, bytes, list[str]] | Broken]:
    """Records with their fields, all as many as the first has.

    Where a record of several lines fails, a stray quote may have swallowed good ones: its first line alone is broken,
    and the others are read again.
    """
    waiting: deque[tuple[int, bytes] | Broken] = deque()
    source, retried = lines(stream), 0
    while (item := waiting.popleft() if waiting else next(source, None)) is not None:
        if isinstance(item, Broken):
            yield item
            continue
        if not item[1].strip():
            continue
        held, size = [item], len(item[1])
        is_open, error = dialect.stays_open(item[1], False), ""
        while is_open and not error:
            following = waiting.popleft() if waiting else next(source, None)
            if following is None or isinstance(following, Broken):
                error = "bad-csv: a quoted field does not end"
                if following is not None:
                    waiting.appendleft(following)
                break
            held.append(following)
            size += len(following[1]) + 1
            is_open = dialect.stays_open(following[1], True)
            if size > stream.max_record_bytes:
                error = too_long(stream.max_record_bytes)
        raw = b"\n".join(line for _, line in held)
        if not error:
            try:
                fields = dialect.fields(raw, width)
            except ValueError as e:
                error = str(e)
            else:
                width = len(fields) if width is None else width
                yield held[0][0], raw, fields
                continue
        if len(held) > 1 and retried < RETRY_BYTES:
            retried += size
            waiting.extendleft(reversed(held[1:]))
            raw = held[0][1]
        yield broken(held[0][0], error, raw)


def _decode(raw: bytes, encoding: str) -> str:
    if encoding == "utf-8":
        text = decoded(raw)
    else:
        try:
            text = raw.decode(encoding)
        except UnicodeError as e:
            raise ValueError(f"bad-encoding: the record is not {encoding} ({e})") from e
    if "\0" in text:
        raise ValueError(f"nul: character {text.index(chr(0))} is NUL")
    return text


READER = Reader(read, endings=(".csv", ".tsv", ".tab"), Options=Options)
