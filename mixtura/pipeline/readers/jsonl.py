"""JSON Lines: one object a line, UTF-8. Strict: NaN, lone surrogates and raw control characters break their line."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken, decoded, lines


def read(stream: Stream, options: Spec) -> Iterator[Record | Broken]:
    """Each line that is not blank; an offset is the byte at which the line starts."""
    loads = orjson.loads
    for item in lines(stream):
        if isinstance(item, Broken):
            yield item
            continue
        offset, line = item
        try:
            value = loads(line)
        except orjson.JSONDecodeError as e:
            if line.strip():
                yield broken(offset, json_error(line, e), line)
            continue
        if type(value) is dict:
            yield Record(offset, value, line)
        else:
            yield broken(offset, not_an_object(value), line)


def json_error(raw: bytes, error: orjson.JSONDecodeError) -> str:
    """Why a JSON text does not parse, as a quarantine error: its encoding, a NUL, or its syntax."""
    try:
        decoded(raw)
    except ValueError as e:
        return str(e)
    if b"\0" in raw:
        return f"nul: byte {raw.index(0)} is NUL, which JSON does not allow"
    return f"bad-json: {error}"


def not_an_object(value: object) -> str:
    """The error of a JSON value that is no record."""
    return f"not-an-object: a record must be a JSON object; this is {type(value).__name__}"


READER = Reader(read, endings=(".jsonl", ".ndjson", ".jsonlines"))
