"""Tools as they are offered: their parameters and types, read from any dialect of schema.

Read alike: OpenAI (`{"type": "function", "function": {...}}`), bare objects, Anthropic (`input_schema`), the
leaderboard (types `dict`, `float`, `tuple`, `any`), and the flat parameters of Seal-Tools and xLAM
(`{"city": {"type": "str"}}`, without `properties`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixtura.errors import InputError
from mixtura.toolcalls.call import MAX_DEPTH

# a type's word → ours: those of JSON Schema, and `tuple`, which the leaderboard tells from a list; absent: anything
KINDS = {
    "string": "string", "str": "string", "char": "string",
    "integer": "integer", "int": "integer", "long": "integer", "short": "integer", "byte": "integer",
    "bigint": "integer",
    "number": "number", "float": "number", "double": "number", "numeric": "number",
    "boolean": "boolean", "bool": "boolean",
    "array": "array", "list": "array", "arraylist": "array", "set": "array",
    "tuple": "tuple",
    "object": "object", "dict": "object", "dictionary": "object", "hashmap": "object",
    "null": "null", "none": "null",
}  # fmt: skip
KIND_OF = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", tuple: "tuple", dict: "object",
    type(None): "null",
}  # fmt: skip


@dataclass(frozen=True)
class Schema:
    """What a value must be.

    kinds: words of KINDS' right side, one of which it must be; empty: anything.
    items: of an array or tuple; None: anything.
    properties: of an object; empty: anything.
    enum: values that are allowed; None: any.
    default: used where the argument is left out; `has_default` tells None from nothing.
    more: whether an object may have other properties: it lists none, or says so.
    """

    kinds: frozenset[str] = frozenset()
    items: Schema | None = None
    properties: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    enum: tuple[Any, ...] | None = None
    default: Any = None
    has_default: bool = False
    more: bool = True

    def admits(self, value: Any) -> bool:
        """Whether a value has the type, through all levels; a whole number is a number, `True` is neither.

        Values of an enum, required properties and unknown ones are no matter of type.
        """
        kind = KIND_OF[type(value)]
        if self.kinds and kind not in self.kinds:
            promoted = {"integer": "number", "array": "tuple"}.get(kind)
            if promoted not in self.kinds:
                return False
        if kind in ("array", "tuple") and self.items is not None:
            return all(self.items.admits(v) for v in value)
        if kind == "object" and self.properties:
            return all(self.properties[k].admits(v) for k, v in value.items() if k in self.properties)
        return True


ANYTHING = Schema()


@dataclass(frozen=True)
class Tool:
    """One tool: its name, and the schema of its arguments, an object."""

    name: str
    arguments: Schema


Tools = Mapping[str, Tool]


def read_tools(value: Any) -> dict[str, Tool]:
    """Name → tool, in the order they are offered.

    Args:
        value: a list of schemas, one schema, or a JSON string of either; None and '' are no tools.

    Raises:
        InputError: it is no schema of a tool, or two tools have one name.
    """
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as e:
            raise InputError("tools", f"must be JSON ({e})", got=value) from e
    if value is None:
        return {}
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise InputError("tools", "must be a list of schemas", got=value)
    found: dict[str, Tool] = {}
    for one in value:
        tool = _tool(one)
        if tool.name in found:
            raise InputError(f"tool {tool.name!r}", "must be offered once")
        found[tool.name] = tool
    return found


def _tool(value: Any) -> Tool:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        raise InputError("a tool", "must be an object with a name", got=value)
    name = next((value[k] for k in ("name", "api_name", "tool_name") if isinstance(value.get(k), str)), "")
    if not name:
        raise InputError("a tool", "must have a name", got=sorted(map(str, value)))
    given = next((value[k] for k in ("parameters", "input_schema", "arguments") if value.get(k)), {})
    if not isinstance(given, Mapping):
        raise InputError(f"tool {name!r}", "must have parameters that are an object", got=given)
    if not isinstance(given.get("properties"), Mapping) and given:  # Seal-Tools, xLAM: they stand there themselves
        flat = {k: v for k, v in given.items() if isinstance(v, Mapping)}
        given = {"properties": flat, "required": _flat_required(value, flat)}
    return Tool(name, _schema({**given, "type": "object"}, name, 0))


def _flat_required(value: Mapping[str, Any], flat: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names under `required`; else (xLAM) every parameter without default whose type does not say `optional`."""
    if isinstance(value.get("required"), list):
        return [n for n in value["required"] if n in flat]
    return [n for n, p in flat.items() if "default" not in p and "optional" not in str(p.get("type")).lower()]


def _schema(value: Any, where: str, depth: int) -> Schema:
    if not isinstance(value, Mapping):
        return ANYTHING
    if depth > MAX_DEPTH:
        raise InputError(f"tool {where!r}", f"must not nest its schema deeper than {MAX_DEPTH}")
    either = next((value[k] for k in ("anyOf", "oneOf") if isinstance(value.get(k), list)), None)
    if either is not None and "type" not in value:
        return _union([_schema(v, where, depth + 1) for v in either], value)
    properties, enum, required = value.get("properties"), value.get("enum"), value.get("required")
    return Schema(
        kinds=_kinds(value.get("type")),
        items=_schema(value["items"], where, depth + 1) if isinstance(value.get("items"), Mapping) else None,
        properties={str(k): _schema(v, where, depth + 1) for k, v in properties.items()}
        if isinstance(properties, Mapping)
        else {},
        required=frozenset(map(str, required)) if isinstance(required, list) else frozenset(),
        enum=tuple(enum) if isinstance(enum, list) else None,
        default=value.get("default"),
        has_default="default" in value,
        more=not isinstance(properties, Mapping) or bool(value.get("additionalProperties", False)),
    )


def _union(schemas: list[Schema], value: Mapping[str, Any]) -> Schema:
    """One schema that admits what any of them does by kind; items and properties are kept where one alone has them."""
    anything = not schemas or any(not s.kinds for s in schemas)
    items = [s.items for s in schemas if s.items]
    objects = [s for s in schemas if s.properties]
    enums = [s.enum for s in schemas]
    return Schema(
        kinds=frozenset() if anything else frozenset().union(*(s.kinds for s in schemas)),
        items=items[0] if len(items) == 1 else None,
        properties=objects[0].properties if len(objects) == 1 else {},
        enum=tuple(v for e in enums if e for v in e) if enums and all(e is not None for e in enums) else None,
        default=value.get("default"),
        has_default="default" in value,
    )


def _kinds(word: Any) -> frozenset[str]:
    """Of a type's word, of a list of them, or of Python's annotations (`str, optional`, `List[int]`)."""
    words = word if isinstance(word, list) else [word]
    found = set()
    for one in words:
        if not isinstance(one, str):
            return frozenset()
        kind = KINDS.get(one.split(",")[0].split("[")[0].strip().lower())
        if kind is None:  # a word of nobody's: nothing is checked
            return frozenset()
        found.add(kind)
    return frozenset(found)
