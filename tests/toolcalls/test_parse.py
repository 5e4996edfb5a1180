"""Calls in every form, against Python's own literals and JSON's own parser."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.toolcalls.call import MAX_CALLS, MAX_DEPTH, Call
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.python_text import python_value

ONE = (Call("find", {"city": "Rome", "n": 2}),)
ARGUMENTS = '{"city": "Rome", "n": 2}'

TAGGED = f'<tool_call>\n{{"name": "find", "arguments": {ARGUMENTS}}}\n</tool_call>'
FUNCTION = {"name": "find", "arguments": ARGUMENTS}
FORMS = {
    "python list": ("[find(city='Rome', n=2)]", "python"),
    "python call": ('find(city="Rome", n=2)', "python"),
    "python over lines": ("[\n  find(\n    city = 'Rome',\n    n = 2,\n  ),\n]", "python"),
    "api-bank": ("API-Request: [find(city='Rome', n=2)]", "python"),
    "python tag": (f'<|python_tag|>{{"name": "find", "parameters": {ARGUMENTS}}}<|eom_id|>', "json"),
    "json": (f'{{"name": "find", "arguments": {ARGUMENTS}}}', "json"),
    "json list": (f'[{{"name": "find", "arguments": {ARGUMENTS}}}]', "json"),
    "python quotes": ("{'name': 'find', 'arguments': {'city': 'Rome', 'n': 2}}", "json"),
    "seal-tools": (f'[{{"api": "find", "parameters": {ARGUMENTS}, "responses": ["a"]}}]', "json"),
    "mistral": (f'[TOOL_CALLS] [{{"name": "find", "arguments": {ARGUMENTS}}}]</s>', "json"),
    "fenced": (f'Here it is:\n```json\n{{"name": "find", "arguments": {ARGUMENTS}}}\n```\nDone.', "json"),
    "hermes": (f"Let me see.\n{TAGGED}", "tags"),
    "hermes, python quotes": ("<tool_call>{'name': 'find', 'arguments': {'city': 'Rome', 'n': 2}}</tool_call>", "tags"),
    "after reasoning": (f"<think>find(x=1)?</think>\n\n{TAGGED}", "tags"),
    "qwen coder": (
        "<tool_call>\n<function=find>\n<parameter=city>\nRome\n</parameter>\n"
        "<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>",
        "xml",
    ),
    "react": (f"Thought: a city\nAction: find\nAction Input: {ARGUMENTS}\nObservation: made up", "react"),
    "openai": (
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": FUNCTION}]},
        "message",
    ),
    "openai, object": (
        {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": json.loads(ARGUMENTS)}}]},
        "message",
    ),
    "a row's turn": (
        {"role": "assistant", "content": None, "tool_calls": json.dumps([{"function": FUNCTION}])},
        "message",
    ),
    "openai, old": ({"role": "assistant", "function_call": FUNCTION}, "message"),
    "anthropic": (
        {
            "content": [
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "name": "find", "input": json.loads(ARGUMENTS)},
            ]
        },
        "message",
    ),
    "text of a message": ({"role": "assistant", "content": "[find(city='Rome', n=2)]"}, "python"),
}


@pytest.mark.parametrize(("answer", "form"), FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_call(answer, form):
    reading = parse(answer)
    assert reading.problem == ""
    assert (reading.calls, reading.form) == (ONE, form)


def test_every_form_was_covered():
    assert {form for _, form in FORMS.values()} == {"message", "tags", "xml", "json", "python", "react"}


@pytest.mark.parametrize(
    "text",
    [
        "f(a=1), g(b='x')",
        "[f(a=1), g(b='x')]",
        "f(a=1)\ng(b='x')",
        "f(a=1); g(b='x');",
        '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n'
        '<tool_call>{"name": "g", "arguments": {"b": "x"}}</tool_call>',
        '{"name": "f", "arguments": {"a": 1}}\n{"name": "g", "parameters": {"b": "x"}}',
        '{"name": "f", "arguments": {"a": 1}}; {"name": "g", "parameters": {"b": "x"}}',
    ],
)
def test_several_calls(text):
    assert parse(text).calls == (Call("f", {"a": 1}), Call("g", {"b": "x"}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        "The price (in euros) is 3.",
        "[1] see the notes",
        "[]",
        '{"answer": 4}',
        "[1, 2, 3]",
        '{"name": "Bob", "age": 4}',
        "[see the docs](http://x)",
        "```python\nx = 1\n```",
        "A <b>bold</b> word",
    ],
)
def test_prose_and_data_are_no_calls(text):
    reading = parse(text)
    assert (reading.calls, reading.problem) == ((), "")


@pytest.mark.parametrize(
    "text",
    [
        "f(a=",
        "[f(a=1)",
        "f(a=1))",
        "f(a=1) and more",
        "f(a=b)",
        "f(a=1+1)",
        "f(a=g(b=1))",
        "f(a=x.y)",
        "f(a=lambda: 1)",
        "f(a=1, a=2)",
        "f(a=[1 2])",
        "f(a={'k' 1})",
        "f(a={1: 2})",
        "f(a='x)",
        "f(a=f'x')",
        "f(a=b'x')",
        "f(a=1j)",
        "f(a=007)",
        "f(a=1e999)",
        "f(a=--1)",
        "f(a={1, 2})",
        "f(a=...)",
        "f(a=not 1)",
        "f(**{'a': 1})",
        "f(*[1])",
        "f(a='\\ud800')",
        "f(a='\ud800')",
        "f(a=[x for x in (1,)])",
        "f(a=1 if 1 else 2)",
        "f(a='%s' % 1)",
        "f(a=(yield))",
        "f(a:=1)",
        "<tool_call>{}</tool_call>",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "f", "arguments": {}}',
        '{"name": "f", "arguments": ',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        "<think>still thinking",
        "Action: f",
        "<function=f><parameter=a>1</function>",
    ],
)
def test_unreadable_attempts_say_so(text):
    reading = parse(text)
    assert reading.calls == ()
    assert reading.problem


@pytest.mark.parametrize("word", ["<tool_call>", "</tool_call>", "```json\n{}\n```", "[TOOL_CALLS]", "Action: g"])
def test_markers_within_a_string_are_text(word):
    for text in (f"[f(a={word!r})]", json.dumps({"name": "f", "arguments": {"a": word}})):
        assert parse(text).calls == (Call("f", {"a": word}),)


def test_values_without_a_name_are_kept_apart():
    assert parse("f(1, 'x', a=2)").calls == (Call("f", {"a": 2}, (1, "x")),)


def test_bounds():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse(f"f(a={deep})").calls
    assert parse(f"f(a=[{deep}])").problem
    assert parse(f'{{"name": "f", "arguments": {{"a": [{deep}]}}}}').problem
    assert parse(",".join(["f()"] * MAX_CALLS)).calls
    assert parse(",".join(["f()"] * (MAX_CALLS + 1))).problem
    assert parse("f(a=" + "9" * 401 + ")").problem
    assert parse('{"name": "f", "arguments": {"a": ' + "9" * 401 + "}}").problem
    assert parse("f(a=" + "9" * 300 + ")").calls == (Call("f", {"a": int("9" * 300)}),)


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.lists(v).map(tuple) | st.dictionaries(TEXTS, v), max_leaves=6)
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(
    lambda n: n not in ("True", "False", "None")
)


@given(VALUES)
def test_a_literal_is_what_python_reads(value):
    """The oracle is the language: `repr` writes it, `ast.literal_eval` and we read it."""
    text = repr(value)
    assert python_value(text) == ast.literal_eval(text) == value
    assert repr(python_value(text)) == text  # 1, 1.0 and True are equal, but not written alike


@given(TEXTS, st.sampled_from(["'", '"', "'''", '"""', "r'", "u'"]))
def test_every_quoting_is_what_python_reads(text, opening):
    closing = opening.lstrip("ru")
    literal = f"{opening}{text}{closing}"
    try:
        wanted = ast.parse(literal, mode="eval").body
        wanted = wanted.value if isinstance(wanted, ast.Constant) else None
    except (SyntaxError, ValueError):
        wanted = None
    read = parse(f"f(a={literal})")
    if wanted is not None and "\x00" not in text:
        assert read.calls == (Call("f", {"a": wanted}),)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4)), min_size=1, max_size=3))
def test_calls_are_read_back(calls):
    text = "[" + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in calls) + "]"
    assert parse(text).calls == tuple(Call(n, a) for n, a in calls)


JSON_VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(TEXTS, v), max_leaves=6)


@given(
    st.lists(st.tuples(NAMES, st.dictionaries(TEXTS, JSON_VALUES, max_size=4)), min_size=1, max_size=3), st.booleans()
)
def test_json_is_read_back(calls, ascii_only):
    objects = [json.dumps({"name": n, "arguments": a}, ensure_ascii=ascii_only) for n, a in calls]
    wanted = tuple(Call(n, a) for n, a in calls)
    if any("</think>" in o for o in objects):  # what stands before it is reasoning, wherever it stands
        return
    assert parse("[" + ",".join(objects) + "]").calls == wanted
    assert parse("\n".join(objects)).calls == wanted
    if not any("</tool_call>" in o for o in objects):  # the first one ends the call, as servers read it too
        assert parse("".join(f"<tool_call>\n{o}\n</tool_call>\n" for o in objects)).calls == wanted


@given(st.text())
def test_any_text_is_some_reading(text):
    parse(text)
    parse(f"[f(a={text})]")
    parse(f"<tool_call>{text}</tool_call>")
