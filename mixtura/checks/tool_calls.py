"""Tool calls: the answer must call the right tools with the right arguments, or none where none is right."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import Field

from mixtura import checking
from mixtura.checking import Message, Question, Row, Uncheckable, dialogue, meta_of
from mixtura.errors import InputError
from mixtura.toolcalls.expected import Expected, expected_of
from mixtura.toolcalls.leaderboard import expected_call
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import Tools, read_tools
from mixtura.toolcalls.values import Mode
from mixtura.toolcalls.verify import Verifier


class Spec(checking.Spec):
    """How calls are compared."""

    mode: Mode = Field(
        "normalised",
        description="normalised: texts without blanks, punctuation and case, as the leaderboard does; strict: exactly.",
    )
    ordered: bool = Field(False, description="Whether calls must come in the order of the gold.")
    answers: str = Field(
        "ground_truth",
        description="Key of meta with accepted values [{tool: {argument: [value, ...]}}]; without it the last turn is "
        "the one right answer.",
    )


class ToolCalls:
    """Reads the calls of an answer in any form and judges them, see `toolcalls.verify`."""

    name: ClassVar[str] = "tool_calls"
    Spec: type[Spec] = Spec

    def question(self, spec: Spec, row: Row) -> Question:
        """The last turn's calls are the gold; where it has none and tools are offered, no call is right."""
        prompt, gold = dialogue(row)
        schemas, tools = _tools(row)
        truth = meta_of(row).get(spec.answers)
        expected = _accepted(truth, tools, spec) if isinstance(truth, list) and truth else _single(gold, tools, spec)
        return Question(prompt, gold, Verifier(tools, expected, spec.mode).verdict, schemas)


def _tools(row: Row) -> tuple[tuple[dict[str, Any], ...], Tools]:
    """The schemas as the row has them, and as they are read.

    Raises:
        Uncheckable: it has none, or they cannot be read.
    """
    given = row.get("tools")
    try:
        tools = read_tools(given)
    except InputError as e:
        raise Uncheckable("bad-tools", str(e)) from e
    if not tools:
        raise Uncheckable("no-tools", "the row offers no tools")
    schemas: Any = json.loads(given) if isinstance(given, str) else given
    return tuple(schemas if isinstance(schemas, list) else [schemas]), tools


def _single(gold: Message, tools: Tools, spec: Spec) -> Expected:
    reading = parse(gold)
    if reading.problem:
        raise Uncheckable("bad-tool-call", f"the gold cannot be read: {reading.problem}")
    return expected_of(reading.calls, tools, ordered=spec.ordered)


def _accepted(truth: list[Any], tools: Tools, spec: Spec) -> Expected:
    calls = []
    for gold in truth:
        if not (isinstance(gold, dict) and len(gold) == 1):
            raise Uncheckable("bad-answers", f"{spec.answers} must have one tool per expected call")
        ((name, arguments),) = gold.items()
        try:
            calls.append(expected_call(name, arguments, tools.get(name)))
        except InputError as e:
            raise Uncheckable("bad-answers", str(e)) from e
    return Expected(tuple(calls), spec.ordered)


CHECK = ToolCalls()
