"""The records of one file, with the content that each becomes: the right reader, its options, the file's shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import fsspec
from pydantic import ValidationError

from mixtura import registry
from mixtura.errors import InputError, nearest
from mixtura.pipeline.locate import File
from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken, open_stream, read_stream, reader_for
from mixtura.pipeline.shapes import Shape, as_json, shape_of
from mixtura.pipeline.turns import Misfit
from mixtura.recipe import Source

FIRST = 32  # good records that decide a file's shape
FIRST_BYTES = 32 << 20  # or fewer, where they are huge or broken
TOGETHER = 64  # records whose content is made in one step; with their bytes they stay in the processor's cache
TOGETHER_BYTES = 256 << 10


class Together(NamedTuple):
    """Neighbouring good records, column by column; in rows they would cost twice the time.

    columns: of rows.ROW, each as long as `offsets`; a missing one is null.
    bytes: of the records.
    """

    offsets: list[int]
    columns: dict[str, list[Any]]
    bytes: int


def word_of(source: str, spec: Source, file: File) -> str:
    """The reader's word for a file: the recipe's `format`, or what its ending says.

    Raises:
        InputError: neither knows a reader.
    """
    word = spec.format or reader_for(file.name)
    if word is None:
        choices = ", ".join(registry.words("readers"))
        raise InputError(f"sources.{source}.format", f"must be one of {choices} for this ending", got=file.name)
    if word not in registry.words("readers"):
        registry.find("readers", word)  # raises, with the choices and the nearest
    return word


def options_of(source: str, spec: Source, reader: Reader) -> Spec:
    """The recipe's `options`, checked by the reader.

    Raises:
        InputError: an unknown or wrong option, by its path.
    """
    try:
        return reader.Options.model_validate(spec.options)
    except ValidationError as e:
        fault = e.errors()[0]
        key = str(fault["loc"][0]) if fault["loc"] else ""
        known = list(reader.Options.model_fields)
        need = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            need = f"must be one of the reader's options {known}" if known else "must be left out: the reader has none"
        raise InputError(
            f"sources.{source}.options.{key}", need, got=fault["input"], next_step=nearest(key, known)
        ) from e


def open_records(
    source: str, spec: Source, file: File, opened: BinaryIO
) -> tuple[Stream, Iterator[tuple[Record, dict[str, Any]] | Broken]]:
    """An open file's stream, and every record in it with its row content, in order, or what is wrong with it.

    The first FIRST good records decide the file's shape; see `shapes`.
    """
    stream, found, shape = _open(source, spec, file, opened)
    return stream, _shaped(found, shape)


def open_together(
    source: str, spec: Source, file: File, opened: BinaryIO
) -> Iterator[Together | tuple[Record, dict[str, Any]] | Broken]:
    """The same records; runs of them that are good documents come as columns."""
    _, found, shape = _open(source, spec, file, opened)
    for batch in _batches(found):
        good = [item for item in batch if isinstance(item, Record)]
        columns = shape.many([r.value for r in good]) if len(good) == len(batch) else None
        if columns is None:
            yield from _shaped(iter(batch), shape)
        else:
            size = sum([len(r.raw or t) for r, t in zip(good, columns["text"], strict=True)])
            yield Together([r.offset for r in good], columns, size)


def _open(source: str, spec: Source, file: File, opened: BinaryIO) -> tuple[Stream, Iterator[Record | Broken], Shape]:
    reader: Reader = registry.find("readers", word_of(source, spec, file))
    stream = open_stream(opened, file.name, reader, max_record_bytes=spec.max_record_bytes, max_ratio=spec.max_ratio)
    found = read_stream(stream, reader, options_of(source, spec, reader))
    first: list[Record | Broken] = []
    good = size = 0
    for item in found:
        first.append(item)
        good += isinstance(item, Record)
        size += len(item.raw or b"")
        if good >= FIRST or size >= FIRST_BYTES:
            break
    shape = shape_of(spec, [r.value for r in first if isinstance(r, Record)], file.name)
    return stream, chain(first, found), shape


def _batches(found: Iterator[Record | Broken]) -> Iterator[list[Record | Broken]]:
    held: list[Record | Broken] = []
    size = 0
    for item in found:
        held.append(item)
        size += len(item.raw or b"")
        if len(held) == TOGETHER or size >= TOGETHER_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _shaped(found: Iterator[Record | Broken], shape: Shape) -> Iterator[tuple[Record, dict[str, Any]] | Broken]:
    for item in found:
        if isinstance(item, Broken):
            yield item
            continue
        try:
            yield item, shape(item.value)
        except Misfit as misfit:
            raw = as_json(item.value) if item.raw is None else item.raw
            yield broken(item.offset, str(misfit), raw)


def open_file(file: File) -> BinaryIO:
    """A file's stored bytes, local or remote.

    Raises:
        InputError: it is gone or cannot be read.
    """
    try:
        if "://" in file.url:
            return fsspec.open(file.url, "rb").open()  # type: ignore[return-value]
        return open(file.url, "rb")
    except (OSError, ImportError) as e:
        raise InputError(f"file {file.name!r}", f"must be readable: {e}") from e
