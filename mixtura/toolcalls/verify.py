"""Verify the calls of an answer against the tools offered and the calls expected.

The classes, first failing wins (methods after the leaderboard's v4 checker, which merges some of them):

| class | the answer |
|---|---|
| parse_error | tries to call a tool and cannot be read |
| no_call_when_needed | calls nothing, and should |
| call_when_not_needed | calls something, and should not |
| wrong_count | makes more or fewer calls than expected |
| hallucinated_tool | calls a tool that is not offered |
| wrong_tool | calls one that is offered, but not expected here |
| positional_arg | gives a value without a name (the leaderboard drops it unseen) |
| missing_required | leaves out what the schema requires |
| hallucinated_arg | names an argument that the schema has not |
| redundant_arg | gives an argument of the schema that must not be given here |
| missing_optional | leaves out an argument that the schema does not require, and this question does |
| type_error:KIND | gives a value of neither the schema's type nor the gold's; KIND is the schema's |
| value_error:KIND | gives another value; KIND is `enum` where the schema does not list it, else the value's |

Parallel calls are matched to the expected ones in the way that costs least (Hungarian algorithm), where the
leaderboard takes the first that fits and so fails answers that are right: golds {1 or 2} and {1}, answers 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mixtura.errors import InputError
from mixtura.toolcalls.call import Call, Reading
from mixtura.toolcalls.expected import Expected, ExpectedCall, first
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import ANYTHING, KIND_OF, Schema, Tool, Tools
from mixtura.toolcalls.values import Mode, equal, folded
from mixtura.verdict import PASSED, Failure, Verdict, failed

CLASSES = (
    "parse_error", "no_call_when_needed", "call_when_not_needed", "wrong_count", "hallucinated_tool", "wrong_tool",
    "positional_arg", "missing_required", "hallucinated_arg", "redundant_arg", "missing_optional", "type_error",
    "value_error",
)  # fmt: skip
RANK = {name: i for i, name in enumerate(CLASSES)}
COST = 1000  # of a class over the next; below it the number of failures decides, so that near calls are matched


class Verifier:
    """Judges any number of answers to one question.

    Args:
        tools: as offered; without any, only the expected calls say what a tool takes.
        expected: what a right answer is.
        mode: how values are compared, see `values`.
    """

    def __init__(self, tools: Tools, expected: Expected, mode: Mode = "normalised") -> None:
        self.expected, self.mode, self.offered = expected, mode, frozenset(tools)
        self.calls = [_CallVerifier(c, tools.get(c.name), self.offered, mode) for c in expected.calls]

    @staticmethod
    def read(gold: str | Mapping[str, Any]) -> tuple[Call, ...]:
        """The calls of a gold answer.

        Raises:
            InputError: it cannot be read.
        """
        reading = parse(gold)
        if reading.problem:
            raise InputError("a gold answer", f"must be readable ({reading.problem})", got=gold)
        return reading.calls

    def verdict(self, answer: str | Mapping[str, Any]) -> Verdict:
        """Of an answer: its text, or a message as servers return it. Never raises."""
        return self.verdict_of(parse(answer))

    def verdict_of(self, reading: Reading) -> Verdict:
        """Of what was read of an answer."""
        if reading.problem:
            return failed("parse_error", got=reading.problem)
        calls = reading.calls
        if not self.calls:
            return failed("call_when_not_needed", tool=calls[0].name, call=0) if calls else PASSED
        if not calls:
            return failed("no_call_when_needed", want=[c.name for c in self.expected.calls])
        if len(calls) == len(self.calls) == 1:
            found = self.calls[0].failures(calls[0], 0)
            return Verdict(tuple(found)) if found else PASSED
        return self._several(calls)

    def _several(self, calls: Sequence[Call]) -> Verdict:
        in_turn = [mine.failures(call, i) for i, (mine, call) in enumerate(zip(self.calls, calls, strict=False))]
        same_count = len(calls) == len(self.calls)
        if same_count and not any(in_turn):
            return PASSED
        found = [] if same_count else [Failure("wrong_count", got=len(calls), want=len(self.calls))]
        pairs = in_turn if self.expected.ordered else self._matched(calls)
        if same_count and not any(pairs):
            return PASSED
        return Verdict((*found, *sorted((f for pair in pairs for f in pair), key=_rank)))

    def _matched(self, calls: Sequence[Call]) -> list[list[Failure]]:
        """Failures of each pair in the matching of least cost; it is 0, and so found, where every pair can be right."""
        table = [[mine.failures(call, i) for i, call in enumerate(calls)] for mine in self.calls]
        cost = np.array([[_cost(failures) for failures in row] for row in table])
        return [table[i][j] for i, j in zip(*linear_sum_assignment(cost), strict=True)]


class _CallVerifier:
    """One expected call, with its golds prepared."""

    def __init__(self, expected: ExpectedCall, tool: Tool | None, offered: frozenset[str], mode: Mode) -> None:
        self.name, self.offered, self.fold = expected.name, offered, mode == "normalised"
        self.offers = not offered or self.name in offered  # a gold whose tool is not offered is right for nobody
        self.accepted = expected.arguments
        self.schemas = tool.arguments.properties if tool else {}
        self.required = sorted(tool.arguments.required) if tool else []
        self.optional = sorted(k for k, a in expected.arguments.items() if not (a.omittable or k in self.required))
        self.demanded = frozenset([*self.required, *self.optional])
        self.golds = {
            k: (folded(a) if self.fold else a, self.schemas.get(k, ANYTHING))
            for k, a in expected.arguments.items()
            if tool is None or tool.arguments.more or k in self.schemas  # else it is wrong, whatever the gold says
        }

    def failures(self, call: Call, at: int) -> list[Failure]:
        """Every failure of one call, by rank; [] where it is right.

        Args:
            call: what the answer calls.
            at: its position in the answer.
        """
        if call.name != self.name or not self.offers:
            kind = "wrong_tool" if call.name in self.offered else "hallucinated_tool"
            return [Failure(kind, "", call.name, at, want=self.name)]
        extra, wrong = [], []
        for key, value in call.arguments.items():
            if key not in self.golds:
                extra.append(key)
                continue
            gold, schema = self.golds[key]
            if not equal(folded(value) if self.fold else value, gold, schema):
                wrong.append(key)
        if not (extra or wrong or call.positional) and call.arguments.keys() >= self.demanded:
            return []
        return self._told(call, at, extra, wrong)

    def _told(self, call: Call, at: int, extra: Sequence[str], wrong: Sequence[str]) -> list[Failure]:
        given = call.arguments
        found = [Failure("positional_arg", "", self.name, at, got=v) for v in call.positional]
        found += [Failure("missing_required", k, self.name, at) for k in self.required if k not in given]
        unknown = [k for k in extra if k not in self.schemas]
        found += [Failure("hallucinated_arg", k, self.name, at, got=given[k]) for k in unknown]
        found += [Failure("redundant_arg", k, self.name, at, got=given[k]) for k in extra if k in self.schemas]
        found += [Failure("missing_optional", k, self.name, at) for k in self.optional if k not in given]
        return found + sorted((self._value(k, given[k], at) for k in wrong), key=_rank)

    def _value(self, key: str, value: Any, at: int) -> Failure:
        want = self.accepted[key].values
        kind = _kind(value, self.golds[key][1], want)
        return Failure(kind, key, self.name, at, got=value, want=list(want) if len(want) != 1 else want[0])


def _kind(value: Any, schema: Schema, accepted: Sequence[Any]) -> str:
    """The class of a wrong value: of its type, or of the value itself.

    Where a gold breaks its schema (a variable's name for a number), its type is as good as the schema's.
    """
    plain = [first(g) for g in accepted]
    golds = {KIND_OF[type(g)] for g in plain if not schema.admits(g)}
    if not schema.admits(value) and KIND_OF[type(value)] not in golds:
        return f"type_error:{'|'.join(sorted(schema.kinds))}"
    if schema.enum is not None and value not in schema.enum:
        return "value_error:enum"
    return f"value_error:{KIND_OF[type(value)]}"


def _rank(failure: Failure) -> int:
    return RANK[failure.error]


def _cost(failures: Sequence[Failure]) -> int:
    return COST * (len(RANK) - _rank(failures[0])) + min(len(failures), COST - 1) if failures else 0


def schema_failures(calls: Sequence[Call], tools: Tools) -> list[Failure]:
    """What is wrong with calls by their schemas alone, gold or not: names, required arguments, types, enums.

    A gold that fails here is no gold.
    """
    found: list[Failure] = []
    for at, call in enumerate(calls):
        tool = tools.get(call.name)
        if tool is None:
            found.append(Failure("hallucinated_tool", "", call.name, at))
            continue
        found += [Failure("positional_arg", "", call.name, at, got=v) for v in call.positional]
        schemas, required = tool.arguments.properties, sorted(tool.arguments.required)
        found += [Failure("missing_required", k, call.name, at) for k in required if k not in call.arguments]
        for key, value in call.arguments.items():
            if key not in schemas:
                if not tool.arguments.more:
                    found.append(Failure("hallucinated_arg", key, call.name, at, got=value))
            elif not schemas[key].admits(value):
                found.append(Failure(_kind(value, schemas[key], ()), key, call.name, at, got=value))
            elif schemas[key].enum is not None and value not in schemas[key].enum:  # type: ignore[operator]
                found.append(Failure("value_error:enum", key, call.name, at, got=value))
    return sorted(found, key=_rank)
