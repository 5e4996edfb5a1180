"""Is a value valid? The common part of JSON Schema as plain Python functions, made once for each schema.

The library's validator took half the time of a sub-task row, these take a tenth. A schema with any other keyword is
left to the library, which also words the problems (`schema.problems`): both say yes to the same values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

Valid = Callable[[Any], bool]

ANNOTATIONS = {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "format"}
TYPES: dict[str, Valid] = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: _number(v) and (isinstance(v, int) or v.is_integer()),
    "number": lambda v: _number(v),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}


class _Uncommon(Exception):
    """A keyword, or a value of one, that is left to the library."""


def valid(schema: Mapping[str, Any] | bool) -> Valid:
    """Whether a JSON value fits a schema (2020-12), as `jsonschema` says; `format` is an annotation to both.

    Args:
        schema: checked before, see `schema.check`.
    """
    try:
        return _compiled(schema)
    except _Uncommon:
        return Draft202012Validator(schema).is_valid


def _compiled(schema: Any) -> Valid:
    if isinstance(schema, bool):
        return lambda v: schema
    tests = [t for key in schema if (t := _test(key, schema)) is not None]
    if len(tests) == 1:
        return tests[0]
    return lambda v: all(test(v) for test in tests)


def _test(key: str, schema: Mapping[str, Any]) -> Valid | None:
    """What one keyword asks of a value; None where it asks nothing by itself."""
    if key in ANNOTATIONS:
        return None
    if key not in KEYWORDS:
        raise _Uncommon(key)
    return KEYWORDS[key](schema[key], schema)


def _type(wanted: Any, _: Any) -> Valid:
    if isinstance(wanted, str):
        return TYPES[wanted]
    tests = [TYPES[w] for w in wanted]
    return lambda v: any(t(v) for t in tests)


def _enum(values: Any, _: Any) -> Valid:
    if not all(isinstance(v, str) for v in values):
        raise _Uncommon("enum")  # 1, 1.0 and true: the library knows which are equal
    those = frozenset(values)
    return lambda v: isinstance(v, str) and v in those


def _pattern(pattern: str, _: Any) -> Valid:
    search = re.compile(pattern).search
    return lambda v: not isinstance(v, str) or search(v) is not None


def _properties(properties: Mapping[str, Any], _: Any) -> Valid:
    tests = [(name, _compiled(s)) for name, s in properties.items()]
    return lambda v: not isinstance(v, dict) or all(test(v[name]) for name, test in tests if name in v)


def _required(names: list[str], _: Any) -> Valid:
    return lambda v: not isinstance(v, dict) or all(n in v for n in names)


def _additional(rule: Any, schema: Mapping[str, Any]) -> Valid:
    if rule is not False:
        raise _Uncommon("additionalProperties")
    known = frozenset(schema.get("properties", ()))
    return lambda v: not isinstance(v, dict) or v.keys() <= known


def _items(rule: Any, _: Any) -> Valid:
    test = _compiled(rule)
    return lambda v: not isinstance(v, list) or all(test(each) for each in v)


def _number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool)


def _bound(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Valid]:
    return lambda bound, _: lambda v: not _number(v) or holds(v, bound)


def _size(kind: type, holds: Callable[[int, Any], bool]) -> Callable[[Any, Any], Valid]:
    return lambda bound, _: lambda v: not isinstance(v, kind) or holds(len(v), bound)


KEYWORDS: dict[str, Callable[[Any, Mapping[str, Any]], Valid]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value, schema: _enum([value], schema),
    "pattern": _pattern,
    "minLength": _size(str, lambda n, bound: n >= bound),
    "maxLength": _size(str, lambda n, bound: n <= bound),
    "minItems": _size(list, lambda n, bound: n >= bound),
    "maxItems": _size(list, lambda n, bound: n <= bound),
    "minimum": _bound(lambda v, bound: v >= bound),
    "maximum": _bound(lambda v, bound: v <= bound),
    "exclusiveMinimum": _bound(lambda v, bound: v > bound),
    "exclusiveMaximum": _bound(lambda v, bound: v < bound),
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
}
