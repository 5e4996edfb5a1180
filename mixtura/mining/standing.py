"""How a row stands with a model: mastered, partly or never solved, or set apart because its gold looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixtura.mining.attempts import Tried

State = Literal["mastered", "partly", "unsolved", "suspect", "unasked"]

AGREE = 0.5  # share of the answers that must be one and the same before the model's word stands against the gold's
SURE = 0.99  # of rows that the model solves, so many have a likelier gold than one that is called unlikely


@dataclass(frozen=True)
class Standard:
    """What is usual of golds that are right.

    unlikely: nats per token; a gold above it is unlikely. inf where no row of the sample was solved: then no gold is
        called wrong for its likelihood.
    """

    unlikely: float = float("inf")

    @classmethod
    def of(cls, tried: Sequence[Tried]) -> Standard:
        """From a sample: golds that the model met itself are right, so their losses show what right ones cost."""
        losses = [t.gold.loss for t in tried if t.gold is not None and t.passed and not t.broken]
        return cls(float(np.quantile(losses, SURE))) if losses else cls()


@dataclass(frozen=True)
class Standing:
    """A row's state, why where it is set apart, and its deficiency."""

    state: State
    score: float
    reason: str = ""


def standing(tried: Tried, standard: Standard) -> Standing:
    """How a row stands.

    The deficiency is the share of failed answers; the gold's loss decides among equals. A row is suspect, and scores
    -1, where its gold breaks its own schemas or check, or where no answer met it, at least half of the answers are one
    and the same valid one, and the model finds the gold unlikelier than nearly every gold it does meet. A row that was
    not put to the model scores -2.

    Source: our own; the last test is RHO-loss's idea (Mindermann et al. 2022: high loss may be a bad label) with the
    model's agreement with itself in place of a second model.
    """
    if all(a.reply.finish == "refused" for a in tried.attempts):
        return Standing("unasked", -2.0, tried.attempts[0].reply.reason)
    if tried.broken:
        return Standing("suspect", -1.0, f"the gold fails its own check: {tried.broken[0]}")
    said, times = tried.favourite
    n = len(tried.attempts)
    unlikely = tried.gold is not None and tried.gold.loss > standard.unlikely
    if not tried.passed and times >= max(2, AGREE * n) and unlikely and tried.favourite_is_valid:
        return Standing("suspect", -1.0, f"{times} of {n} answers agree on another: {said}"[:400])
    loss = tried.gold.loss if tried.gold else 0.0
    score = 1 - tried.rate + 0.5 / n * loss / (1 + loss)  # below one more failed answer
    state: State = "mastered" if tried.passed == n else "partly" if tried.passed else "unsolved"
    return Standing(state, score)
