"""How a multiple-choice question is written: one template for the rows and for the scorer.

Source: PalmX 2025 (arXiv:2509.02550), README of the task: question, blank line, options `A.` to `D.` on lines of their
own, then a cue; the prediction is the likeliest of the letters, each with a leading space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Form:
    """The prompt of a question. cue: what stands before the letter."""

    cue: str = "Answer:"

    def prompt(self, question: str, options: Sequence[str]) -> str:
        """Question, blank line, lettered options, cue; what follows is a space and a letter."""
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        return "\n".join([question.strip(), "", *lines, self.cue])
