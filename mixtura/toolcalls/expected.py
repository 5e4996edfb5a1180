"""What a right answer is: calls with accepted values, or no call at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtura.toolcalls.call import Call
from mixtura.toolcalls.tools import Tools
from mixtura.toolcalls.values import Accepted, equal


@dataclass(frozen=True)
class ExpectedCall:
    """A call that the answer must make; an argument that is not named here must not be given."""

    name: str
    arguments: Mapping[str, Accepted]


@dataclass(frozen=True)
class Expected:
    """The calls of a right answer; none: the answer must not call a tool.

    ordered: the calls must come in this order; else any order is right.
    """

    calls: tuple[ExpectedCall, ...]
    ordered: bool = False


def expected_of(calls: Sequence[Call], tools: Tools, *, ordered: bool = False) -> Expected:
    """What a single gold answer demands: its values, and the freedom to name or to leave out what is a default anyway.

    Args:
        calls: of the gold.
        tools: as offered; an optional argument with a default may be left out where the gold gives the default, and
            may be given the default where the gold leaves it out.
        ordered: see `Expected`.
    """
    return Expected(tuple(ExpectedCall(c.name, _accepted(c, tools)) for c in calls), ordered)


def _accepted(call: Call, tools: Tools) -> dict[str, Accepted]:
    tool = tools.get(call.name)
    free = {
        key: schema
        for key, schema in (tool.arguments.properties.items() if tool else ())
        if tool and schema.has_default and key not in tool.arguments.required
    }
    found = {
        key: Accepted((value,), key in free and equal(value, free[key].default, free[key]))
        for key, value in call.arguments.items()
    }
    return found | {key: Accepted((s.default,), omittable=True) for key, s in free.items() if key not in found}


def gold_calls(expected: Expected) -> list[Call]:
    """One right answer: the first accepted value of every argument that has one."""
    return [Call(c.name, {k: first(a) for k, a in c.arguments.items() if a.values}) for c in expected.calls]


def first(gold: Any) -> Any:
    """A plain value of a gold's, each `Accepted` in it replaced by its first value; omittable keys without one go."""
    if type(gold) is Accepted:
        return first(gold.values[0])
    if type(gold) is list:
        return [first(g) for g in gold]
    if type(gold) is dict:
        return {k: first(g) for k, g in gold.items() if not (type(g) is Accepted and not g.values)}
    return gold
