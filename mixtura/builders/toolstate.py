"""Dialogue state as tool calls: services become functions, each change of the state a call with all that is known.

A row is a dialogue. `loss_turns` in its `meta` marks the calls, which alone are to be learned; what the system says
between them is context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import orjson
import polars as pl
from jsonschema import Draft202012Validator
from pydantic import Field, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import keys
from mixtura.pipeline.packed_text import pack, unpack
from mixtura.pipeline.schema_guided import EXAMPLES, exchanges, function_name, function_of, services_of
from mixtura.tasks.template import fields_of

ROLE = (  # the paper draws one of eight role instructions; these are ours
    "You are an assistant that helps people with their everyday tasks through the functions at hand.",
    "You carry out what a user asks for, step by step, with the functions that you are given.",
    "You are a task assistant. You keep track of what the user wants by calling functions.",
    "Help the user to get things done. The functions below are the services that you can reach.",
)
NOTES = (
    "Call a function whenever the user states or changes something that it takes.",
    "Each call gives every value known so far, not only the new ones.",
    "Never make a value up; what the user has not said stays out.",
)


class Spec(contract.Spec):
    """Options of toolstate."""

    schema_file: str = Field(description="The `schema.json` of the services: a path, as the recipe's files are named.")
    turns: str = Field(default="turns", description="Field of a row with the turns of its dialogue.")
    cap: PositiveInt | None = Field(
        default=200, description="Most dialogues of one service; a dialogue of several counts for each. null: all."
    )


class Toolstate:
    """Source: FnCTOD (arXiv:2402.10466), section 3; recipe verified in the authors' code.

    Differs: a dialogue is one row however many services it touches (the authors list it under each), and the cap counts
    distinct dialogues; every call is checked against its function's schema; the role instruction is drawn by hash.
    """

    name: ClassVar[str] = "toolstate"
    source: ClassVar[str] = "FnCTOD, arXiv:2402.10466; one row a dialogue, calls checked against the schema"
    needs: ClassVar[Needs] = Needs(files=("schema_file",))
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Which dialogues are kept under the cap, and example values of open slots."""
        services = services_of(means.files["schema_file"])
        dialogues: list[tuple[int, str, list[str]]] = []
        seen: dict[str, set[str]] = {}
        for shard in shards:
            draws = keys(shard.rows["id"], means.seed, "toolstate").tolist()
            for row, draw in zip(shard.rows.iter_rows(named=True), draws, strict=True):
                try:
                    last = list(exchanges(fields_of(row).get(spec.turns), services))[-1]
                except (ValueError, IndexError):
                    continue  # refused, with its reason, when its shard is built
                dialogues.append((draw, row["id"], sorted(last.states)))
                for service, state in last.states.items():
                    for slot, value in state.items():
                        seen.setdefault(f"{service}\0{slot}", set()).add(str(value))
        if not dialogues:
            raise InputError("builder 'toolstate'", "needs rows with dialogues", next_step=f"See field {spec.turns!r}")
        kept, counts = [], Counter[str]()
        for _, row, touched in sorted(dialogues):
            if spec.cap is None or all(counts[s] < spec.cap for s in touched):
                kept.append(row)
                counts.update(touched)
        examples = {k: _spread(sorted(v), means.seed) for k, v in sorted(seen.items())}
        arrays = pack("kept", sorted(kept)) | pack("examples", [orjson.dumps(examples).decode()])
        return Fitted(
            arrays, {"services": len(counts), "dialogues": len(kept), "most_of_a_service": max(counts.values())}
        )

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """A conversation with tools of each dialogue."""
        built, kept = Built(self.name), set(unpack(fitted.arrays, "kept"))
        tools = _Tools(means.files["schema_file"], unpack(fitted.arrays, "examples")[0])
        draws = keys(shard.rows["id"], means.seed, "toolstate/role").tolist()
        for row, draw in zip(shard.rows.iter_rows(named=True), draws, strict=True):
            try:
                said = list(exchanges(fields_of(row).get(spec.turns), tools.services))
                turns, services = _conversation(said, tools, ROLE[draw % len(ROLE)])
            except ValueError as wrong:
                built.refuse(row, "no-dialogue", str(wrong))
                continue
            if row["id"] not in kept:
                built.refuse(row, "over-cap")
                continue
            calls = [i for i, t in enumerate(turns) if t["tool_calls"]]
            if not calls:
                built.refuse(row, "no-call", "the state never changes")
                continue
            definitions = orjson.dumps([tools.functions[s] for s in services]).decode()
            about = {"prompt_id": f"role-{draw % len(ROLE)}", "domain": services}
            built.add([row], messages=turns, tools=definitions, task=row["task"], loss_turns=calls, about=about)
        return built


class _Tools:
    """Functions of all services, and the check of their calls."""

    def __init__(self, schema: str, examples: str) -> None:
        self.services = services_of(schema)
        hints: dict[str, list[str]] = orjson.loads(examples)
        self.functions = {
            name: function_of(service, {k.split("\0")[1]: v for k, v in hints.items() if k.split("\0")[0] == name})
            for name, service in self.services.items()
        }

    def call(self, service: str, state: Mapping[str, Any]) -> str:
        """The call that says a service's whole state; raises ValueError where its schema forbids it."""
        parameters = self.functions[service]["function"]["parameters"]
        for name, value in state.items():
            if not _valid(orjson.dumps(parameters["properties"][name]), orjson.dumps(value)):
                raise ValueError(f"{service}.{name} cannot be {value!r}")
        function = {"name": function_name(service), "arguments": dict(state)}
        return orjson.dumps([{"type": "function", "function": function}]).decode()


@lru_cache(maxsize=1 << 16)
def _valid(schema: bytes, value: bytes) -> bool:
    """Whether a value fits a parameter; the same few thousand come again and again."""
    return Draft202012Validator(orjson.loads(schema)).is_valid(orjson.loads(value))


def _conversation(said: list[Any], tools: _Tools, role: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Turns, and the services that they touch, in the order of their appearance."""
    turns = [_turn("system", "\n".join([role, *(f"- {note}" for note in NOTES)]))]
    known: dict[str, dict[str, Any]] = {}
    for exchange in said:
        turns.append(_turn("user", exchange.user))
        for service, state in exchange.states.items():
            if state == known.get(service, {}):
                continue
            known[service] = state
            turns += [_turn("assistant", None, tools.call(service, state)), _turn("tool", "{}")]
        if exchange.response is not None:
            turns.append(_turn("assistant", exchange.response))
    while turns[-1]["role"] == "tool":  # the last call ends the dialogue
        turns.pop()
    return turns, list(said[-1].states) if said else []


def _turn(role: str, content: str | None, calls: str | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "tool_calls": calls}


def _spread(values: list[str], seed: int) -> list[str]:
    """Some of the values, by hash, sorted."""
    order = keys(pl.Series(values, dtype=pl.String), seed, "toolstate/examples").argsort(kind="stable")
    return sorted(values[i] for i in order[:EXAMPLES].tolist())


BUILDER = Toolstate()
