"""A tool call, and what was read of an answer.

An answer comes from a model, so everything about it is bounded here: its length, how deep its values nest, how long a
number is, how many calls it makes. What exceeds a bound is unreadable, like any other nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_TEXT = 1 << 18  # characters of an answer: some 60,000 tokens
MAX_DEPTH = 64  # of lists and objects in an argument; the deepest gold of the leaderboard has 4
MAX_CALLS = 256  # in one answer; the leaderboard's golds have up to 8
MAX_ARGUMENTS = 256  # of one call; the leaderboard's golds have up to 27
MAX_NAME = 256  # characters of a tool's name, or of an argument's
MAX_DIGITS = 400  # of a number: any float fits, and converting an integer takes no noticeable time

Form = Literal["text", "message", "tags", "xml", "json", "python", "react"]


class Unreadable(ValueError):
    """An answer tries to call a tool and cannot be read; `str()` says why. It never leaves `parse`."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    arguments: JSON values; a Python tuple stays one, so that a verdict can tell it from a list.
    positional: values without a name, which no schema can place; a verdict counts them as an error.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of an answer: calls, or none because it is prose, or none because it cannot be read.

    form: how the calls were written; `text` where there are none.
    problem: why an attempt at a call is unreadable, or ''.
    """

    calls: tuple[Call, ...] = ()
    form: Form = "text"
    problem: str = ""


def checked(call: Call) -> Call:
    """A call that keeps the bounds of names and of the number of arguments, unchanged; see `bounded` for its values.

    Raises:
        Unreadable: it does not.
    """
    if len(call.arguments) + len(call.positional) > MAX_ARGUMENTS:
        raise Unreadable(f"a call has more than {MAX_ARGUMENTS} arguments")
    if len(call.name) > MAX_NAME or any(len(k) > MAX_NAME for k in call.arguments):
        raise Unreadable(f"a name is longer than {MAX_NAME} characters")
    return call


def bounded(value: Any, depth: int = 0) -> Any:
    """A JSON value that keeps the bounds, unchanged.

    Raises:
        Unreadable: it nests too deep, or holds a number or a text that no file could hold.
    """
    kind = type(value)
    if kind is str:
        if not value.isascii():
            no_surrogate(value)
    elif kind is dict or kind is list or kind is tuple:
        if depth >= MAX_DEPTH:
            raise Unreadable(f"values nest deeper than {MAX_DEPTH}")
        for item in value.values() if kind is dict else value:
            bounded(item, depth + 1)
        if kind is dict and not all(type(key) is str for key in value):
            raise Unreadable("an object has a key that is no text")
    elif kind is float:
        if not math.isfinite(value):
            raise Unreadable("a number is not finite")
    elif kind is int:
        if value.bit_length() > 3 * MAX_DIGITS:
            raise Unreadable(f"a number has more than {MAX_DIGITS} digits")
    elif value is not None and kind is not bool:
        raise Unreadable(f"a value is {kind.__name__}, which JSON has not")
    return value


def no_surrogate(text: str) -> None:
    """Raise where a text holds half of a surrogate pair, which no UTF-8 file can hold.

    Raises:
        Unreadable: it does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Unreadable("a text holds half of a surrogate pair") from e
