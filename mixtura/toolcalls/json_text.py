"""Calls as JSON writes them, in any of the dialects that models and servers use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from mixtura.toolcalls.call import MAX_CALLS, MAX_DIGITS, Call, Unreadable, bounded, checked
from mixtura.toolcalls.python_text import python_value

NAMES = ("name", "function", "api", "api_name", "tool_name", "tool")
ARGUMENTS = ("arguments", "parameters", "args", "input", "tool_input", "param_dict")
BETWEEN = re.compile(r"[\s,;]*")  # between objects that stand in a row


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


def _decimal(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number has more than {MAX_DIGITS} digits")
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable("a number is not finite")
    return value


def _constant(text: str) -> Any:
    raise Unreadable(f"{text} is no JSON")


# the standard library's scanner rather than orjson: it keeps integers beyond 64 bits, and reads a value off the front
DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_decimal, parse_constant=_constant)


def json_value(text: str) -> Any:
    """One JSON value, or one Python literal, since models quote objects as Python does.

    Raises:
        Unreadable: it is neither, or beyond a bound.
    """
    try:
        value = DECODER.decode(text)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as e:
        if text.lstrip().startswith(("{", "[")) and "'" in text:
            return python_value(text)
        raise Unreadable(f"no JSON: {e}") from e
    return bounded(value, -2)


def json_values(text: str) -> list[Any]:
    """JSON values in a row, with blanks, commas or semicolons between them.

    Raises:
        Unreadable: they are not, or there are more than MAX_CALLS.
    """
    try:
        value, at = DECODER.raw_decode(text, len(text) - len(text.lstrip()))
        found = [value]
        while (at := BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            if len(found) == MAX_CALLS:
                raise Unreadable(f"there are more than {MAX_CALLS} calls")
            value, at = DECODER.raw_decode(text, at)
            found.append(value)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as e:
        if "'" in text:
            return [python_value(text)]
        raise Unreadable(f"no JSON: {e}") from e
    return bounded(found, -3)  # the row, the call and its arguments are no depth of a value


def json_calls(text: str) -> list[Call]:
    """Every call of a text that is nothing but JSON.

    Raises:
        Unreadable: it is anything else.
    """
    return calls_in(json_values(text))


def calls_in(values: Any) -> list[Call]:
    """The calls of objects, or of lists of objects.

    Raises:
        Unreadable: one of them is no call.
    """
    found: list[Call] = []
    for value in values if isinstance(values, list) else [values]:
        found += [call_of(v) for v in value] if isinstance(value, list) else [call_of(value)]
        if len(found) > MAX_CALLS:
            raise Unreadable(f"there are more than {MAX_CALLS} calls")
    return found


def call_of(value: Any) -> Call:
    """The call of one object: `{name, arguments}`, OpenAI's wrapping of it, and the names that others give the two.

    Arguments may be an object, a string that holds one (OpenAI), or be absent.

    Raises:
        Unreadable: it is no call.
    """
    if not isinstance(value, Mapping):
        raise Unreadable("a call must be an object")
    if isinstance(value.get("function"), Mapping):
        value = value["function"]
    name = next((value[key] for key in NAMES if isinstance(value.get(key), str) and value[key]), None)
    if name is None:
        raise Unreadable("a call must have a name")
    arguments = next((value[key] for key in ARGUMENTS if key in value), None)
    if isinstance(arguments, str):
        arguments = json_value(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise Unreadable("the arguments must be an object")
    return checked(Call(name, arguments if type(arguments) is dict else dict(arguments)))


def looks_like_call(value: Any) -> bool:
    """Whether a JSON value is meant as a call rather than as an answer: it has a name, and a place for arguments."""
    if isinstance(value, list):
        return bool(value) and all(looks_like_call(v) for v in value)
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("function"), Mapping):
        value = value["function"]
    return any(k in value for k in ARGUMENTS) and any(isinstance(value.get(k), str) for k in NAMES)
