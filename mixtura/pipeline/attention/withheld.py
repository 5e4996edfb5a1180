"""What is withheld of the user's words, to see what the answer loses by it."""

from __future__ import annotations

from typing import Any

from mixtura.pipeline.attention.options import Withhold

ENDS = 160  # characters of a message's start and end that stay: requests stand there, what is to be read in between


def withhold(messages: list[dict[str, Any]], what: Withhold) -> list[dict[str, Any]]:
    """The conversation with less in its user turns.

    Args:
        messages: as in a row.
        what: `user` leaves nothing of what the user said; `passage` leaves both ends of each message, see `ends`.

    Returns:
        New messages; other turns are the same.
    """
    return [
        m | {"content": ends(m.get("content") or "") if what == "passage" else ""} if m["role"] == "user" else m
        for m in messages
    ]


def ends(text: str, kept: int = ENDS) -> str:
    """A message without its middle: `kept` characters of each end, without the words that the cuts divide.

    A message of at most twice as many characters stays as it is.
    """
    if len(text) <= 2 * kept:
        return text
    head, tail = text[:kept], text[-kept:]
    if not text[kept].isspace() and len(words := head.rsplit(None, 1)) == 2:
        head = words[0]
    if not text[-kept - 1].isspace() and len(words := tail.split(None, 1)) == 2:
        tail = words[1]
    return f"{head}\n{tail}"
