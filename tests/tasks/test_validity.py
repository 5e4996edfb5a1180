"""Our yes or no against the library's, over schemas and values that hypothesis makes up."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mixtura.tasks import validity
from mixtura.tasks.validity import ANNOTATIONS, KEYWORDS, valid

NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["", "a", "b", "ab", "é", "\U0001f600", "12", "true"])
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.0, 1.0, 2.5, -0.0, 1e300, float("inf"), float("nan")]))
SMALL = st.integers(0, 3)
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
TYPE = st.sampled_from(sorted(validity.TYPES))


def schemas(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPE | st.lists(TYPE, min_size=1, max_size=2, unique=True),
            "enum": st.lists(TEXTS, min_size=1, max_size=3) | st.lists(VALUES, min_size=1, max_size=3),
            "const": TEXTS | VALUES,
            "pattern": st.sampled_from(["^a", "b$", "^[0-9]+$", "."]),
            **{k: SMALL for k in ("minLength", "maxLength", "minItems", "maxItems")},
            **{k: NUMBERS.filter(lambda n: n == n) for k in ("minimum", "maximum")},
            **{k: NUMBERS.filter(lambda n: n == n) for k in ("exclusiveMinimum", "exclusiveMaximum")},
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "title": TEXTS,
            "uniqueItems": st.booleans(),  # left to the library
        },
    )


SCHEMAS = st.recursive(st.booleans() | schemas(st.booleans()), schemas, max_leaves=4)


@settings(max_examples=600, deadline=None)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=6))
def test_the_library_says_the_same(schema, values):
    ours, theirs = valid(schema), Draft202012Validator(schema)
    for value in values:
        assert ours(value) == theirs.is_valid(value), (schema, value)


def test_the_comparison_met_both_answers_of_every_keyword():
    """Each keyword by itself, so that none is compared only where another already said no."""
    met: Counter[tuple[str, bool]] = Counter()
    samples = [("ab", ""), (2, 9), ([1], []), ({"a": 1}, {"b": "x"}), ("x", None)]
    rules = {
        "type": "string", "enum": ["x", "ab"], "const": "x", "pattern": "^a", "minLength": 1, "maxLength": 1,
        "minItems": 1, "maxItems": 0, "minimum": 3, "maximum": 3, "exclusiveMinimum": 2, "exclusiveMaximum": 9,
        "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False,
        "items": {"type": "string"},
    }  # fmt: skip
    for key, rule in rules.items():
        for value in [v for pair in samples for v in pair]:
            said = valid({key: rule})(value)
            assert said == Draft202012Validator({key: rule}).is_valid(value)
            met[key, said] += 1
    assert set(rules) == set(KEYWORDS)
    assert {(k, a) for k in KEYWORDS for a in (True, False)} == set(met)


@pytest.mark.parametrize("key", ["uniqueItems", "anyOf", "$ref", "patternProperties", "multipleOf"])
def test_what_is_not_common_is_left_to_the_library(key):
    assert key not in KEYWORDS
    assert key not in ANNOTATIONS
    rule = {"uniqueItems": True, "anyOf": [{"type": "null"}], "$ref": "#/$defs/x", "multipleOf": 2}.get(
        key, {"^a": False}
    )
    schema = {key: rule, "$defs": {"x": {"type": "null"}}}
    assert isinstance(getattr(valid(schema), "__self__", None), Draft202012Validator)
