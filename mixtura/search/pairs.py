"""Preference pairs of whole answers: a right one, and a near miss with its error class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixtura.checking import Question
from mixtura.generation.contract import Likelihood
from mixtura.mining.attempts import same_form
from mixtura.search.explore import Answer, Explored, Search


@dataclass(frozen=True)
class Pair:
    """One pair.

    chosen: None stands for the row's own gold, where the model found no right answer.
    margin: reward of the chosen less that of the rejected, in (0, 3].
    gold: how likely the model finds the gold, where it stands in.
    """

    question: Question
    chosen: Answer | None
    rejected: Answer
    margin: float
    gold: Likelihood | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What is known of the pair, as JSON. `shared` counts the characters before the answers differ."""
        texts = [
            a.attempt.reply.text if a else str(self.question.gold.get("content") or "")
            for a in (self.chosen, self.rejected)
        ]
        chosen = self.chosen.attempt.reply.log_probability if self.chosen else self.gold and self.gold.log_probability
        return {
            "on_policy": self.chosen is not None,
            "error": self.rejected.attempt.verdict.kind,
            "failures": [str(f) for f in self.rejected.attempt.verdict.failures][:8],
            "margin": round(self.margin, 6),
            "chosen_log_p": chosen,
            "rejected_log_p": self.rejected.attempt.reply.log_probability,
            "rejected_times": self.rejected.times,
            "shared": _shared(*texts),
        }

    @property
    def record(self) -> dict[str, Any]:
        """The pair as trainers read it: `prompt`, `chosen`, `rejected` as turns, `tools` as JSON, and `about`."""
        chosen = self.chosen.attempt.reply.message if self.chosen else self.question.gold
        return {
            "prompt": [dict(t) for t in self.question.prompt],
            "chosen": [_turn(chosen)],
            "rejected": [_turn(self.rejected.attempt.reply.message)],
            "tools": json.dumps(list(self.question.tools), ensure_ascii=False) if self.question.tools else None,
            "about": self.about,
        }


def pairs(explored: Explored, spec: Search, gold: Likelihood | None = None) -> list[Pair]:
    """Pairs of one question, best first; [] where no wrong answer was found whole.

    tree, best_of: the rejected are the `enough` (one for best_of) highest rewarded wrong answers, then the likelier;
    equal calls count once. samples: the first wrong one. The chosen is the right answer that shares the longest
    beginning with the rejected, or the gold. Both have come to their own end.
    """
    whole = [a for a in explored.answers if a.complete]
    right, wrong = [a for a in whole if a.right], [a for a in whole if not a.right]
    if spec.by != "samples":
        wrong = _different(sorted(wrong, key=lambda a: (-a.reward, -_nats(a), a.attempt.reply.text)))
    made = []
    for miss in wrong[: spec.enough if spec.by == "tree" else 1]:
        chosen = right[0] if spec.by == "samples" and right else _nearest(right, miss)
        made.append(Pair(explored.question, chosen, miss, 1.0 - miss.reward, gold))
    return made


def counted(made: Sequence[Pair]) -> dict[str, Any]:
    """Of many pairs, for a card: how many, on policy, errors, mean margin."""
    errors = Counter(p.rejected.attempt.verdict.kind for p in made)
    return {
        "pairs": len(made),
        "on_policy": sum(p.chosen is not None for p in made),
        "mean_margin": round(sum(p.margin for p in made) / len(made), 6) if made else None,
        "errors": dict(sorted(errors.items(), key=lambda i: (-i[1], i[0]))),
    }


def _different(answers: Sequence[Answer]) -> list[Answer]:
    """Without those that make the same calls as an earlier one; unreadable answers are told apart by their text."""
    seen: dict[str, Answer] = {}
    for a in answers:
        seen.setdefault(same_form(a.attempt.reply.message) or a.attempt.reply.text, a)
    return list(seen.values())


def _nearest(right: Sequence[Answer], miss: Answer) -> Answer | None:
    text = miss.attempt.reply.text
    return max(right, key=lambda a: (_shared(a.attempt.reply.text, text), _nats(a), a.attempt.reply.text), default=None)


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _nats(answer: Answer) -> float:
    known = answer.attempt.reply.log_probability
    return known if known is not None else float("-inf")


def _turn(message: Any) -> dict[str, Any]:
    return {k: v for k, v in message.items() if v is not None}
