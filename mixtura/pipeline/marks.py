"""Marks in words: how many, by what, and how to ask for such answers at inference; for card, report and terminal."""

from __future__ import annotations

from mixtura.pipeline.summary import MarkFacts, MarkTally
from mixtura.pipeline.wording import by_count, count, number, share

CONTROLS = {
    "random": "**These marks are a control**: as many answers, drawn at random among all that have a score.",
    "length": "**These marks are a control**: as many answers, drawn at random among those whose prompt and answer are "
    "of like length.",
}
HEAD = ["source", "answers", "with a score", "marked", "share of the scored"]


def rule(x: MarkFacts) -> str:
    """What was marked: `above 0.6`, `the highest 20 %`."""
    return f"above {number(x.threshold)}" if x.threshold is not None else f"the highest {share(x.share or 0, 1)}"


def verdict(x: MarkFacts) -> str:
    """What was marked, in one sentence."""
    total = x.total
    return (
        f"{total.marked:,} of {count(total.scored, 'scored answer')} ({share(total.marked, total.scored)}) are marked "
        f"with {x.indicator}, in {count(x.rows, 'row')}: {rule(x)} in {x.column} of {x.selector}."
    )


def table(x: MarkFacts) -> list[list[str]]:
    """One line per source, the most answers first, and one for all where there are several; columns are `HEAD`."""
    order = sorted(x.by_source.items(), key=lambda s: (-s[1].answers, s[0]))
    lines = [(name, t) for name, t in order] + ([("all", x.total)] if len(order) > 1 else [])
    return [[name, *(f"{n:,}" for n in _counts(t)), share(t.marked, t.scored)] for name, t in lines]


def _counts(t: MarkTally) -> tuple[int, int, int]:
    return t.answers, t.scored, t.marked


def unmarkable(x: MarkFacts) -> str:
    """Why some answers could not be marked; '' where all could."""
    parts = [f"{reason.replace('-', ' ')} ({n:,})" for reason, n in by_count(x.no_score)]
    said = f"Answers without a score are never marked: {', '.join(parts)}." if parts else ""
    if x.no_message:
        told = count(x.no_message, "scored answer")
        said += f" {told} follow no message of a user that could carry a mark."
    return said.strip()


def inference(x: MarkFacts) -> str:
    """How to use a model that was trained on the mixture."""
    return (
        f"At inference, end the user's message with a space and {x.indicator} where the answer should keep to the "
        "context that the message gives; leave it out elsewhere."
    )


def border(x: MarkFacts) -> str:
    """The scores on both sides of the border."""
    ends = [(x.lowest_marked, "lowest marked"), (x.highest_unmarked, "highest not marked")]
    told = ", ".join(f"{word} {number(value)}" for value, word in ends if value is not None)
    return f"At the border: {told}." if told else ""
