"""Where an answer may be cut into steps that a search can go on from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mixtura.generation.contract import Piece, Reply

Step = Literal["call", "argument", "sentence"]

# what must have been written at a cut: the end of a call, an argument or a name, a sentence
ENDS: dict[Step, re.Pattern[str]] = {
    "call": re.compile(r"\}\s*\}|\)|</tool_call>|\}\s*,"),
    "argument": re.compile(r"[,:=({\[]|\}|\)"),
    "sentence": re.compile(r"[.!?](?=\s|$)|\n"),
}


@dataclass(frozen=True)
class Cut:
    """The first step of a continuation.

    text: its characters; log_probability: of its tokens given what came before, in nats; None where a server does not
    say; whole: there is nothing after it.
    """

    text: str
    log_probability: float | None
    whole: bool


def first_step(reply: Reply, step: Step) -> Cut:
    """Cut after the first token that ends a step and is not followed by white space within the same token.

    Cuts stand between tokens, so that the model reads on as it wrote. A reply without tokens, or without such an end,
    is one step.
    """
    whole = Cut(reply.text, reply.log_probability, True)
    text, nats = "", 0.0
    for at, piece in enumerate(reply.pieces[:-1]):
        text, nats = text + piece.text, nats + piece.log_probability
        if ENDS[step].search(piece.text) and not text[-1:].isspace() and _rest(reply.pieces[at + 1 :]).strip():
            return Cut(text, nats, False)
    return whole


def _rest(pieces: Sequence[Piece]) -> str:
    return "".join(p.text for p in pieces)
