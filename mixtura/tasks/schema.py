"""JSON Schema of an answer: checked when the task pool is read, and against every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from jsonschema import Draft202012Validator, SchemaError


def check(schema: dict[str, Any]) -> None:
    """See that a schema is one.

    Raises:
        ValueError: it is no JSON Schema (2020-12), or refers to another document.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as e:
        at = ".".join(str(p) for p in e.absolute_path)
        raise ValueError(f"output_schema must be a JSON Schema: {at + ': ' if at else ''}{e.message}") from None
    if outside := [r for r in _references(schema) if not r.startswith("#")]:
        raise ValueError(f"output_schema must refer to itself only; got {outside}")


def is_text(schema: dict[str, Any]) -> bool:
    """Whether answers are plain text rather than JSON."""
    return schema.get("type") == "string"


def problems(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with an answer's value, a sentence each; [] where it is valid."""
    found = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: ([str(p) for p in e.path], e.message))
    return [f"{'.'.join(str(p) for p in e.absolute_path) or 'answer'}: {e.message}" for e in found]


def parse(schema: dict[str, Any], text: str) -> Any:
    """An answer's value from its text: the text itself, stripped, or JSON, by the schema's type.

    Raises:
        ValueError: it is not JSON where it must be.
    """
    if is_text(schema):
        return text.strip()
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise ValueError(f"the answer is not JSON: {e}") from None


def write(schema: dict[str, Any], value: Any) -> str:
    """An answer's text from its value; `parse` gives the value back."""
    return value if is_text(schema) and isinstance(value, str) else orjson.dumps(value).decode()


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
