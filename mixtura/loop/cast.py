"""Who plays which part: rows to learn from, rows to measure on, and tools that no training row may show.

A row is its question and the tools that it calls and offers. Rows that call a tool set aside are measured on, whatever
split they were in; a training row that only offers one is left out, so that the model never reads its schema.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mixtura.checking import Check, Question, Uncheckable
from mixtura.errors import CountError, InputError
from mixtura.pipeline.hashing import keys
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import read_tools

HELD = ("rows", "tools")  # names of the two held-out sets


@dataclass(frozen=True)
class Difficulty:
    """How much there is to get right, in this order: calls, arguments, tools to choose from, length of the prompt.

    Source: our own. iTool (arXiv 2501.09766) warms up from easy to hard without saying what is hard.
    """

    calls: int
    arguments: int
    tools: int
    characters: int

    @classmethod
    def of(cls, question: Question) -> Difficulty:
        """Of a question, from its right answer and its prompt."""
        calls = parse(question.gold).calls
        said = sum(len(str(m.get("content") or "")) for m in question.prompt)
        return cls(len(calls), sum(len(c.arguments) for c in calls), len(question.tools), said)

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Sorts the easy before the hard."""
        return self.calls, self.arguments, self.tools, self.characters


@dataclass(frozen=True)
class Item:
    """A row that can be checked.

    about: `source`, `license`, `language`, `task` of the row, where it has them.
    """

    id: str
    question: Question
    called: frozenset[str]
    offered: frozenset[str]
    difficulty: Difficulty
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Cast:
    """Every row's part. heldout: set → rows; tools: set aside; left_out: reason → rows."""

    train: tuple[Item, ...]
    heldout: Mapping[str, tuple[Item, ...]]
    tools: tuple[str, ...]
    left_out: Mapping[str, int]

    def steps(self, count: int) -> list[list[Item]]:
        """The training rows from easy to hard: the first of `count` equal parts, then the first two, at last all.

        Ties go by id. Parts add up, because a model that sees only the hard at last forgets the easy.

        Source: Bengio et al. 2009, Curriculum Learning; Spitkovsky et al. 2010 (Baby Steps) let the data grow so.
        """
        ordered = sorted(self.train, key=lambda i: (i.difficulty.order, i.id))
        ends = {round(len(ordered) * (n + 1) / count) for n in range(count)} - {0}
        return [ordered[:end] for end in sorted(ends)]


def cast(splits: Mapping[str, pl.DataFrame], check: Check, spec: Any, *, heldout_tools: float) -> Cast:
    """Give every row of a mixture its part. The same tools are set aside whatever the seed.

    Args:
        splits: split → rows as a mixture has them; those of `test` are the held-out rows.
        check: makes the questions.
        spec: the check's options.
        heldout_tools: share of the tools that are called, rounded up.

    Raises:
        InputError: no row can be checked, or none is left to learn from or to measure on.
        CountError: a row has no part.
    """
    left_out: Counter[str] = Counter()
    found = {name: _items(rows, check, spec, left_out) for name, rows in splits.items()}
    tools = _set_aside({t for items in found.values() for i in items for t in i.called}, heldout_tools)
    train: list[Item] = []
    heldout: dict[str, list[Item]] = {name: [] for name in HELD}
    for split, items in found.items():
        for item in items:
            if item.called & tools:
                heldout["tools"].append(item)
            elif split == "test":
                heldout["rows"].append(item)
            elif item.offered & tools:
                left_out["offers-a-held-out-tool"] += 1
            else:
                train.append(item)
    whole = sum(r.height for r in splits.values())
    if whole != len(train) + sum(map(len, heldout.values())) + left_out.total():
        raise CountError(f"{whole} rows must each have a part")
    _check(train, heldout, left_out)
    sets = {name: tuple(sorted(items, key=lambda i: i.id)) for name, items in heldout.items() if items}
    return Cast(tuple(sorted(train, key=lambda i: i.id)), sets, tuple(sorted(tools)), dict(sorted(left_out.items())))


def _items(rows: pl.DataFrame, check: Check, spec: Any, left_out: Counter[str]) -> list[Item]:
    found = []
    for row in rows.iter_rows(named=True):
        try:
            question = check.question(spec, row)
        except Uncheckable as e:
            left_out[e.code] += 1
            continue
        called = frozenset(c.name for c in parse(question.gold).calls) if question.tools else frozenset()
        offered = frozenset(read_tools(list(question.tools))) if question.tools else frozenset()
        about = {k: row[k] for k in ("source", "license", "language", "task") if row.get(k)}
        found.append(Item(row["id"], question, called, offered, Difficulty.of(question), about))
    return found


def _set_aside(tools: set[str], part: float) -> set[str]:
    names = pl.Series(sorted(tools), dtype=pl.String)
    order = np.argsort(keys(names, 0, "heldout/tools"), kind="stable")
    return set(names[order[: math.ceil(part * len(names))]])


def _check(train: Sequence[Item], heldout: Mapping[str, Sequence[Item]], left_out: Counter[str]) -> None:
    if not train:
        step = "Lower mine.heldout_tools, or check mine.check and the rows' tools"
        raise InputError("mixture", "must keep a checkable row to learn from", got=dict(left_out), next_step=step)
    if not heldout["rows"]:
        step = "Set mix.splits.test, such as 0.2"
        raise InputError("mixture", "must have a checkable row in its test split, to measure on", next_step=step)
