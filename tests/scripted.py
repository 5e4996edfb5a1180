"""A generator that says what a test tells it to: keyed by the ask, its sample's number, and the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixtura.generation.contract import Ask, Likelihood, Piece, Reply


class Scripted:
    """Says `script(ask, sample, seed)`, a word per token; counts the asks that it was given.

    Args:
        script: text of one reply.
        likelihood: nats of a given answer; all alike by default.
    """

    def __init__(
        self,
        script: Callable[[Ask, int, int], str],
        likelihood: Callable[[Ask, Mapping[str, Any]], float] = lambda ask, answer: -1.0,
    ) -> None:
        self.script, self.likelihood, self.asked = script, likelihood, 0

    @property
    def identity(self) -> dict[str, Any]:
        return {"scripted": self.script.__qualname__}

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        self.asked += len(asks)
        return [[reply_of(self.script(a, i, seed), max_tokens) for i in range(samples)] for a in asks]

    def likelihoods(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        return [Likelihood(self.likelihood(a, b), 1) for a, b in zip(asks, answers, strict=True)]


def reply_of(text: str, max_tokens: int = 10_000) -> Reply:
    """A reply of one token per word (with the space before it), each of log p -0.1, and an end token."""
    words = text.split(" ")
    pieces = [Piece(w if not i else " " + w, -0.1) for i, w in enumerate(words)] if text else []
    kept = tuple(pieces[:max_tokens])
    ended = len(pieces) < max_tokens
    return Reply(
        "".join(p.text for p in kept), len(kept) + ended, -0.1 * (len(kept) + ended),
        "stop" if ended else "length", kept,
    )  # fmt: skip
