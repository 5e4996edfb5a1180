"""What a check says of an answer: passed or not, and every failure with its class.

One type for tool calls, exact answers, numbers, choices and unit tests, so that whatever counts, slices or rewards
failures does so without knowing who judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mixtura.errors import shortened

MOST = 10  # failures that a sentence tells


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that is wrong with an answer.

    kind: the error class, `class` or `class:detail`, such as `missing_required` or `value_error:string`.
    argument: what it is about within the call, or '' where it is about the whole.
    tool: the tool that was called or should have been, or ''.
    call: position of the call in the answer, from 0; None where it is about no call of the answer.
    got, want: for the sentence; plain values.
    """

    kind: str
    argument: str = ""
    tool: str = ""
    call: int | None = None
    got: Any = None
    want: Any = None

    @property
    def error(self) -> str:
        """The class without its detail."""
        return self.kind.partition(":")[0]

    def __str__(self) -> str:
        """A sentence for people: `value_error:string at book(city): got 'Rome'; wanted 'Paris'`."""
        where = f"{self.tool}({self.argument})" if self.argument else self.tool
        parts = [f"{self.kind} at {where}" if where else self.kind]
        if self.got is not None:
            parts.append(f": got {shortened(self.got)}")
        if self.want is not None:
            parts.append(f"{';' if self.got is not None else ':'} wanted {shortened(self.want)}")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one answer. The first failure is the one that counts; the others are there for whoever looks closer."""

    failures: tuple[Failure, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return not self.failures

    @property
    def kind(self) -> str:
        """The first failure's `kind`, or '' where the answer passed."""
        return self.failures[0].kind if self.failures else ""

    @property
    def error(self) -> str:
        """The first failure's class, or '' where the answer passed."""
        return self.failures[0].error if self.failures else ""

    def __str__(self) -> str:
        if self.passed:
            return "passed"
        more = len(self.failures) - MOST
        return "; ".join(map(str, self.failures[:MOST])) + (f"; and {more} more" if more > 0 else "")


PASSED = Verdict()


def failed(kind: str, **about: Any) -> Verdict:
    """A verdict of one failure; `about` are the other fields of `Failure`."""
    return Verdict((Failure(kind, **about),))


def pass_rate(verdicts: Iterable[Verdict]) -> float:
    """Share that passed; NaN of none."""
    passed = [v.passed for v in verdicts]
    return sum(passed) / len(passed) if passed else float("nan")
