"""Which tool the words of a question ask for, by the golds of other rows: what needs no model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixtura.checking import Question
from mixtura.mining.attempts import Tried
from mixtura.mining.rates import clopper_pearson
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import read_tools

USUALLY = 0.9  # lower end of the 95 % interval of how often words find the gold's tool, from which they are heard
ODDS = 3.0  # of another tool over the gold's, from which words speak against a gold


@dataclass(frozen=True)
class Wording:
    """Words of questions by the tool that their golds call; golds of one call only.

    words: tool → word → rows; rows: tool → rows; heard: whether words find the tool of most golds, each left out in
    turn, among the tools that its row offers.

    Source: naive Bayes with add-one smoothing (Manning et al. 2008, section 13.2) on words present. Golds that their
    neighbours contradict are wrong more often: Northcutt et al. 2021 (confident learning), Zhu et al. 2022.
    """

    words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    heard: bool = False

    @classmethod
    def of(cls, questions: Iterable[Question]) -> Wording:
        """From rows whose golds keep their schemas."""
        words: dict[str, Counter[str]] = {}
        rows = Counter[str]()
        read = [(q, tool) for q in questions if (tool := _tool(q)) is not None]
        for question, tool in read:
            words.setdefault(tool, Counter()).update(_words(question))
            rows[tool] += 1
        made = cls(words, rows)
        right = [made._odds(q, t, left_out=True)[1] <= 1 for q, t in read if len(_offered(q)) > 1]
        return cls(words, rows, bool(right) and clopper_pearson(sum(right), len(right))[0] >= USUALLY)

    def doubt(self, tried: Tried, agree: float) -> str:
        """Why the question's words speak for another tool than the gold's, which the answers do not call, or ''."""
        tool = _tool(tried.question)
        if not self.heard or tool is None or tool not in self.rows:
            return ""
        called = sum(any(c.name == tool for c in parse(a.reply.message).calls) for a in tried.attempts)
        other, odds = self._odds(tried.question, tool)
        if odds < ODDS or called >= agree * len(tried.attempts):
            return ""
        return f"other rows with such words call {other}, not {tool}; so do not {len(tried.attempts) - called} answers"

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {"words": {t: dict(w) for t, w in self.words.items()}, "rows": dict(self.rows), "heard": self.heard}

    def _odds(self, question: Question, tool: str, *, left_out: bool = False) -> tuple[str, float]:
        """The other tool offered that the words ask for most, and its odds over the gold's; 0 where none is known."""
        words, out = _words(question), int(left_out)
        own = self._log_p(words, tool, out)
        others = [(self._log_p(words, t, 0), t) for t in sorted(_offered(question)) if t != tool and t in self.rows]
        best, other = max(others, default=(-math.inf, ""))
        return other, math.exp(min(best - own, 700.0))

    def _log_p(self, words: frozenset[str], tool: str, out: int) -> float:
        """Log of p(tool) p(words | tool) but for a constant; `out` rows with just these words are taken away."""
        counts, rows = self.words[tool], self.rows[tool] - out
        vocabulary = len({w for c in self.words.values() for w in c})
        total = sum(counts.values()) - out * len(words) + vocabulary
        return math.log(max(rows, 0.5)) + sum(
            math.log((counts.get(w, 0) - out * (w in counts) + 1) / total) for w in words
        )


def _tool(question: Question) -> str | None:
    calls = parse(question.gold).calls
    return calls[0].name if len(calls) == 1 else None


def _offered(question: Question) -> frozenset[str]:
    return frozenset(read_tools(list(question.tools)))


def _words(question: Question) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", str(question.prompt[-1].get("content") or "").casefold()))
