"""Measure every answer of many conversations: its attention, its gain from the context, what barred heads cost it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from mixtura.pipeline.attention.conversation import Read, Reading, Transcriber
from mixtura.pipeline.attention.options import Measure, Withhold
from mixtura.pipeline.attention.withheld import withhold

if TYPE_CHECKING:
    from mixtura.pipeline.attention.reader import AttentionReader, Head

SLICE = 1_024  # conversations read at once: bounds memory, and leaves few half-empty batches
UNREADABLE = "unreadable-without-context"


@dataclass(frozen=True)
class Conversation:
    """What a template is given: messages with parsed `tool_calls`, and parsed tool definitions."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None


@dataclass(frozen=True)
class Measured:
    """One conversation's answers.

    turns: their positions in the messages.
    values: turn → column → value, of those that could be measured.
    unscored: turn → reason, of the others.
    """

    turns: tuple[int, ...] = ()
    values: dict[int, dict[str, float]] = field(default_factory=dict)
    unscored: dict[int, str] = field(default_factory=dict)


def conversations(rows: pl.DataFrame) -> list[Conversation]:
    """Those of rows with `messages`, `chosen` and `tools`; a preference pair is its prompt and the chosen answer."""
    return [
        Conversation([_parsed(m) for m in (*(messages or ()), *(chosen or ()))], json.loads(tools) if tools else None)
        for messages, chosen, tools in rows.select("messages", "chosen", "tools").iter_rows()
    ]


class Survey:
    """Reads conversations and measures their answers.

    Args:
        reader: of the model's attention.
        measures: what to measure; each beyond `attention` takes a run of the whole model and its head, or two.
        withheld: what `gain` takes away.
        heads: those that `barred` bars.
    """

    def __init__(
        self,
        reader: AttentionReader,
        *,
        measures: frozenset[Measure],
        withheld: Withhold = "passage",
        heads: Sequence[Head] = (),
    ) -> None:
        self.reader, self.measures, self.heads = reader, measures, tuple(heads)
        self.withheld: Withhold = withheld
        self.transcriber = Transcriber(reader.lm.tokenizer, reader.lm.window)

    def read(self, given: Sequence[Conversation]) -> list[Read]:
        """Render and tokenize."""
        return [self.transcriber.read(c.messages, c.tools) for c in given]

    def measure(self, given: Sequence[Conversation]) -> list[Measured]:
        """Every answer's values, in the order of the conversations."""
        found: list[Measured] = []
        for at in range(0, len(given), SLICE):
            found += self._slice(given[at : at + SLICE])
        return found

    def _slice(self, given: Sequence[Conversation]) -> list[Measured]:
        read = self.read(given)
        found = [Measured(r.turns, {t: {} for t in r.turns if t not in r.unscored}, dict(r.unscored)) for r in read]
        owners, readings = _flat(read)
        for owner, reading in zip(owners, readings, strict=True):
            for answer in reading.answers:
                found[owner].values[answer.turn]["answer_tokens"] = len(answer)
        if "attention" in self.measures:
            _merge(found, owners, self.reader.accounts(readings))
        if self.measures & {"gain", "barred"}:
            self._losses(given, found, owners, readings)
        return found

    def _losses(
        self, given: Sequence[Conversation], found: list[Measured], owners: list[int], readings: list[Reading]
    ) -> None:
        """`loss` of each answer in nats per token, and how much more it is without the context or some heads."""
        full = self.reader.losses(readings)
        _merge(found, owners, _per_token(full, owners, found, "loss"))
        if "barred" in self.measures:
            more = _difference(self.reader.losses(readings, self.heads), full)
            _merge(found, owners, _per_token(more, owners, found, "barred"))
        if "gain" in self.measures:
            without = self.losses_without(given, found)
            for row, lost in zip(found, without, strict=True):
                for turn in [t for t in row.values if t not in lost]:
                    del row.values[turn]
                    row.unscored[turn] = UNREADABLE
                for turn, value in row.values.items():
                    value["gain"] = lost[turn] / value["answer_tokens"] - value["loss"]

    def losses_without(self, given: Sequence[Conversation], found: Sequence[Measured]) -> list[dict[int, float]]:
        """Summed losses in nats of the turns that `found` has scored, by turn, with the context withheld."""
        bare = [
            self.transcriber.read(withhold(c.messages, self.withheld), c.tools, needs_user=False)
            if f.values
            else Read(())
            for c, f in zip(given, found, strict=True)
        ]
        owners, readings = _flat(bare)
        lost: list[dict[int, float]] = [{} for _ in given]
        for owner, losses in zip(owners, self.reader.losses(readings), strict=True):
            lost[owner] |= losses
        return lost


def _flat(read: Sequence[Read]) -> tuple[list[int], list[Reading]]:
    """All readings in one list, and the conversation of each."""
    pairs = [(i, reading) for i, r in enumerate(read) for reading in r.readings]
    return [i for i, _ in pairs], [reading for _, reading in pairs]


def _merge(found: list[Measured], owners: list[int], values: Sequence[dict[int, dict[str, float]]]) -> None:
    for owner, by_turn in zip(owners, values, strict=True):
        for turn, columns in by_turn.items():
            found[owner].values[turn] |= columns


def _per_token(
    sums: Sequence[dict[int, float]], owners: list[int], found: list[Measured], name: str
) -> list[dict[int, dict[str, float]]]:
    return [
        {turn: {name: nats / found[owner].values[turn]["answer_tokens"]} for turn, nats in by_turn.items()}
        for owner, by_turn in zip(owners, sums, strict=True)
    ]


def _difference(more: Sequence[dict[int, float]], less: Sequence[dict[int, float]]) -> list[dict[int, float]]:
    return [{turn: m[turn] - s[turn] for turn in m} for m, s in zip(more, less, strict=True)]


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """Templates want tool calls as objects; a row holds them as JSON."""
    calls = message.get("tool_calls")
    return message | {"tool_calls": json.loads(calls)} if calls else message
