"""Replies are kept by their content: what was once paid for is never asked again, and a broken run continues."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixtura.generation.contract import Ask, Generator, Judge, Likelihood, Piece, Reply, Streams
from mixtura.recipe.model import digest

CODE = 1  # of the files; a change of their form is another number


class Cached:
    """A generator whose replies are kept in a folder, one file per ask.

    An ask's replies are on disk as soon as they are all there, so that the same call made again, after a server died or
    this process did, asks only for the rest. Equal asks are asked once.

    Args:
        inner: the generator.
        folder: made when missing; any number of processes may share it.
    """

    def __init__(self, inner: Generator, folder: str | Path) -> None:
        self.inner, self.folder = inner, Path(folder)
        self.asked = self.found = 0  # asks that went to the model, and that did not

    @property
    def identity(self) -> dict[str, Any]:
        """The inner generator's: keeping replies changes none."""
        return self.inner.identity

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        """As `Generator.replies`; only what is not in the folder goes to the model."""
        options: dict[str, Any] = {
            "samples": samples, "max_tokens": max_tokens, "temperature": float(temperature), "seed": seed
        }  # fmt: skip
        keys = [self._key(ask, options) for ask in asks]
        first = dict(zip(reversed(keys), reversed(asks), strict=True))  # key → one ask of that content
        kept = {k: r for k in first if len(r := self._read(k)) == samples}
        rest = [k for k in dict.fromkeys(keys) if k not in kept]
        self.found, self.asked = self.found + len(asks) - len(rest), self.asked + len(rest)
        for at, made in _as_they_come(self.inner, [first[k] for k in rest], options):
            if all(r.finish != "refused" or r.tokens for r in made):  # what was not put to a model another may take
                self._write(rest[at], made)
            kept[rest[at]] = made
        return [kept[k] for k in keys]

    def likelihoods(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        """As the inner model's, which are cheap beside sampling: they are not kept."""
        if not isinstance(self.inner, Judge):
            return [None] * len(asks)
        return self.inner.likelihoods(asks, answers)

    def _key(self, ask: Ask, options: dict[str, Any]) -> str:
        return digest([CODE, self.identity, ask.digest, options])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _read(self, key: str) -> list[Reply]:
        """Kept replies; [] where there are none, or where the file is damaged: then the model is asked again."""
        try:
            return [_reply(r) for r in json.loads(self._path(key).read_bytes())]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def _write(self, key: str, replies: list[Reply]) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(json.dumps([asdict(r) for r in replies], ensure_ascii=True))
        os.replace(draft, path)


def _reply(kept: dict[str, Any]) -> Reply:
    fields: dict[str, Any] = kept | {"pieces": tuple(Piece(**p) for p in kept["pieces"])}
    return Reply(**fields)


def _as_they_come(inner: Generator, asks: list[Ask], options: dict[str, Any]) -> Iterator[tuple[int, list[Reply]]]:
    """(number of the ask, its replies), in the order in which they are finished where the generator tells."""
    if isinstance(inner, Streams):
        return inner.stream(asks, **options)
    return enumerate(inner.replies(asks, **options) if asks else [])
