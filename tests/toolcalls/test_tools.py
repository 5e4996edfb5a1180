"""Schemas of every dialect, and types against the jsonschema library."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.toolcalls.tools import KINDS, read_tools

PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}, "required": ["n"]}
DIALECTS = {
    "openai": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}],
    "bare": [{"name": "f", "parameters": PARAMETERS}],
    "one alone": {"name": "f", "parameters": PARAMETERS},
    "json": json.dumps([{"name": "f", "parameters": PARAMETERS}]),
    "anthropic": [{"name": "f", "input_schema": PARAMETERS}],
    "leaderboard": [{"name": "f", "parameters": {**PARAMETERS, "type": "dict"}}],
    "seal-tools": [
        {
            "api_name": "f",
            "parameters": {"n": {"type": "int"}, "s": {"type": "str"}},
            "required": ["n"],
            "responses": {},
        }
    ],
    "xlam": [{"name": "f", "parameters": {"n": {"type": "int"}, "s": {"type": "str, optional", "default": "x"}}}],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_the_same_tool(dialect):
    (tool,) = read_tools(DIALECTS[dialect]).values()
    assert tool.name == "f"
    assert {k: set(s.kinds) for k, s in tool.arguments.properties.items()} == {"n": {"integer"}, "s": {"string"}}
    assert tool.arguments.required == {"n"}
    assert not tool.arguments.more


@pytest.mark.parametrize("nothing", [None, "", [], "[]"])
def test_no_tools(nothing):
    assert read_tools(nothing) == {}


@pytest.mark.parametrize(
    "wrong",
    ["nonsense", 3, [3], [{}], [{"name": ""}], [{"name": "f", "parameters": [1]}], [{"name": "f"}, {"name": "f"}]],
)
def test_what_is_no_tool_is_told(wrong):
    with pytest.raises(InputError, match="tool"):
        read_tools(wrong)


def test_a_schema_of_any_depth():
    deep: dict = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InputError, match="nest"):
        read_tools([{"name": "f", "parameters": {"properties": {"a": deep}}}])


def _types() -> st.SearchStrategy[dict]:
    words = ["string", "integer", "number", "boolean", "null"]
    leaf = st.sampled_from(words).map(lambda t: {"type": t}) | st.just({})
    union = st.lists(st.sampled_from(words), min_size=1, max_size=3, unique=True).map(lambda t: {"type": t})

    def grown(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
        lists = inner.map(lambda i: {"type": "array", "items": i})
        objects = st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(
            lambda p: {"type": "object", "properties": p}
        )
        return lists | objects

    return st.recursive(leaf | union, grown, max_leaves=5)


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, -1.5]) | st.sampled_from(["", "a"])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("abc"), v, max_size=3), max_leaves=6
)


@given(_types(), VALUES)
def test_types_are_those_of_json_schema(schema, value):
    """Whole decimals apart, which JSON Schema takes for integers and the leaderboard does not."""
    tool = read_tools([{"name": "f", "parameters": {"properties": {"v": schema}}}])["f"]
    oracle = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert tool.arguments.properties["v"].admits(value) == oracle


@pytest.mark.parametrize("word", ["string", "integer", "number", "boolean", "null", "array", "object"])
def test_each_type_and_each_kind_of_value(word):
    tool = read_tools([{"name": "f", "parameters": {"properties": {"v": {"type": word}}}}])["f"]
    for value in (None, True, False, 0, 3, 0.5, "", "3", [], [1], {}, {"a": 1}):
        oracle = jsonschema.Draft202012Validator({"type": word}).is_valid(value)
        assert tool.arguments.properties["v"].admits(value) == oracle, value
    assert tool.arguments.properties["v"].admits(3.0) == (word == "number")  # where we are stricter


@given(st.lists(_types(), min_size=1, max_size=3), SCALARS)
def test_any_of_admits_what_one_of_them_does(schemas, value):
    tool = read_tools([{"name": "f", "parameters": {"properties": {"v": {"anyOf": schemas}}}}])["f"]
    oracle = jsonschema.Draft202012Validator({"anyOf": schemas}).is_valid(value)
    assert tool.arguments.properties["v"].admits(value) == oracle


def test_words_of_types():
    assert set(KINDS.values()) == {
        "string", "integer", "number", "boolean", "array", "tuple", "object", "null"
    }  # fmt: skip
    tool = read_tools([{"name": "f", "parameters": {"properties": {"a": {"type": "List[int]"}, "b": {"type": "any"}}}}])
    properties = tool["f"].arguments.properties
    assert properties["a"].kinds == {"array"}
    assert properties["b"].admits(3)
    assert properties["b"].admits("x")
