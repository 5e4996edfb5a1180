"""Find a selector, a builder, a reader or a check by its word.

A built-in's word is its file's stem; a user's own comes by entry point (`mixtura.selectors`, `mixtura.builders`,
`mixtura.readers`, `mixtura.checks`), whose value is a module. All enter by the same door: a module with the one public
name that `OFFERS` lists.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Literal

from mixtura.errors import InputError, nearest

Kind = Literal["selectors", "builders", "readers", "checks"]
HOMES: dict[Kind, str] = {
    "selectors": "mixtura.selectors",
    "builders": "mixtura.builders",
    "readers": "mixtura.pipeline.readers",
    "checks": "mixtura.checks",
}
OFFERS: dict[Kind, str] = {"selectors": "SELECTOR", "builders": "BUILDER", "readers": "READER", "checks": "CHECK"}


@cache
def words(kind: Kind) -> dict[str, str]:
    """Word → module path of everything of this kind that is installed; built-ins win a clash."""
    home = importlib.import_module(HOMES[kind])
    found = {e.name: e.value for e in entry_points(group=f"mixtura.{kind}")}
    found |= {
        m.name: f"{HOMES[kind]}.{m.name}" for m in pkgutil.iter_modules(home.__path__) if not m.name.startswith("_")
    }
    return dict(sorted(found.items()))


@cache
def module_of(kind: Kind, word: str) -> ModuleType:
    """The module behind a word.

    Raises:
        InputError: no such word; the message lists the choices and the nearest one.
    """
    choices = words(kind)
    if word not in choices:
        raise InputError(
            f"{kind.removesuffix('s')}",
            f"must be one of {', '.join(choices)}",
            got=word,
            next_step=nearest(word, choices),
        )
    return importlib.import_module(choices[word])


def find(kind: Kind, word: str) -> Any:
    """The object that a word's module offers (`SELECTOR`, `BUILDER`, `READER` or `CHECK`).

    Raises:
        InputError: no such word, or its module does not offer the object.
    """
    module = module_of(kind, word)
    if not hasattr(module, OFFERS[kind]):
        raise InputError(f"{kind} entry point {word!r}", f"must be a module with {OFFERS[kind]}", got=module.__name__)
    return getattr(module, OFFERS[kind])
