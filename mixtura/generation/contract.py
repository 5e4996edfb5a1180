"""What is asked of a generating model, and what it replies, wherever the model runs.

A reply depends on its own ask, its number among the samples, and the seed; not on which other asks came with it. So
a run can be cut into shards, broken off and continued, and give the same data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from mixtura.errors import InputError
from mixtura.recipe.model import digest

Finish = Literal["stop", "length", "refused"]


@dataclass(frozen=True)
class Ask:
    """A conversation that the model is to answer.

    messages: turns with `role`, `content`, and perhaps `tool_calls` (objects, not a JSON string) and `name`.
    tools: definitions in OpenAI's form, or None.
    begun: the beginning of the answer; the reply continues it, and its text does not repeat it.
    form: JSON Schema that the answer should fit, for servers that can hold a model to one; others answer as they
        would without, so whoever asks must check.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    begun: str = ""
    form: dict[str, Any] | None = None

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]], tools: Any = None, begun: str = "") -> Ask:
        """From a row's columns: empty fields left out, `tool_calls` and `tools` parsed where they are JSON strings.

        Raises:
            InputError: one of them is not JSON.
        """
        return cls([turn_of(m) for m in messages], _parsed("tools", tools) or None, begun)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the model sees."""
        return digest([self.messages, self.tools, self.begun, *([self.form] if self.form is not None else [])])


@dataclass(frozen=True)
class Piece:
    """One sampled token: its characters (none, where a character needs more than one token) and log p, in nats."""

    text: str
    log_probability: float


@dataclass(frozen=True)
class Reply:
    """One sampled answer.

    text: what the model wrote, without its end token, control tokens of calls included.
    tokens: sampled tokens, the end token among them.
    log_probability: sum of log p over these tokens at temperature 1, in nats; None where a server does not say.
    finish: `stop`; `length` where `max_tokens` or the window cut it off; `refused` where the ask could not be put to
        the model: it costs its own row, not the run. `reason` then says why, and there is no text.
    pieces: the tokens without the end token, so that their texts make up `text`; empty where a server does not say.
    calls: `tool_calls` as a server parsed them, a JSON string in OpenAI's form; None elsewhere.
    """

    text: str
    tokens: int
    log_probability: float | None
    finish: Finish
    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    calls: str | None = None
    reason: str = ""

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a turn, `tool_calls` a JSON string as in a row."""
        return {"role": "assistant", "content": self.text, "tool_calls": self.calls}


@runtime_checkable
class Generator(Protocol):
    """A model that can be sampled."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its replies, as JSON without paths or secrets: part of a cache's key."""
        ...

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        """Sample answers.

        Args:
            asks: any number, in any order; equal ones get equal replies.
            samples: answers to each.
            max_tokens: longest answer, in tokens.
            temperature: 0 takes the likeliest token each time (one answer, repeated `samples` times).
            seed: of the samples.

        Returns:
            `samples` replies for each ask, in the order of the asks.

        Raises:
            InputError: a server refuses to be asked at all (address, key, model's name).
            GenerationError: a server stopped answering.
        """
        ...


@runtime_checkable
class Streams(Protocol):
    """A generator that hands on each ask's replies as soon as it has them."""

    def stream(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[int, list[Reply]]]:
        """(number of the ask, its replies), each ask once, in any order; otherwise as `Generator.replies`."""
        ...


@dataclass(frozen=True)
class Likelihood:
    """log p of a given answer, in nats, over `tokens` tokens, the end token among them."""

    log_probability: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats per token; perplexity is its exponential."""
        return -self.log_probability / max(self.tokens, 1)


@runtime_checkable
class Judge(Protocol):
    """A model that says how likely a given answer is; a model on this machine can, most servers cannot."""

    def likelihoods(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        """How likely each answer is, given its ask.

        Args:
            asks: one per answer.
            answers: turns as in a row, each rendered by the model's own chat template.

        Returns:
            One per answer; None where it does not fit the model's window, or its template cannot render it.
        """
        ...


def turn_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as chat templates read it: without empty fields, `tool_calls` as objects with parsed arguments.

    Raises:
        InputError: `tool_calls` is not JSON.
    """
    turn = {k: v for k, v in message.items() if v is not None}
    if "tool_calls" in turn:
        calls = _parsed("tool_calls", turn.pop("tool_calls"))
        if calls:
            turn["tool_calls"] = [_with_parsed_arguments(c) for c in calls]
    return turn


def _with_parsed_arguments(call: Any) -> Any:
    """OpenAI's wire has arguments as a JSON string; templates want the object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": json.loads(function["arguments"])}}
    except ValueError:
        return call  # a verifier says what is wrong with it


def _parsed(name: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as e:
        raise InputError(f"column {name!r}", "must hold JSON", got=value) from e
