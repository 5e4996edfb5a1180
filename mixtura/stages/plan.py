"""What every stage shares: the recipe, where its files are, where artefacts go, and who is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from mixtura.pipeline.locate import Where, model_path, resolve_output
from mixtura.pipeline.work import Workers
from mixtura.recipe import Recipe
from mixtura.recipe_file import environment
from mixtura.store import Artefact, NotMade, Store, peeking

J = TypeVar("J")


class Settings(BaseModel):
    """How to run, which never changes what comes out: the mixture's bytes do not depend on any of these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(default=".", description="Folder that the recipe's paths are relative to.")
    store: str | None = Field(default=None, description="Folder of artefacts; by default .mixtura in the base.")
    workers: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1, description="Processes.")
    shard_rows: PositiveInt = Field(default=20_000, description="Rows of a shard: the unit of work and of memory.")
    roots: list[str] = Field(default_factory=list, description="Further folders that the recipe may read.")
    output: str | None = Field(default=None, description="Folder of the mixture, instead of the recipe's.")


class Teller(Protocol):
    """Who is told how a run goes."""

    def begin(self, stage: str, total: int) -> None:
        """A stage begins; `total` pieces of work, 0 where unknown."""
        ...

    def advance(self, stage: str, reused: bool) -> None:
        """A piece of a stage is done."""
        ...

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """A stage is done; `line` says what came of it."""
        ...


class Quiet:
    """Tells nobody."""

    def begin(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, stage: str, reused: bool) -> None:
        """Nothing."""

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """Nothing."""


@dataclass
class Tracker:
    """Counts a stage's artefacts as they come."""

    stage: str
    teller: Teller
    line: str = ""
    made: list[Artefact] = field(default_factory=list)

    def count(self, artefact: Artefact) -> None:
        """Count one artefact."""
        self.made.append(artefact)
        self.teller.advance(self.stage, artefact.reused)

    def add(self, artefact: Artefact) -> Artefact:
        """Count one artefact and hand it on."""
        self.count(artefact)
        return artefact

    @property
    def reused(self) -> int:
        """How many were found rather than made."""
        return sum(a.reused for a in self.made)


@dataclass(frozen=True)
class Plan:
    """One curation."""

    recipe: Recipe
    where: Where
    store: Store
    workers: Workers
    shard_rows: int
    output: Path
    teller: Teller

    @classmethod
    def of(cls, recipe: Recipe, settings: Settings, teller: Teller | None = None) -> Plan:
        """A plan from a recipe and settings; nothing is read yet.

        Raises:
            InputError: a declared variable is not set, or the output lies outside the base.
        """
        base = Path(settings.base).resolve()
        where = Where(base, environment(recipe), tuple(Path(r).resolve() for r in settings.roots))
        output = (
            Path(settings.output).absolute()
            if settings.output
            else resolve_output(recipe.output.folder or f"mixtures/{recipe.name}", where)
        )
        store = Store(settings.store or base / ".mixtura")
        return cls(recipe, where, store, Workers(settings.workers), settings.shard_rows, output, teller or Quiet())

    def model(self, name: str) -> str:
        """A model's name, or the path of its folder with declared variables filled in."""
        return model_path(name, self.where)

    @property
    def evidence(self) -> Path:
        """Where a probe of this recipe leaves what it measured."""
        return self.store.root / "evidence" / f"{self.recipe.fingerprint()}.json"

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[Tracker]:
        """Announce a stage, and its end unless it fails."""
        self.teller.begin(name, total)
        tracker = Tracker(name, self.teller)
        yield tracker
        self.teller.end(name, tracker.line, tracker.reused, len(tracker.made) - tracker.reused)

    def map(self, tracker: Tracker, function: Callable[[J], Artefact], jobs: Sequence[J]) -> list[Artefact]:
        """Run a stage's jobs over the workers, telling of each; what the store has starts no worker."""
        made: list[Artefact | None] = [None] * len(jobs)
        for i, job in enumerate(jobs):
            with suppress(NotMade), peeking():
                made[i] = tracker.add(function(job))
        rest = [i for i, artefact in enumerate(made) if artefact is None]
        for i, artefact in zip(
            rest, self.workers.map(function, [jobs[i] for i in rest], done=tracker.count), strict=True
        ):
            made[i] = artefact
        return [a for a in made if a is not None]
