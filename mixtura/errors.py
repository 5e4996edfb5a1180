"""The exception tree. A message names the thing, the need, what came, and the next step.

MixturaError            exit code 1: a fault of ours or of the machine
├── CountError          rows in do not equal rows out plus rows dropped
├── StoreError          an artefact is damaged or cannot be written
├── GenerationError     a server that generates stopped answering, or a budget of tokens is spent
└── InputError          exit code 2: the recipe or an input is wrong
    └── RecipeError     the recipe itself, with the path of the key
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class MixturaError(Exception):
    """Base of every error that a user may read; `exit_code` is what the command line returns."""

    exit_code = 1


class CountError(MixturaError):
    """The books do not balance: `read = written + dropped + quarantined` failed."""


class StoreError(MixturaError):
    """An artefact is damaged, or the store cannot be written."""


class GenerationError(MixturaError):
    """A server that generates stopped answering, or the budget of tokens is spent; what came before is kept."""


class InputError(MixturaError):
    """A mistake in a recipe or a file: `<thing> <need>; got <value>. <next step>`.

    Args:
        thing: what the sentence is about, named as the user knows it.
        need: what it must be, starting with a verb.
        got: what came instead; left out of the sentence when None.
        next_step: what to do now, a sentence without the full stop.
    """

    exit_code = 2

    def __init__(self, thing: str, need: str, *, got: object = None, next_step: str = "") -> None:
        self.thing, self.need, self.got, self.next_step = thing, need, got, next_step
        came = "" if got is None else f"; got {shortened(got)}"
        then = f" {next_step.rstrip('.')}." if next_step else ""
        super().__init__(_one_line(f"{thing} {need}{came}.{then}"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts, so that a worker process can raise it here."""
        return _again, (type(self), self.thing, self.need, self.got, self.next_step)


class RecipeError(InputError):
    """The recipe is wrong; `thing` is the path of the key, such as `sources.web.files`."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The advice `Nearest: 'x'` for a misspelt word, or '' where nothing is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"Nearest: {close[0]!r}" if close else ""


def _again(kind: type[InputError], thing: str, need: str, got: object, next_step: str) -> InputError:
    return kind(thing, need, got=got, next_step=next_step)


def _one_line(text: str) -> str:
    """Names out of recipes and files may hold newlines and terminal codes; a sentence shows them, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shortened(value: object, limit: int = 200) -> str:
    """`repr`, cut so that it fits into a sentence."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
