"""Cut a stream at the elements of one tag, without parsing what is around them.

For files that are a long run of `<tag …>…</tag>`: each element stands alone, so one that is broken costs only itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from mixtura.pipeline.reading import Broken, Damage, Stream, broken, decoded, too_long
from mixtura.rows import MAX_RAW

DECLARED = re.compile(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["']""")


class Block(NamedTuple):
    """An element with its tags (`inside`), or the bytes between two elements."""

    offset: int
    raw: bytes
    inside: bool


def blocks(stream: Stream, tag: str) -> Iterator[Block | Broken]:
    """Elements, what is between them, and what is broken, in order; together they are every byte of the stream.

    Args:
        stream: UTF-8 or another encoding that keeps ASCII bytes.
        tag: name of the element; it must not nest.
    """
    yield from _Cutter(stream, tag).run()


def parse(raw: bytes, declared: str | None = None) -> ElementTree.Element:
    """One element, parsed alone: it has no DTD, so there are no entities to expand and nothing to fetch.

    Raises:
        ValueError: a quarantine error.
    """
    if declared is None or declared.lower() in ("utf-8", "utf8", "us-ascii"):
        text = decoded(raw)
    else:
        try:
            text = raw.decode(declared)
        except (LookupError, UnicodeError) as e:
            raise ValueError(f"bad-encoding: the element is not {declared} ({e})") from e
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as e:
        raise ValueError(f"bad-xml: {e}") from e


def declared_encoding(raw: bytes) -> str | None:
    """The encoding that an XML declaration names."""
    found = DECLARED.search(raw[:1024])
    return found[1].decode() if found else None


class _Cutter:
    def __init__(self, stream: Stream, tag: str) -> None:
        self.chunks, self.limit = stream.chunks(), stream.max_record_bytes
        self.opens = re.compile(b"<" + re.escape(tag.encode()) + rb"[\s>]")
        self.closes = f"</{tag}>".encode()
        self.reach = len(self.closes) + 1  # a mark may be cut by the end of the data
        self.data, self.offset, self.damage = bytearray(), 0, None

    def run(self) -> Iterator[Block | Broken]:
        while True:
            start = self._find(0)
            if start > 0:
                offset = self.offset
                yield Block(offset, self._take(start), inside=False)
            elif start < 0:  # only what is between
                more = len(self.data) > self.limit
                if self.data:
                    offset = self.offset
                    yield Block(offset, self._take(len(self.data) - (self.reach if more else 0)), inside=False)
                if more:
                    continue
                if self.damage:
                    yield Broken(self.offset, self.damage.error, b"", 0)
                return
            else:
                yield self._element()
                if self.damage and not self.data:
                    return

    def _element(self) -> Block | Broken:
        """The element that starts the data."""
        offset, at = self.offset, 1
        while True:
            end = self.data.find(self.closes, at)
            following = self.opens.search(self.data, at, end if end >= 0 else len(self.data))
            if following:
                return broken(
                    offset, "unclosed: the element does not end before the next", self._take(following.start())
                )
            if end >= 0 and end + len(self.closes) <= self.limit:
                return Block(offset, self._take(end + len(self.closes)), inside=True)
            if len(self.data) > self.limit:
                return self._pass(offset)
            at = max(len(self.data) - self.reach, 1)
            if not self._more():
                error = self.damage.error if self.damage else "unclosed: the element does not end"
                return broken(offset, error, self._take(len(self.data)))

    def _pass(self, offset: int) -> Broken:
        """Leave an element behind that is too long to hold."""
        kept, size, at = bytes(self.data[:MAX_RAW]), 0, 1
        while True:
            end, following = self.data.find(self.closes, at), self.opens.search(self.data, at)
            if end >= 0 and (following is None or end < following.start()):
                return Broken(offset, too_long(self.limit), kept, size + len(self._take(end + len(self.closes))))
            if following:
                return Broken(offset, too_long(self.limit), kept, size + len(self._take(following.start())))
            size += len(self._take(max(len(self.data) - self.reach, 0)))
            at = 0
            if not self._more():
                return Broken(offset, too_long(self.limit), kept, size + len(self._take(len(self.data))))

    def _find(self, at: int) -> int:
        """Where the next element starts; -1 where the data has none and is at its end or longer than the limit."""
        while True:
            if found := self.opens.search(self.data, at):
                return found.start()
            at = max(len(self.data) - self.reach, 0)
            if len(self.data) > self.limit or not self._more():
                return -1

    def _take(self, size: int) -> bytes:
        taken = bytes(self.data[:size])
        del self.data[:size]
        self.offset += size
        return taken

    def _more(self) -> bool:
        if self.damage:
            return False
        try:
            chunk = next(self.chunks, None)
        except Damage as damage:
            self.damage = damage
            return False
        self.data += chunk or b""
        return chunk is not None
