"""JSON files: an array of objects, one object, or objects in a row (one a line, or pretty-printed).

Read element by element, so that memory is one chunk and one element however long the array is. The scan finds where
elements end (strings and brackets only); orjson then decides whether they are JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson
from pydantic import Field

from mixtura.pipeline.readers import jsonl
from mixtura.pipeline.reading import Broken, Damage, Reader, Record, Spec, Stream, broken, too_long
from mixtura.rows import MAX_RAW

# a whole string, a bracket, or a quote whose string is not whole yet
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]"]', re.DOTALL)
BLANK = re.compile(rb"[\s,]*")
SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^,\]\s]+', re.DOTALL)
ALONE = re.compile(rb"^\{\s*$", re.MULTILINE)  # how a pretty-printed object starts
PEEK = 64 << 10


class Options(Spec):
    """Options of the reader."""

    records: str | None = Field(None, description="Key of the array, where the file is one object that holds it.")


def read(stream: Stream, options: Options) -> Iterator[Record | Broken]:
    """Each element; an offset is the byte at which it starts.

    A broken element costs itself: the scan goes on at the next line that starts like the first element did, or,
    where the array has no such lines, after its closing bracket.
    """
    window = _Window(stream)
    window.fill(PEEK)
    if window.data.startswith(b"\xef\xbb\xbf"):
        window.drop(3)
    if options.records is None and _is_lines(window.data):
        yield from jsonl.read(window.as_stream(), options)
        return
    try:
        if options.records is not None and not _enter(window, options.records):
            yield broken(0, f"no-records: the file has no array {options.records!r}", bytes(window.data))
            return
        yield from _elements(window, inner=options.records is not None)
    except Damage as damage:
        yield Broken(window.offset, damage.error, bytes(window.data[:MAX_RAW]), len(window.data))


class _Window:
    """The part of the stream that is being looked at.

    data: bytes from `offset` on.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self.chunks = stream, stream.chunks()
        self.data, self.offset, self.ended = bytearray(), 0, False
        self.damage: Damage | None = None

    def more(self) -> bool:
        """Append a chunk; False at the end.

        Raises:
            Damage: the stream breaks here.
        """
        if self.damage:
            raise self.damage
        chunk = next(self.chunks, None)
        self.ended = chunk is None
        self.data += chunk or b""
        return not self.ended

    def fill(self, size: int) -> None:
        """Hold at least `size` bytes where there are so many; damage waits until it is reached."""
        try:
            while len(self.data) < size and self.more():
                pass
        except Damage as damage:
            self.damage = damage

    def drop(self, size: int) -> None:
        """Leave the first `size` bytes behind."""
        del self.data[:size]
        self.offset += size

    def as_stream(self) -> Stream:
        """The rest as a stream of its own, for another reader; offsets are those of the file."""
        return _Rest(self)


class _Rest(Stream):
    def __init__(self, window: _Window) -> None:
        self.window, self.name, self.max_record_bytes = window, window.stream.name, window.stream.max_record_bytes

    def chunks(self) -> Iterator[bytes]:
        if self.window.offset:
            yield b"\xef\xbb\xbf"[: self.window.offset]  # `lines` counts the mark
        yield bytes(self.window.data)
        if self.window.damage:
            raise self.window.damage
        yield from self.window.chunks


def _is_lines(start: bytearray) -> bool:
    """Whether the file is JSON Lines under the name `.json`: its first or its second line is a whole object's start."""
    text = bytes(start).lstrip()
    first, _, rest = text.partition(b"\n")
    if not first.startswith(b"{") or ALONE.search(text):
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return rest.startswith(b"{")
    return True


