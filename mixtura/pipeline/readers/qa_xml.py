"""Question-answer XML as MedQuAD has it: `<QAPair>` elements in a `<Document>` with a `<Focus>`.

Ben Abacha, Demner-Fushman 2019, A Question-Entailment Approach to Question Answering.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from pydantic import Field

from mixtura.pipeline.blocks import Block, blocks, declared_encoding, parse
from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken

ATTRIBUTES = re.compile(r'([\w:-]+)\s*=\s*"([^"]*)"')


class Options(Spec):
    """Options of the reader: the names of the elements."""

    pair: str = Field("QAPair", description="Element around one question and its answer.", pattern=r"^[\w.-]+$")
    question: str = Field("Question", description="Element of the question.", pattern=r"^[\w.-]+$")
    answer: str = Field("Answer", description="Element of the answer.", pattern=r"^[\w.-]+$")


def read(stream: Stream, options: Options) -> Iterator[Record | Broken]:
    """Each pair as `{prompt, completion}` with its question's attributes and its document's id, url, focus, CUI.

    An offset is the byte at which the pair starts. What stands before the pairs is the document's head.
    """
    encoding, facts = None, {}
    for block in blocks(stream, options.pair):
        if isinstance(block, Broken):
            yield block
        elif block.inside:
            yield _pair(block, encoding, facts, options)
        elif b"<Document" in block.raw or block.offset == 0:
            encoding = declared_encoding(block.raw) or encoding
            if b"<" not in block.raw:
                yield broken(block.offset, "not-xml: the file has no element", block.raw)
            facts = _head(block.raw.decode("utf-8", "replace"))


def _head(text: str) -> dict[str, str]:
    facts = {}
    if found := re.search(r"<Document\b([^>]*)>", text):
        names = {"id": "document", "source": "source", "url": "url"}
        facts = {names[k]: html.unescape(v) for k, v in ATTRIBUTES.findall(found[1]) if k in names}
    for name in ("Focus", "CUI", "SemanticGroup"):
        if found := re.search(rf"<{name}>([^<]*)</{name}>", text):
            facts[{"SemanticGroup": "semantic_group"}.get(name, name.lower())] = html.unescape(found[1]).strip()
    return facts


def _pair(block: Block, encoding: str | None, facts: dict[str, str], options: Options) -> Record | Broken:
    try:
        pair = parse(block.raw, encoding)
    except ValueError as e:
        return broken(block.offset, str(e), block.raw)
    question, answer = pair.find(options.question), pair.find(options.answer)
    if question is None or answer is None:
        return broken(
            block.offset, f"no-pair: the element must have {options.question} and {options.answer}", block.raw
        )
    value = facts | dict(question.attrib)
    value |= {"prompt": "".join(question.itertext()).strip(), "completion": "".join(answer.itertext()).strip()}
    return Record(block.offset, value, block.raw)


READER = Reader(read, Options=Options)
