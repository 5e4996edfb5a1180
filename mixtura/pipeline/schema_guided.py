"""Schema-guided dialogues: services as functions, and the state that a dialogue adds up to, turn by turn.

Source: Rastogi et al. 2020, Towards scalable multi-domain conversational agents: the schema-guided dialogue dataset,
for the files; FnCTOD (arXiv:2402.10466), section 3, for services as functions and states as calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mixtura.errors import InputError

DONTCARE = "dontcare"
TRUTH = {"True", "False", "true", "false"}
EXAMPLES = 10  # values of an open slot that its description hints at


@dataclass(frozen=True)
class Turn:
    """One exchange.

    user: what the user says; response: what the system says then, or None at the end.
    states: service → slot → value after the user's turn, everything said so far.
    """

    user: str
    response: str | None
    states: dict[str, dict[str, Any]]


def services_of(text: str) -> dict[str, dict[str, Any]]:
    """Service name → its schema, from the text of a `schema.json`.

    Raises:
        InputError: it is no list of services.
    """
    try:
        found = {s["service_name"]: s for s in orjson.loads(text)}
        for service in found.values():
            _ = [(slot["name"], slot["is_categorical"]) for slot in service["slots"]], service["intents"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as e:
        need = "must be a list of services with service_name, slots and intents"
        raise InputError("schema file", need, got=f"{type(e).__name__}: {e}") from None
    return found


def function_name(service: str) -> str:
    """A service's name as a function's: letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", service)


def function_of(service: Mapping[str, Any], examples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A service as a function in OpenAI's form.

    Args:
        service: its schema.
        examples: slot → values seen, for the hint of an open slot.

    Returns:
        Slots as parameters: boolean, integer, or string, with an `enum` where the slot is categorical; required are
        those of the first intent.
    """
    slots = {slot["name"]: _parameter(slot, examples.get(slot["name"], ())) for slot in service["slots"]}
    intents = service["intents"]
    required = [s for s in (intents[0].get("required_slots", []) if intents else []) if s in slots]
    description = f"{service.get('description') or service['service_name']}. Give every value that the user has stated "
    description += f"so far; '{DONTCARE}' where the user has no preference."
    parameters = {"type": "object", "properties": slots, "required": required, "additionalProperties": False}
    function = {"name": function_name(service["service_name"]), "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _parameter(slot: Mapping[str, Any], examples: Sequence[str]) -> dict[str, Any]:
    described = {"description": slot.get("description") or slot["name"]}
    values = [str(v) for v in slot.get("possible_values") or []]
    if not slot["is_categorical"] or not values:
        hint = f" For example: {', '.join(examples)}." if examples else ""
        return {"type": "string", "description": f"{described['description']}{hint}"}
    if set(values) <= TRUTH:
        return described | {"type": ["boolean", "string"], "enum": [True, False, DONTCARE]}
    if all(v.isdecimal() for v in values):
        return described | {"type": ["integer", "string"], "enum": [*map(int, values), DONTCARE]}
    return described | {"type": "string", "enum": [*values, *([] if DONTCARE in values else [DONTCARE])]}


def value_of(slot: Mapping[str, Any], said: str) -> Any:
    """A stated value in its parameter's type."""
    values = {str(v) for v in slot.get("possible_values") or []} if slot["is_categorical"] else set()
    if values and values <= TRUTH and said in TRUTH:
        return said.lower() == "true"
    if values and all(v.isdecimal() for v in values) and said.isdecimal():
        return int(said)
    return said


def exchanges(turns: Any, services: Mapping[str, Mapping[str, Any]]) -> Iterator[Turn]:
    """The exchanges of a dialogue, states accumulated.

    Args:
        turns: of the file: `speaker` USER or SYSTEM, `utterance`, `frames` with `service` and, of the user, `state`.
        services: from `services_of`.

    Raises:
        ValueError: the turns are not of this form, or name an unknown service or slot.
    """
    states: dict[str, dict[str, Any]] = {}
    try:
        for i, turn in enumerate(turns):
            if turn["speaker"] != "USER":
                continue
            for frame in turn["frames"]:
                schema = {slot["name"]: slot for slot in services[frame["service"]]["slots"]}
                values = frame.get("state", {}).get("slot_values", {})
                before = states.get(frame["service"], {})
                states[frame["service"]] = {
                    n: _kept(schema[n], v, before.get(n)) for n, v in sorted(values.items()) if v
                }
            after = turns[i + 1] if i + 1 < len(turns) else None
            response = after["utterance"] if after and after["speaker"] != "USER" else None
            yield Turn(turn["utterance"], response, {s: dict(v) for s, v in states.items()})
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise ValueError(f"{type(e).__name__}: {e}") from None


def _kept(slot: Mapping[str, Any], said: Sequence[str], before: Any) -> Any:
    """The value of a slot whose file lists several wordings of it: the one that stood before, else the first."""
    values = [value_of(slot, v) for v in said]
    return before if before in values else values[0]
