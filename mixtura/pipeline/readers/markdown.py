"""Markdown: one file is one document, its first heading the title; the marks stay in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mixtura.pipeline.readers.plain_text import text
from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken

HEADING = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)


def read(stream: Stream, options: Spec) -> Iterator[Record | Broken]:
    """The file as `{"text": …, "title": …}` at offset 0; nothing for an empty file."""
    raw = stream.whole()
    if isinstance(raw, Broken):
        yield raw
        return
    try:
        document = text(raw, None)
    except ValueError as e:
        yield broken(0, str(e), raw)
        return
    if document:
        heading = HEADING.search(document)
        yield Record(0, {"text": document} | ({"title": heading[1]} if heading else {}), raw)


READER = Reader(read, endings=(".md", ".markdown"))
