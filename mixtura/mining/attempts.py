"""Let a model try each question several times, and judge every answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixtura.checking import Check, Question, Uncheckable
from mixtura.generation.contract import Ask, Generator, Judge, Likelihood, Reply
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import read_tools
from mixtura.toolcalls.verify import schema_failures
from mixtura.verdict import Failure, Verdict

LEFT_OUT = ("missing_required", "missing_optional")  # failures of an answer that says less than the gold


@dataclass(frozen=True)
class Sampling:
    """How a model is asked.

    samples: answers to each question; max_tokens: of an answer; temperature: 1 is the model's own distribution.
    """

    samples: int
    max_tokens: int
    temperature: float
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `Generator.replies`."""
        return {
            "samples": self.samples, "max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed
        }  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """One answer and what the check says of it."""

    reply: Reply
    verdict: Verdict

    @cached_property
    def said(self) -> str | None:
        """The answer in one form, so that equal ones can be counted; None where it cannot be read."""
        return same_form(self.reply.message)


@dataclass(frozen=True)
class Tried:
    """A question and the attempts at it.

    gold: how likely the model finds the right answer; None where it cannot say.
    broken: what is wrong with the gold itself, by the schemas of its tools or by its own check.
    """

    question: Question
    attempts: tuple[Attempt, ...]
    gold: Likelihood | None
    broken: tuple[Failure, ...]

    @property
    def passed(self) -> int:
        """Attempts that passed."""
        return sum(a.verdict.passed for a in self.attempts)

    @property
    def rate(self) -> float:
        """Share that passed."""
        return self.passed / len(self.attempts)

    @property
    def kinds(self) -> Counter[str]:
        """Kind of failure → attempts whose first failure it is."""
        return Counter(a.verdict.kind for a in self.attempts if not a.verdict.passed)

    @cached_property
    def favourite(self) -> tuple[str | None, int]:
        """The answer given most often, and how often; ties go to the first in the alphabet."""
        said = Counter(a.said for a in self.attempts if a.said is not None)
        return min(said.items(), key=lambda i: (-i[1], i[0])) if said else (None, 0)

    @cached_property
    def favourite_contradicts(self) -> bool:
        """Whether the answer given most often keeps the schemas of the tools and says something else than the gold.

        To leave out what the gold says is no contradiction: that is what a weak model does most.
        """
        said, _ = self.favourite
        attempt = next((a for a in self.attempts if a.said == said), None)
        if said is None or attempt is None or all(f.error in LEFT_OUT for f in attempt.verdict.failures):
            return False
        return not schema_failures(parse(attempt.reply.message).calls, read_tools(list(self.question.tools)))


def questions(check: Check, spec: Any, rows: Sequence[Mapping[str, Any]]) -> list[Question | Uncheckable]:
    """Each row's question, or why it has none."""
    found: list[Question | Uncheckable] = []
    for row in rows:
        try:
            found.append(check.question(spec, row))
        except Uncheckable as e:
            found.append(e)
    return found


def ask_of(question: Question, begun: str = "") -> Ask:
    """What the model sees of a question."""
    return Ask.of(question.prompt, list(question.tools), begun)


def attempt(model: Generator, asked: Sequence[Question], sampling: Sampling) -> list[Tried]:
    """Sample and judge.

    Args:
        model: is asked `sampling.samples` times; how likely it finds each gold is asked too where it can say.
        asked: the questions.
        sampling: how.

    Returns:
        One per question, in order.
    """
    asks = [ask_of(q) for q in asked]
    replies = model.replies(asks, **sampling.options)
    golds: Sequence[Likelihood | None] = [None] * len(asks)
    if isinstance(model, Judge):
        golds = model.likelihoods(asks, [q.gold for q in asked])
    return [Tried(q, tuple(judged(q, r)), gold, broken(q)) for q, r, gold in zip(asked, replies, golds, strict=True)]


def judged(question: Question, replies: Sequence[Reply]) -> list[Attempt]:
    """Attempts out of replies; equal texts are judged once."""
    known: dict[tuple[str, str | None], Verdict] = {}
    for r in replies:
        if (key := (r.text, r.calls)) not in known:
            known[key] = question.judge(r.message)
    return [Attempt(r, known[r.text, r.calls]) for r in replies]


def broken(question: Question) -> tuple[Failure, ...]:
    """What is wrong with a gold: it breaks the schemas of the tools, or fails its own check."""
    found = schema_failures(parse(question.gold).calls, read_tools(list(question.tools))) if question.tools else []
    return tuple(found) or question.judge(question.gold).failures


def same_form(message: Mapping[str, Any]) -> str | None:
    """Calls as JSON with sorted keys, in any order of calls; else the text; None of what cannot be read."""
    reading = parse(message)
    if reading.problem:
        return None
    if not reading.calls:
        return " ".join(str(message.get("content") or "").split())
    calls = [json.dumps([c.name, dict(c.arguments), c.positional], sort_keys=True) for c in reading.calls]
    return "\n".join(sorted(calls))