def _elements(window: _Window, *, inner: bool) -> Iterator[Record | Broken]:
    """Elements of the array, or objects in a row; `inner` is over where its array is."""
    in_array, indent = False, None
    while True:
        blank = BLANK.match(window.data)
        between = bytes(window.data[: blank.end()]) if blank else b""
        window.drop(len(between))
        if not window.data:
            if not window.more():
                break
            continue
        lead = window.data[:1]
        if not in_array and lead == b"[" and indent is None:
            in_array, indent = True, b""
            window.drop(1)
        elif in_array and lead == b"]":
            in_array = False
            window.drop(1)
            if inner:
                return
        else:
            if not indent and lead == b"{":  # how elements start, to find the next one after a broken one
                indent = between[between.rfind(b"\n") :] if b"\n" in between else b""
            yield _element(window, indent or b"")
            indent = b"" if indent is None else indent
    if in_array:
        yield Broken(window.offset, "truncated: the array has no closing bracket", b"", 0)


def _element(window: _Window, indent: bytes) -> Record | Broken:
    """Take one element off the window."""
    offset = window.offset
    end = _end(window)
    raw = bytes(window.data[: end or len(window.data)])
    if end is not None:
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as e:
            error = jsonl.json_error(raw, e)
        else:
            window.drop(end)
            if isinstance(value, dict):
                return Record(offset, value, raw)
            return broken(offset, jsonl.not_an_object(value), raw)
    elif len(raw) > window.stream.max_record_bytes:
        error = too_long(window.stream.max_record_bytes)
    else:
        error = "bad-json: the element does not end"
    return _resume(window, offset, error, raw, indent)


def _end(window: _Window) -> int | None:
    """Length of the element at the start of the window; None where it does not end, or not within the limit."""
    depth, at = 0, 0
    if window.data[:1] not in (b"{", b"["):
        while True:
            scalar = SCALAR.match(window.data)
            if scalar and scalar.end() < len(window.data):
                return scalar.end()
            if len(window.data) > window.stream.max_record_bytes:
                return None
            if not window.more():
                return scalar.end() if scalar else len(window.data)
    while True:
        token = TOKEN.search(window.data, at)
        if token is None or token[0] == b'"':
            at = len(window.data) if token is None else token.start()
            if len(window.data) > window.stream.max_record_bytes or not window.more():
                return None
            continue
        at, lead = token.end(), token[0][:1]
        if lead in b"{[":
            depth += 1
        elif lead in b"}]":
            depth -= 1
            if depth == 0:
                return at if at <= window.stream.max_record_bytes else None


def _resume(window: _Window, offset: int, error: str, raw: bytes, indent: bytes) -> Broken:
    """Drop a broken element and go to where the next one starts."""
    start = indent + b"{"
    next_one = raw.find(start, 1) if indent else -1
    if next_one >= 0:
        kept = raw[:next_one].rstrip().removesuffix(b",")
        window.drop(next_one + len(indent))
        return broken(offset, error, kept)
    kept, size = raw[:MAX_RAW], len(raw)
    window.drop(size)
    if not error.startswith("too-long"):
        return Broken(offset, error, kept, size)
    while window.data or window.more():  # too long to hold: look for the next start without keeping what is passed
        at = window.data.find(start) if indent else -1
        if at >= 0:
            window.drop(at + len(indent))
            return Broken(offset, error, kept, size + at)
        passed = max(len(window.data) - len(start) + 1, 1) if indent else len(window.data)
        size += min(passed, len(window.data))
        window.drop(min(passed, len(window.data)))
        if window.data and not window.more():
            size += len(window.data)
            window.drop(len(window.data))
    return Broken(offset, error, kept, size)


def _enter(window: _Window, key: str) -> bool:
    """Go to the array that is the value of `key` in the file's one object."""
    depth, at = 0, 0
    opening = re.compile(rb"\s*:\s*(?=\[)")
    while True:
        token = TOKEN.search(window.data, at)
        if token is None or token[0] == b'"' or token.end() + PEEK > len(window.data):
            if not window.ended and len(window.data) <= window.stream.max_record_bytes:
                window.more()
                continue
            if token is None or token[0] == b'"':
                return False
        at = token.end()
        if depth == 1 and token[0] == orjson.dumps(key) and (found := opening.match(window.data, at)):
            window.drop(found.end())
            return True
        depth += (token[0] in b"{[") - (token[0] in b"}]")


READER = Reader(read, endings=(".json",), Options=Options)
