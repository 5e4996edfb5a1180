"""Pairs of complete answers out of a model's attempts.

The chosen answer is the likeliest one that was verified, or the right answer of the row where the model found none; the
rejected one is the wrong answer that the model gives most often. Both are whole: an answer that was cut off is never
used, for the trainer would teach that it ends there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtura.generation.contract import Generator
from mixtura.loop.cast import Item
from mixtura.mining.attempts import Attempt, Tried, same_form
from mixtura.mining.standing import Standard, standing
from mixtura.search.explore import Search, explore
from mixtura.search.pairs import pairs as near_misses

Record = dict[str, Any]  # a line of the round's file: prompt, chosen, rejected, tools, and what is known of the pair


@dataclass(frozen=True)
class Paired:
    """Pairs, and what became of the rows without one: reason → rows. Only a search makes several pairs of a row."""

    pairs: tuple[Record, ...]
    without: Mapping[str, int]


def verified(items: Sequence[Item], tried: Sequence[Tried], standard: Standard) -> Paired:
    """Pairs of rows that the model does not always get right; rows that look mislabelled are set apart.

    Args:
        items: the rows.
        tried: attempts at each.
        standard: what is usual of golds that are right.
    """
    pairs, without = [], Counter[str]()
    for item, t in zip(items, tried, strict=True):
        stand = standing(t, standard)
        rejected = _most_frequent([a for a in t.attempts if not a.verdict.passed])
        if stand.state not in ("partly", "unsolved"):
            without[stand.state] += 1
        elif rejected is None:
            without["no-complete-wrong-answer"] += 1
        else:
            right = [a for a in t.attempts if a.verdict.passed and a.reply.finish == "stop"]
            chosen = max(right, key=lambda a: (_log_p(a), a.reply.text), default=None)
            pairs.append(_record(item, chosen, rejected, rate=t.rate, deficiency=stand.score))
    return Paired(tuple(pairs), dict(without))


def searched(
    model: Generator, items: Sequence[Item], tried: Sequence[Tried], standard: Standard, spec: Search, seed: int
) -> Paired:
    """Pairs that a search finds in the rows which fail; the other rows are counted as `verified` counts them.

    Args:
        model: is searched.
        items: the rows.
        tried: attempts at each, which say what fails.
        standard: what is usual of golds that are right.
        spec: how to search; a row may give several pairs.
        seed: of the search.
    """
    stands = [standing(t, standard) for t in tried]
    fail = [i for i, s in enumerate(stands) if s.state in ("partly", "unsolved")]
    without = Counter[str](s.state for s in stands if s.state not in ("partly", "unsolved"))
    found: list[Record] = []
    for i, explored in zip(fail, explore(model, [items[i].question for i in fail], spec, seed), strict=True):
        made = near_misses(explored, spec, tried[i].gold)
        without["no-complete-wrong-answer"] += not made
        known = {"row": items[i].id, "rate": tried[i].rate, "deficiency": stands[i].score}
        found += [{**p.record, **items[i].about, "about": {**p.about, **known}} for p in made]
    return Paired(tuple(found), dict(+without))


def unjudged(items: Sequence[Item], tried: Sequence[Tried]) -> Paired:
    """Pairs of the row's own answer against the model's first one that says something else, right or wrong."""
    pairs, without = [], Counter[str]()
    for item, t in zip(items, tried, strict=True):
        gold = same_form(item.question.gold)
        others = [a for a in t.attempts if a.reply.finish == "stop" and a.reply.text.strip() and a.said != gold]
        if others:
            pairs.append(_record(item, None, others[0]))
        else:
            without["no-other-answer"] += 1
    return Paired(tuple(pairs), dict(without))


def golds(items: Sequence[Item]) -> Paired:
    """Right answers of rows without looking at what the model says: pairs whose rejected side is empty."""
    return Paired(tuple(_record(item, None, None) for item in items), {})


def _most_frequent(attempts: Sequence[Attempt]) -> Attempt | None:
    """The answer given most often among the complete ones; ties go to the likelier, then to the alphabet."""
    whole = [a for a in attempts if a.reply.finish == "stop" and a.reply.text.strip()]
    times = Counter(a.reply.text for a in whole)
    return max(whole, key=lambda a: (times[a.reply.text], _log_p(a), a.reply.text), default=None)


def _log_p(attempt: Attempt) -> float:
    return attempt.reply.log_probability if attempt.reply.log_probability is not None else float("-inf")


def _record(item: Item, chosen: Attempt | None, rejected: Attempt | None, **known: Any) -> Record:
    question = item.question
    about = {
        "row": item.id,
        "on_policy": chosen is not None,
        "error": rejected.verdict.kind if rejected else None,
        "chosen_log_p": chosen.reply.log_probability if chosen else None,
        "rejected_log_p": rejected.reply.log_probability if rejected else None,
        **known,
    }
    return {
        "prompt": [dict(m) for m in question.prompt],
        "chosen": [_turn(chosen.reply.message) if chosen else dict(question.gold)],
        "rejected": [_turn(rejected.reply.message)] if rejected else [],
        "tools": json.dumps(list(question.tools), ensure_ascii=False) if question.tools else None,
        **item.about,
        "about": about,
    }


def _turn(message: Mapping[str, Any]) -> Record:
    return {k: v for k, v in message.items() if v is not None}
