"""Plain text: a file, a line or a paragraph is a document.

UTF-8 first. Where a document is not UTF-8, the option `encoding` says what it is; `auto` lets charset-normalizer
guess, which suits whole files of natural language; by default it is quarantined.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken, decoded, lines

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark starts the same
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Options(Spec):
    """Options of the reader."""

    unit: Literal["file", "line", "paragraph"] = Field("file", description="What one document is.")
    encoding: str | None = Field(None, description="Of text that is not UTF-8; 'auto' guesses per document.")

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value not in (None, "auto"):
            try:
                "a".encode(value)  # finds the codec, and refuses those that make no text, such as zlib
            except LookupError as e:
                raise ValueError(f"must be 'auto' or a Python codec; got {value!r}") from e
        return value


def read(stream: Stream, options: Options) -> Iterator[Record | Broken]:
    """Each document as `{"text": …}`; an offset is the byte at which it starts."""
    for item in _units(stream, options):
        if isinstance(item, Broken):
            yield item
            continue
        offset, raw = item
        try:
            yield Record(offset, {"text": text(raw, options.encoding)}, raw)
        except ValueError as e:
            yield broken(offset, str(e), raw)


def text(raw: bytes, encoding: str | None) -> str:
    """Decode a document: by its byte order mark, as UTF-8, as told, or by a guess.

    Raises:
        ValueError: a quarantine error.
    """
    for mark, codec in MARKS:
        if raw.startswith(mark):
            return _decode(raw, codec)
    try:
        found = decoded(raw)
    except ValueError:
        if encoding is None:
            raise
        found = _guess(raw) if encoding == "auto" else _decode(raw, encoding)
    if "\0" in found:
        raise ValueError(f"nul: character {found.index(chr(0))} is NUL; this is no text, or UTF-16 without its mark")
    return found


def _decode(raw: bytes, codec: str) -> str:
    try:
        return raw.decode(codec)
    except UnicodeError as e:
        raise ValueError(f"bad-encoding: the text is not {codec} ({e})") from e


def _guess(raw: bytes) -> str:
    from charset_normalizer import from_bytes  # 50 ms to import, rarely needed

    best = from_bytes(raw).best()
    if best is None:
        raise ValueError("bad-encoding: the text is in no encoding that charset-normalizer knows")
    return str(best)


def _units(stream: Stream, options: Options) -> Iterator[tuple[int, bytes] | Broken]:
    if options.unit == "file":
        whole = stream.whole()
        if isinstance(whole, Broken) or whole:
            yield whole if isinstance(whole, Broken) else (0, whole)
    elif options.unit == "line":
        for item in lines(stream):
            if isinstance(item, Broken) or item[1].strip():
                yield item if isinstance(item, Broken) else (item[0], item[1].removesuffix(b"\r"))
    else:
        yield from _paragraphs(stream)


def _paragraphs(stream: Stream) -> Iterator[tuple[int, bytes] | Broken]:
    """Runs of lines between blank lines; one longer than `max_record_bytes` is cut there and quarantined."""
    start, held, size = 0, [], 0
    for item in lines(stream):
        if isinstance(item, Broken):
            if held:
                yield start, b"\n".join(held)
            yield item
            held, size = [], 0
        elif not item[1].strip():
            if held:
                yield start, b"\n".join(held)
            held, size = [], 0
        else:
            if size + len(item[1]) > stream.max_record_bytes:
                yield broken(start, "too-long: the paragraph is longer than max_record_bytes", b"\n".join(held))
                held, size = [], 0
            start = start if held else item[0]
            held.append(item[1])
            size += len(item[1]) + 1
    if held:
        yield start, b"\n".join(held)


READER = Reader(read, endings=(".txt", ".text"), Options=Options)
