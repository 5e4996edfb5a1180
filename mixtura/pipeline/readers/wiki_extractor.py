"""WikiExtractor's text: `<doc id= url= title=>`, the title, a blank line, the article, `</doc>`.

The title line is dropped from the text, so that a redirect, which has nothing else, is an empty document that clean
drops and counts.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from mixtura.pipeline.blocks import blocks
from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken, decoded

# titles hold quotes that are not escaped, so the last attribute runs to the end of the line
HEAD = re.compile(r'<doc id="(?P<id>.*?)"(?: revid="(?P<revid>.*?)")? url="(?P<url>.*?)" title="(?P<title>.*)">\s*')


def read(stream: Stream, options: Spec) -> Iterator[Record | Broken]:
    """Each document as `{id, url, title, text}`; an offset is the byte at which its tag starts."""
    for block in blocks(stream, "doc"):
        if isinstance(block, Broken):
            yield block
        elif block.inside:
            yield _document(block.offset, block.raw)
        elif block.raw.strip():
            yield broken(block.offset, "outside-doc: text between the documents", block.raw)


def _document(offset: int, raw: bytes) -> Record | Broken:
    try:
        text = decoded(raw)
    except ValueError as e:
        return broken(offset, str(e), raw)
    first, _, body = text.partition("\n")
    head = HEAD.fullmatch(first)
    if head is None:
        return broken(offset, "bad-head: the document's tag has no id, url and title", raw)
    facts = {k: html.unescape(v) for k, v in head.groupdict().items() if v is not None}
    body = body.removesuffix("</doc>").strip()
    title, _, rest = body.partition("\n")
    if html.unescape(title).strip() == facts["title"].strip():
        body = rest.strip()
    return Record(offset, facts | {"text": body}, raw)


READER = Reader(read)
