"""Pass rates on rows set aside, with intervals; and whether a rise from one policy to the next is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from mixtura.generation.contract import Generator
from mixtura.loop.cast import Item
from mixtura.mining.attempts import ask_of, judged
from mixtura.mining.rates import clopper_pearson

SURE = 0.025  # one-sided, as one end of a 95 % interval


@dataclass(frozen=True)
class Passed:
    """One policy on one held-out set: whether each row's likeliest answer passed, in order; kind → wrong answers."""

    passed: tuple[bool, ...]
    errors: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Share that passed."""
        return sum(self.passed) / len(self.passed)

    def facts(self) -> dict[str, Any]:
        """As JSON: the rate and its 95 % interval."""
        low, high = clopper_pearson(sum(self.passed), len(self.passed))
        return {
            "rows": len(self.passed), "passed": sum(self.passed), "rate": self.rate, "low": low, "high": high,
            "errors": dict(sorted(self.errors.items(), key=lambda i: (-i[1], i[0]))),
        }  # fmt: skip


def measure(model: Generator, heldout: Mapping[str, Sequence[Item]], *, max_tokens: int) -> dict[str, Passed]:
    """Each held-out row's likeliest answer, judged."""
    found: dict[str, Passed] = {}
    for name, items in heldout.items():
        asks = [ask_of(i.question) for i in items]
        replies = model.replies(asks, samples=1, max_tokens=max_tokens, temperature=0, seed=0)
        verdicts = [judged(i.question, r)[0].verdict for i, r in zip(items, replies, strict=True)]
        errors = Counter(v.kind for v in verdicts if not v.passed)
        found[name] = Passed(tuple(v.passed for v in verdicts), errors)
    return found


@dataclass(frozen=True)
class Change:
    """From one policy to another on the same rows: those gained and lost, and the p value of no rise."""

    gained: int
    lost: int
    p: float

    @property
    def rise(self) -> bool:
        """Whether a rise is shown, beyond its 95 % interval."""
        return self.p <= SURE

    @classmethod
    def of(cls, before: Passed, after: Passed) -> Change:
        """Source: McNemar 1947, exact: of the rows that changed, as many fall as rise where nothing changed."""
        both = list(zip(before.passed, after.passed, strict=True))
        gained, lost = sum(b and not a for a, b in both), sum(a and not b for a, b in both)
        p = stats.binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue if gained + lost else 1.0
        return cls(gained, lost, float(p))


def kept(first: Passed, now: Passed) -> float | None:
    """Share of the rows that the first policy passed which this one still passes; None where it passed none."""
    known = [n for f, n in zip(first.passed, now.passed, strict=True) if f]
    return sum(known) / len(known) if known else None
