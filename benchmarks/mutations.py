"""Wrong and nearly wrong answers to a question with a gold, one change each, over every class of errors.

A mutant is a text, as a model would write it. Some mutants are right on purpose (other accepted values, noise that
normalising removes, another order), so that agreement is measured on both sides. Nothing here knows how a verifier
decides: mutators only look at the gold and the schema.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mixtura.toolcalls.call import Call
from mixtura.toolcalls.expected import first, gold_calls
from mixtura.toolcalls.leaderboard import Question
from mixtura.toolcalls.render import render
from mixtura.toolcalls.values import Accepted


class Mutant(NamedTuple):
    """An answer, and what was done to the gold."""

    change: str
    text: str


class Code(str):
    """A value that is written as code."""

    def __repr__(self) -> str:
        return str(self)


Calls = list[Call]


def gold(question: Question) -> str:
    """The gold answer as Python text."""
    return render(gold_calls(question.expected))


def mutants(question: Question, seed: int, most: int = 24) -> list[Mutant]:
    """Up to `most` different mutants: one of every change that applies, then more at random."""
    rng = random.Random(f"{seed}/{question.id}")
    calls = gold_calls(question.expected)
    by_change: dict[str, list[Mutant]] = {}
    for change, made in _all(question, calls, rng):
        by_change.setdefault(change, []).append(Mutant(change, made if isinstance(made, str) else render(made)))
    chosen: dict[str, Mutant] = {}
    pools = list(by_change.values())
    for pool in pools:
        rng.shuffle(pool)
    rng.shuffle(pools)
    while any(pools) and len(chosen) < most:
        for pool in pools:
            if pool and len(chosen) < most:
                mutant = pool.pop()
                chosen.setdefault(mutant.text, mutant)
    return list(chosen.values())


def _all(question: Question, calls: Calls, rng: random.Random) -> Iterator[tuple[str, Calls | str]]:
    for i, call in enumerate(calls):
        tool = question.tools.get(call.name)
        for change, made in _of_call(question, i, call, rng):
            yield change, [*calls[:i], made, *calls[i + 1 :]]
        for key, value in call.arguments.items():
            accepted = question.expected.calls[i].arguments[key]
            schema = tool.arguments.properties.get(key) if tool else None
            for change, other in _of_value(value, accepted, schema and schema.enum, rng):
                yield change, [*calls[:i], _with(call, key, other), *calls[i + 1 :]]
    yield from _of_answer(calls, render(calls), rng)


def _with(call: Call, key: str, value: Any) -> Call:
    return Call(call.name, {**call.arguments, key: value}, call.positional)


def _without(call: Call, key: str) -> Call:
    return Call(call.name, {k: v for k, v in call.arguments.items() if k != key}, call.positional)


def _of_call(question: Question, at: int, call: Call, rng: random.Random) -> Iterator[tuple[str, Call]]:
    tool, expected = question.tools.get(call.name), question.expected.calls[at]
    schemas = tool.arguments.properties if tool else {}
    for name in question.tools:
        if name != call.name:
            yield "another tool", Call(name, call.arguments)
    yield "invented tool", Call(f"{call.name}_v2", call.arguments)
    yield "tool in capitals", Call(call.name.upper(), call.arguments)
    yield "invented argument", _with(call, "extra_option", "on")
    for key in schemas:
        if key not in call.arguments:
            yield "argument not asked for", _with(call, key, _some(schemas[key].kinds, rng))
    for key in call.arguments:
        free = expected.arguments[key].omittable
        required = bool(tool) and key in tool.arguments.required
        yield f"left out, {'required' if required else 'omittable' if free else 'optional'}", _without(call, key)
        renamed = {(f"{k}_" if k == key else k): v for k, v in call.arguments.items()}
        yield "argument renamed", Call(call.name, renamed)
    if len(call.arguments) > 1:
        keys = list(call.arguments)
        rng.shuffle(keys)
        yield "arguments in another order", Call(call.name, {k: call.arguments[k] for k in keys})
    if call.arguments:
        key = next(iter(call.arguments))
        yield "value without a name", Call(call.name, _without(call, key).arguments, (call.arguments[key],))
        yield "value without a name as well", Call(call.name, call.arguments, (call.arguments[key],))
    if len(call.arguments) > 1:
        yield "no arguments", Call(call.name, {})


def _some(kinds: Any, rng: random.Random) -> Any:
    choices = {"string": "abc", "integer": 7, "number": 1.5, "boolean": True, "array": ["x"], "object": {"k": 1}}
    kind = next(iter(sorted(kinds)), "string")
    return choices.get(kind, rng.randint(0, 9))


def _of_value(value: Any, accepted: Accepted, enum: Any, rng: random.Random) -> Iterator[tuple[str, Any]]:
    for other in accepted.values[1:]:
        yield "another accepted value", first(other)
    for other in enum or ():
        if other != value:
            yield "another value of the enum", other
    yield "null", None
    kind = type(value)
    makers: dict[type, Callable[[Any, random.Random], Iterator[tuple[str, Any]]]] = {
        str: _texts, bool: _booleans, int: _integers, float: _decimals, list: _lists, dict: _objects,
    }  # fmt: skip
    if kind in makers:
        yield from makers[kind](value, rng)


def _texts(value: str, rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "another text", f"not {value}"
    yield "text cut", value[: len(value) // 2]
    yield "empty text", ""
    yield "text in capitals", value.upper()
    yield "text with other blanks", value.replace(" ", "  ") + " "
    yield "text with forgiven signs", value.replace(" ", "_") + "."
    yield "text with other signs", f"{value}!"
    yield "text with an apostrophe", value.replace("'", '"') if "'" in value else f"'{value}'"
    yield "list for a text", [value]
    yield "number for a text", 12
    if value.replace("_", "").isidentifier() and value not in ("None", "True", "False"):
        yield "bare name", Code(value)
    if value:
        swapped = list(value)
        i = rng.randrange(len(value))
        swapped[i] = "z" if swapped[i] != "z" else "q"
        yield "one letter changed", "".join(swapped)


def _booleans(value: bool, rng: random.Random) -> Iterator[tuple[str, Any]]:
    del rng
    yield "boolean flipped", not value
    yield "boolean as text", str(value).lower()
    yield "boolean as number", int(value)
    yield "boolean in lower case", Code(str(value).lower())


def _integers(value: int, rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "another integer", value + rng.choice([-1, 1, 10])
    yield "integer negated", -value if value else 1
    yield "decimal for an integer", float(value)
    yield "integer as text", str(value)
    yield "list for a number", [value]
    yield "boolean for a number", bool(value)
    yield "arithmetic", Code(f"{value}*1")


def _decimals(value: float, rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "another decimal", value + rng.choice([-1, 1]) * max(abs(value) * 0.01, 0.01)
    if value.is_integer():
        yield "integer for a decimal", int(value)
    yield "decimal as text", str(value)
    yield "list for a number", [value]
    yield "arithmetic", Code(f"{value}+0")


def _lists(value: list[Any], rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "list longer", [*value, copy.deepcopy(value[-1]) if value else "x"]
    yield "tuple for a list", tuple(value)
    yield "list as text", str(value)
    yield "empty list", []
    if not value:
        return
    yield "list shorter", value[:-1]
    yield "element for a list", value[0]
    if len(value) > 1 and value[::-1] != value:
        yield "list in another order", value[::-1]
    at = rng.randrange(len(value))
    one = value[at]
    if isinstance(one, list) and not one:
        return
    makers = {str: _texts, bool: _booleans, int: _integers, float: _decimals, list: _lists, dict: _objects}
    for change, other in makers[type(one)](one, rng) if type(one) in makers else ():
        yield f"in a list: {change}", [*value[:at], other, *value[at + 1 :]]


def _objects(value: dict[str, Any], rng: random.Random) -> Iterator[tuple[str, Any]]:
    yield "object with a key more", {**value, "extra": 1}
    yield "object as text", str(value)
    yield "list for an object", [value]
    for key, inner in value.items():
        yield "object with a key less", {k: v for k, v in value.items() if k != key}
        for change, other in _of_value(inner, Accepted((inner,)), None, rng):
            yield f"in an object: {change}", {**value, key: other}


def _of_answer(calls: Calls, text: str, rng: random.Random) -> Iterator[tuple[str, Calls | str]]:
    yield "a call twice", [*calls, calls[rng.randrange(len(calls))]]
    yield "a call more", [*calls, Call("another_tool", {"x": 1})]
    if len(calls) > 1:
        yield "a call less", calls[:-1]
        yield "calls in another order", calls[::-1]
        yield "the first call in place of the last", [*calls[:-1], calls[0]]
        yield "calls without a list", text[1:-1]
    yield "call without a list", render(calls[:1])[1:-1]
    yield "no call", "I am sorry, I cannot help with that."
    yield "an empty list", "[]"
    yield "cut off", text[: rng.randrange(len(text) // 2, len(text) - 1)]
    yield "a bracket more", text[:-1] + ")]"
    yield "prose before", f"Sure! {text}"
    yield "prose after", f"{text} is the call."
    yield "a colon for an equals sign", text.replace("=", ":", 1) if "=" in text else text + ":"
    yield "quoted", f"'{text}'"
    yield "spread over lines", text.replace("(", "(\n  ", 1)
