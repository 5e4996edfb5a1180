"""The mixture described in Croissant, the JSON-LD vocabulary that dataset search engines and loaders read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mixtura.pipeline.mixture import ABOUT, CONTENT, MARKS
from mixtura.pipeline.summary import Summary

# The context of Croissant 1.0 (its specification, "Appendix: JSON-LD context").
JSON_TERMS = ("data", "examples")
WORDS = """citeAs column conformsTo containedIn equivalentProperty extract field fileProperty fileObject fileSet format
includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate
separator source subField transform"""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{word: {"@id": f"cr:{word}", "@type": "@json"} for word in JSON_TERMS},
    **{word: f"cr:{word}" for word in WORDS.split()},
    "conformsTo": "dct:conformsTo",
}
PARQUET = "application/x-parquet"


def render_croissant(summary: Summary, files: Mapping[str, Mapping[str, Any]]) -> str:
    """The description as JSON.

    Args:
        summary: of the finished mixture.
        files: path inside the mixture's folder → `bytes`, `sha256`; only the Parquet files of splits are described.

    Returns:
        JSON-LD, ending in one newline; the same arguments give the same bytes.
    """
    parts = {split: sorted(n for n in files if n.startswith(f"{split}/")) for split in summary.splits}
    parts = {split: names for split, names in parts.items() if names}
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": summary.name,
        "description": (
            f"Training mixture of {summary.total.rows} rows and {summary.total.tokens} tokens, selected by Mixtura "
            f"from {', '.join(s.name for s in summary.sources)}."
        ),
        "version": "1.0.0",
        "license": sorted(n for n, rows in summary.licenses.items() if rows) or ["unknown"],
        "url": "README.md",
        "keywords": ["training mixture", *sorted({s.selector for s in summary.selections})],
        "inLanguage": sorted(tag for tag in summary.languages if tag),
        "distribution": [_object(n, files[n]) for names in parts.values() for n in names]
        + [_set(split, names) for split, names in parts.items()],
        "recordSet": [_records(split, summary) for split in parts],
    }
    return json.dumps(described, ensure_ascii=False, indent=1) + "\n"


def _object(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{facts['bytes']} B",
        "encodingFormat": PARQUET,
        "sha256": facts["sha256"],
    }


def _set(split: str, names: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "containedIn": [{"@id": n} for n in names],
        "encodingFormat": PARQUET,
        "includes": f"{split}/*.parquet",
    }


def _records(split: str, summary: Summary) -> dict[str, Any]:
    columns = [pa.field("id", pa.string()), *CONTENT[summary.form], *ABOUT, *([MARKS] if summary.marks else [])]
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"{summary.splits[split].rows} rows.",
        "field": [_field(split, column) for column in columns],
    }


def _field(split: str, column: pa.Field) -> dict[str, Any]:
    name = f"{split}/{column.name}"
    field: dict[str, Any] = {"@type": "cr:Field", "@id": name, "name": name}
    kind = column.type
    if isinstance(kind, pa.ListType):  # turns, marks
        parts = [p for p in kind.value_type if p.name != "tool_calls"]
        return field | {
            "repeated": True,
            "subField": [
                {"@type": "cr:Field", "@id": f"{name}/{p.name}", "name": f"{name}/{p.name}", "dataType": _type(p.type)}
                | {"source": _source(split, column.name) | {"transform": {"jsonPath": f"$[*].{p.name}"}}}
                for p in parts
            ],
        }
    return field | {"source": _source(split, column.name), "dataType": _type(kind)}


def _type(kind: pa.DataType) -> str:
    if pa.types.is_string(kind):
        return "sc:Text"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    return "sc:Integer" if pa.types.is_integer(kind) else "sc:Float"


def _source(split: str, column: str) -> dict[str, Any]:
    return {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}}
