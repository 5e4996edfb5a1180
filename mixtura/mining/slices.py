"""Where a model is weak: features of questions whose rows are answered worse than all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mixtura.checking import Question
from mixtura.mining.rates import benjamini_hochberg
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import KIND_OF, read_tools

LEAST = 5  # rows of a slice: with fewer no difference can be told from chance after correction
FALSE_SHARE = 0.05  # of the slices named, at most so many are wrong on average
LENGTHS = (250, 1_000, 4_000, 16_000)  # characters of the last question


@dataclass(frozen=True)
class Slice:
    """A feature whose rows are answered worse than the rest.

    rate, rest: mean pass rate of its rows and of all others; p: one-sided, after correction for all slices tried.
    """

    feature: str
    rows: int
    rate: float
    rest: float
    p: float

    def __str__(self) -> str:
        return (
            f"{self.feature}: {self.rate:.0%} pass over {self.rows} rows, {self.rest:.0%} of the rest (p {_p(self.p)})"
        )


def features(question: Question) -> list[str]:
    """What can be said of a question without asking the model, as `noun: value`, sorted."""
    calls = parse(question.gold).calls
    tools = read_tools(list(question.tools)) if question.tools else {}
    found = {f"tool: {c.name}" for c in calls}
    if question.tools:
        found.add(f"calls expected: {_count(len(calls), (0, 1, 2, 3))}")
        found.add(f"tools offered: {_count(len(tools), (1, 2, 4, 8), 1)}")
    for call in calls:
        found.add(f"arguments of a call: {_count(len(call.arguments), (0, 1, 2, 4))}")
        schemas = tools[call.name].arguments.properties if call.name in tools else {}
        for name, value in call.arguments.items():
            found.add(f"argument type: {KIND_OF[type(value)]}")
            if name in schemas and schemas[name].enum is not None:
                found.add("argument type: enum")
            if isinstance(value, Mapping) or (
                isinstance(value, Sequence) and any(isinstance(v, dict | list) for v in value)
            ):
                found.add("argument type: nested")
    length = len(str(question.prompt[-1].get("content") or ""))
    found.add(f"question: {_count(length, LENGTHS)} characters")
    found.add(f"turns before the answer: {_count(len(question.prompt), (1, 2, 4, 8), 1)}")
    return sorted(found)


def weak(of_rows: Sequence[Sequence[str]], rates: Sequence[float]) -> list[Slice]:
    """Features whose rows pass significantly less than the rest, the weakest first.

    Each row counts once, by its pass rate: samples of one row are no independent evidence. Mann-Whitney U, one-sided,
    then Benjamini-Hochberg over all features with enough rows on both sides.

    Args:
        of_rows: each row's features.
        rates: each row's pass rate.
    """
    rate = np.asarray(rates, float)
    members: dict[str, list[int]] = {}
    for row, names in enumerate(of_rows):
        for name in names:
            members.setdefault(name, []).append(row)
    tried: list[Slice] = []
    for name, rows in sorted(members.items()):
        inside = np.zeros(len(rate), bool)
        inside[rows] = True
        if min(inside.sum(), (~inside).sum()) < LEAST:
            continue
        ours, rest = rate[inside], rate[~inside]
        p = 1.0 if ours.mean() >= rest.mean() else stats.mannwhitneyu(ours, rest, alternative="less").pvalue
        tried.append(Slice(name, len(rows), float(ours.mean()), float(rest.mean()), float(p)))
    adjusted = benjamini_hochberg(np.array([s.p for s in tried]))
    found = [Slice(s.feature, s.rows, s.rate, s.rest, float(p)) for s, p in zip(tried, adjusted, strict=True)]
    return sorted((s for s in found if s.p <= FALSE_SHARE), key=lambda s: (s.rate, s.p, s.feature))


def _count(n: int, steps: tuple[int, ...], least: int = 0) -> str:
    """`3`, `2 to 4` or `above 8`: the step that a count falls into; none is below `least`."""
    for before, step in zip((least - 1, *steps), steps, strict=False):
        if n <= step:
            return str(step) if step == before + 1 else f"{before + 1} to {step}"
    return f"above {steps[-1]}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def facts(found: Sequence[Slice], most: int = 12) -> list[str]:
    """Slices in words, for a card."""
    return [str(s) for s in found[:most]]


def table(found: Sequence[Slice]) -> list[dict[str, Any]]:
    """Slices as JSON."""
    return [{"feature": s.feature, "rows": s.rows, "rate": s.rate, "rest": s.rest, "p": s.p} for s in found]
