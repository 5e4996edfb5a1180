"""Whether a value is one that the gold accepts: exactly, or as the leaderboard compares.

Both modes tell `True` from 1. A number equals the gold's where both are written alike (5 and 5, 5.0 and 5.0) or where
the schema wants a number (5 for 5.0), so 5.0 for an integer is wrong. `normalised` compares texts after leaving out
blanks and ``, . / - _ * ^``, in lower case, with one kind of quotes (leaderboard v4, `standardize_string`); it does so
at every depth, where the leaderboard does at the first two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mixtura.toolcalls.tools import ANYTHING, Schema

Mode = Literal["strict", "normalised"]

FOLDED = str.maketrans({**dict.fromkeys(" ,./-_*^"), "'": '"'})


@dataclass(frozen=True, slots=True)
class Accepted:
    """Values any of which is right; they may hold further `Accepted` within objects and lists.

    omittable: leaving the argument (or the key of an object) out is right too.
    """

    values: tuple[Any, ...]
    omittable: bool = False


def folded(value: Any) -> Any:
    """A value, or a gold's with `Accepted` in it, with its texts as `normalised` sees them; keys stay as they are."""
    kind = type(value)
    if kind is str:
        return value.translate(FOLDED).lower()
    if kind is list or kind is tuple:
        return kind([folded(v) for v in value])
    if kind is dict:
        return {k: folded(v) for k, v in value.items()}
    if kind is Accepted:
        return Accepted(tuple(folded(v) for v in value.values), value.omittable)
    return value


def equal(value: Any, gold: Any, schema: Schema = ANYTHING) -> bool:
    """Whether a value is what a gold value says.

    Args:
        value: plain; folded, where the gold is.
        gold: a plain value, or one with `Accepted` in it.
        schema: of the value; it says which numbers and sequences may stand for each other.
    """
    ours, theirs = type(value), type(gold)
    if theirs is Accepted:
        for one in gold.values:  # noqa: SIM110 - a generator here costs a fifth of all verdicts
            if equal(value, one, schema):
                return True
        return False
    if ours is theirs:
        if ours is dict:
            return _equal_objects(value, gold, schema)
        if ours is list or ours is tuple:
            return _equal_items(value, gold, schema)
        return value == gold
    if ours is tuple and theirs is list:  # a gold from a file has no tuples
        return "tuple" in schema.kinds and _equal_items(value, gold, schema)
    if {ours, theirs} == {int, float}:
        return value == gold and schema.admits(value)
    return False


def _equal_items(value: Any, gold: Any, schema: Schema) -> bool:
    items = schema.items or ANYTHING
    return len(value) == len(gold) and all(equal(v, g, items) for v, g in zip(value, gold, strict=True))


def _equal_objects(value: dict[str, Any], gold: dict[str, Any], schema: Schema) -> bool:
    if any(k not in gold for k in value):
        return False
    return all(
        equal(value[k], g, schema.properties.get(k, ANYTHING)) if k in value else type(g) is Accepted and g.omittable
        for k, g in gold.items()
    )
