"""TMX 1.4, translation memories: each unit's segments in two languages."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from pydantic import Field

from mixtura.pipeline.blocks import Block, blocks, declared_encoding, parse
from mixtura.pipeline.reading import Broken, Reader, Record, Spec, Stream, broken

LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class Options(Spec):
    """Options of the reader."""

    source_language: str | None = Field(None, description="By default a unit's first language.")
    target_language: str | None = Field(None, description="By default a unit's first other language.")


def read(stream: Stream, options: Options) -> Iterator[Record | Broken]:
    """Each unit as `{source, target, source_language, target_language}` and its `tuid`.

    An offset is the byte at which the unit starts.
    """
    encoding, first = None, True
    for block in blocks(stream, "tu"):
        if isinstance(block, Broken):
            yield block
        elif block.inside:
            yield _unit(block, encoding, options)
        elif first:
            encoding = declared_encoding(block.raw)
            if b"<tmx" not in block.raw:
                yield broken(block.offset, "not-tmx: the file has no <tmx> element", block.raw)
        first = False


def _unit(block: Block, encoding: str | None, options: Options) -> Record | Broken:
    try:
        unit = parse(block.raw, encoding)
    except ValueError as e:
        return broken(block.offset, str(e), block.raw)
    segments: dict[str, str] = {}
    for variant in unit.iter("tuv"):
        language = variant.get(LANG) or variant.get("lang") or ""
        segments.setdefault(language, _segment(variant))
    source = options.source_language or next(iter(segments), None)
    target = options.target_language or next((lang for lang in segments if lang != source), None)
    if source not in segments or target not in segments:
        wanted = f"{source or 'a language'} and {target or 'another'}"
        return broken(block.offset, f"no-pair: the unit must have {wanted}; it has {sorted(segments)}", block.raw)
    value = {"source": segments[source], "target": segments[target]}
    value |= {"source_language": source, "target_language": target}
    if tuid := unit.get("tuid"):
        value["tuid"] = tuid
    return Record(block.offset, value, block.raw)


def _segment(variant: Element) -> str:
    segment = variant.find("seg")
    return "" if segment is None else "".join(segment.itertext()).strip()


READER = Reader(read, endings=(".tmx",), Options=Options)
