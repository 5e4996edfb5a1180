"""The Berkeley leaderboard's question and possible-answer files (v4, single turn) as questions with expected calls.

A question file has a line `{id, question: [[turns]], function: [schemas]}` per case, the file of the same name under
`possible_answer/` a line `{id, ground_truth: [{tool: {argument: [accepted values]}}]}`. An accepted value '' says that
the argument may be left out. The categories of irrelevance have no answers: there no call is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtura.errors import InputError
from mixtura.toolcalls.expected import Expected, ExpectedCall, gold_calls
from mixtura.toolcalls.render import message
from mixtura.toolcalls.tools import ANYTHING, Tool, read_tools
from mixtura.toolcalls.values import Accepted

NO_CALL = "None of the tools can do that."


@dataclass(frozen=True)
class Question:
    """One case: what is asked, with which tools, and what a right answer is.

    messages: turns of `role` and `content`, without the answer.
    schemas: the tools as the file has them.
    truth: the expected calls as the file has them.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    schemas: tuple[Mapping[str, Any], ...]
    tools: Mapping[str, Tool]
    expected: Expected
    truth: tuple[Mapping[str, Any], ...] = ()

    def record(self) -> dict[str, Any]:
        """The case as a record of a JSONL file, which any recipe reads: the first right answer is its last turn.

        What else is right stands in `ground_truth`, which the check `tool_calls` looks for. Where no call is right, the
        last turn is a plain refusal.
        """
        calls = gold_calls(self.expected)
        last = message(calls) if calls else {"role": "assistant", "content": NO_CALL}
        return {
            "case": self.id,
            "messages": [*({"role": t["role"], "content": t["content"]} for t in self.messages), last],
            "tools": [{"type": "function", "function": s} for s in self.schemas],
            "ground_truth": list(self.truth),
        }


def read_questions(questions: Path, answers: Path | None = None) -> list[Question]:
    """The cases of a category, in the order of its file.

    Args:
        questions: the file of questions.
        answers: that of possible answers; by default the one of its name in the folder `possible_answer` beside it,
            where there is one. Without answers no call is expected.

    Raises:
        InputError: a file cannot be read, a line is no case of a single turn, or an answer is lacking.
    """
    beside = questions.parent / "possible_answer" / questions.name
    answers = answers or (beside if beside.exists() else None)
    golds = {line["id"]: line for line in _lines(answers, ("id", "ground_truth"))} if answers else None
    found = []
    for line in _lines(questions, ("id", "question", "function")):
        where = f"case {line['id']!r} of {questions.name}"
        if golds is not None and line["id"] not in golds:
            raise InputError(where, f"must have its answer in {answers}")
        found.append(question_of(line, golds[line["id"]]["ground_truth"] if golds is not None else [], where))
    return found


def question_of(line: Mapping[str, Any], truth: list[Any], where: str = "a case") -> Question:
    """One case from its two lines.

    Raises:
        InputError: it has several turns, or its answer is not of the form above.
    """
    turns = line["question"]
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], list):
        raise InputError(where, "must have one turn", next_step="Multi-turn cases are judged by executing them")
    schemas = line["function"] if isinstance(line["function"], list) else [line["function"]]
    tools = read_tools(schemas)
    calls = []
    for gold in truth:
        if not (isinstance(gold, Mapping) and len(gold) == 1):
            raise InputError(where, "must have one tool per expected call", got=gold)
        ((name, arguments),) = gold.items()
        calls.append(expected_call(name, arguments, tools.get(name), where))
    return Question(line["id"], tuple(turns[0]), tuple(schemas), tools, Expected(tuple(calls)), tuple(truth))


def expected_call(name: str, arguments: Any, tool: Tool | None, where: str = "a case") -> ExpectedCall:
    """One expected call from `{argument: [accepted values]}`.

    Raises:
        InputError: an argument has no list.
    """
    if not isinstance(arguments, Mapping) or not all(isinstance(v, list) for v in arguments.values()):
        raise InputError(where, "must have a list of accepted values for each argument", got=arguments)
    found = {}
    for key, values in arguments.items():
        schema = tool.arguments.properties.get(key) if tool else ANYTHING
        accepted = _accepted(values, schema.kinds if schema else frozenset())
        if schema or not accepted.omittable:  # what may be left out, and no schema knows, must be left out
            found[key] = accepted
    return ExpectedCall(name, found)


def _accepted(values: list[Any], kinds: frozenset[str] = frozenset()) -> Accepted:
    """A list of accepted values.

    Where '' is one, the leaderboard lets an empty text and an empty list pass as well as nothing.
    """
    plain = [_value(v) for v in values if v != ""]
    omittable = len(plain) < len(values)
    if omittable and (not kinds or "string" in kinds or any(isinstance(v, str) for v in plain)):
        plain.append("")
    if omittable and "array" in kinds:
        plain.append([])
    return Accepted(tuple(plain), omittable)


def _value(value: Any) -> Any:
    """An accepted value: in an object, or objects in a list, each key has accepted values of its own."""
    if isinstance(value, Mapping):
        return {k: _accepted(v) if isinstance(v, list) else v for k, v in value.items()}
    if isinstance(value, list):
        return [_value(v) if isinstance(v, Mapping) else v for v in value]
    return value


def _lines(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"file {path}", f"cannot be read ({e})") from e
    for i, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise InputError(f"line {i} of {path}", f"must be JSON ({e})") from e
        if not isinstance(value, dict) or not all(k in value for k in keys):
            raise InputError(f"line {i} of {path}", f"must be an object with {', '.join(keys)}")
        yield value
