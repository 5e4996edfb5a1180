"""What a check is: it turns a row into a question, and judges any number of answers to it.

A check is one file in `mixtura/checks/` (or a user's module behind the entry point `mixtura.checks`) that offers
`CHECK`, an object with the attributes of `Check`. A row that cannot be checked says why (`Uncheckable`) and costs
itself; a judge never raises, whatever the answer is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from mixtura.verdict import Verdict

Message = Mapping[str, Any]  # `role`, `content`, and in an answer `tool_calls`
Row = Mapping[str, Any]  # a row of `rows.ROW`, or any part of one that has what the check reads
Judge = Callable[[str | Message], Verdict]


class Spec(BaseModel):
    """Base of a check's options: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Uncheckable(ValueError):
    """A row has no answer that could be checked; `str()` is `code: sentence`, as in a ledger."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code


@dataclass(frozen=True)
class Question:
    """What is asked, and how an answer to it is judged.

    prompt: the turns before the answer, as chat templates take them.
    gold: a right answer as a turn.
    judge: from an answer, as text or as a message, to its verdict.
    tools: schemas as offered, for the chat template; () where there are none.
    """

    prompt: tuple[Message, ...]
    gold: Message
    judge: Judge = field(compare=False)
    tools: tuple[Mapping[str, Any], ...] = ()


class Check(Protocol):
    """The shape of a check."""

    name: ClassVar[str]  # the file's stem and the recipe's word
    Spec: type[Spec]

    def question(self, spec: Any, row: Row) -> Question:
        """The question of one row.

        Args:
            spec: an instance of `self.Spec`.
            row: its `messages` end with the right answer, or a key of its `meta` holds what is right.

        Raises:
            Uncheckable: it holds neither.
            InputError: the options are impossible, whatever the row.
        """
        ...


def dialogue(row: Row) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The turns before the last answer, and that answer.

    Raises:
        Uncheckable: the row's last turn is not the assistant's, or nothing comes before it.
    """
    turns = [_turn(t) for t in row.get("messages") or ()]
    if not turns or turns[-1]["role"] != "assistant":
        raise Uncheckable("no-answer", "the last turn must be the assistant's")
    if len(turns) < 2:
        raise Uncheckable("no-question", "a turn must come before the answer")
    return tuple(turns[:-1]), turns[-1]


def meta_of(row: Row) -> Mapping[str, Any]:
    """The columns that the recipe did not map; {} where there are none."""
    meta = row.get("meta")
    if isinstance(meta, str):
        try:
            meta = json.loads(meta)
        except (ValueError, RecursionError):
            return {}
    return meta if isinstance(meta, Mapping) else {}


def text_of(answer: str | Message) -> str:
    """An answer's text; of a message its content, reasoning left out."""
    content = answer if isinstance(answer, str) else answer.get("content") if isinstance(answer, Mapping) else ""
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [p.get("text") for p in content if isinstance(p, Mapping)]
        content = "\n".join(p for p in parts if isinstance(p, str))
    text = content if isinstance(content, str) else ""
    _, ended, after = text.partition("</think>")
    return (after if ended else text).strip()


def accepted_texts(spec_key: str | None, row: Row, gold: Message) -> list[str]:
    """The answers that are right: those under a key of `meta`, else the text of the gold turn.

    Raises:
        Uncheckable: the key is missing, or there is no text.
    """
    if spec_key is None:
        values: Any = [text_of(gold)]
    else:
        meta = meta_of(row)
        if spec_key not in meta:
            raise Uncheckable("no-answer", f"meta has no {spec_key!r}")
        values = meta[spec_key]
    found = [str(v) for v in (values if isinstance(values, list) else [values]) if isinstance(v, str | int | float)]
    if not any(f.strip() for f in found):
        raise Uncheckable("no-answer", "the answer is empty")
    return found


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn without empty fields, its `tool_calls` as objects."""
    said = {k: v for k, v in turn.items() if v is not None}
    calls = said.get("tool_calls")
    if isinstance(calls, str):
        try:
            said["tool_calls"] = json.loads(calls)
        except (ValueError, RecursionError) as e:
            raise Uncheckable("bad-tool-call", f"tool_calls must be JSON ({e})") from e
    return said
