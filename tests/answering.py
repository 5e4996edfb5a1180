"""A generator that answers by a function of the ask alone, and remembers the asks; `scripted` has one with seeds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixtura.generation.contract import Ask, Likelihood, Reply


class Scripted:
    """A model by a function of the ask, and of the sample's number where it takes two arguments."""

    def __init__(self, reply: Callable[..., str | Reply]) -> None:
        self.reply = reply
        self.takes_sample = len(inspect.signature(reply).parameters) > 1
        self.asked: list[Ask] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"scripted": True}

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        self.asked.extend(asks)
        return [[self._one(ask, s) for s in range(samples)] for ask in asks]

    def likelihoods(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        """A nat for each character of the answer."""
        return [Likelihood(-float(len(a["content"])), len(a["content"])) for a in answers]

    def _one(self, ask: Ask, sample: int) -> Reply:
        said = self.reply(ask, sample) if self.takes_sample else self.reply(ask)
        return said if isinstance(said, Reply) else Reply(said, len(said.split()) + 1, -3.0, "stop")
