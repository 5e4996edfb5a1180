"""Whether the values of a call are said in its question: what needs no model, and so tells of tools it never saw."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixtura.checking import Question
from mixtura.mining.attempts import Tried
from mixtura.mining.rates import clopper_pearson
from mixtura.toolcalls.parse import parse

USUALLY = 0.9  # lower end of the 95 % interval of an argument's share of said values, from which it counts as quoted


def quoted(questions: Iterable[Question]) -> frozenset[str]:
    """Names of arguments whose golds nearly always repeat the question's words, over all tools that have them."""
    said, seen = Counter[str](), Counter[str]()
    for question in questions:
        text = _text(question)
        for name, value in _values(question.gold):
            seen[name] += 1
            said[name] += says(text, value)
    return frozenset(n for n in seen if clopper_pearson(said[n], seen[n])[0] >= USUALLY)


def misquoted(tried: Tried, names: frozenset[str], agree: float) -> str:
    """Where a gold gives what the question does not say, and the answers agree on what it says: in words, or ''.

    Args:
        tried: a question and the answers to it.
        names: arguments that are `quoted`.
        agree: share of the answers that must give one and the same value, whatever tool they call.
    """
    text, n = _text(tried.question), len(tried.attempts)
    for name, value in _values(tried.question.gold):
        if name not in names or says(text, value):
            continue
        given = Counter(v for a in tried.attempts for v in {str(v) for k, v in _values(a.reply.message) if k == name})
        other, times = min(given.items(), key=lambda i: (-i[1], i[0]), default=("", 0))
        if times >= max(2, agree * n) and says(text, other):
            return f"the gold's {name} {value!r} is not in the question; {times} of {n} answers say {other!r}, which is"
    return ""


def says(text: str, value: Any) -> bool:
    """Whether a text holds a value as whole words, in upper or lower case."""
    return re.search(rf"(?<!\w){re.escape(' '.join(str(value).casefold().split()))}(?!\w)", text) is not None


def _values(message: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    """Arguments that are words or numbers; lists and truth values are not looked for in a text."""
    for call in parse(message).calls:
        for name, value in call.arguments.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
                yield name, value


def _text(question: Question) -> str:
    return " ".join(" ".join(str(m.get("content") or "") for m in question.prompt).casefold().split())
