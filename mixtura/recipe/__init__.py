"""The recipe: one tree of models that says everything about a mixture.

The same models check a YAML file (`recipe_file.load`), print the JSON Schema that editors complete from
(`mixtura schema`), and are the parameters of the Prefect flow. Each field says which way it pushes.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mixtura.recipe.choice import Build, Cap, Embed, Pick, Selection
from mixtura.recipe.mixing import Marks, Mix, Output, Splits
from mixtura.recipe.model import Globs, Model, Positive, Share, Word, digest
from mixtura.recipe.rows import Clean, Columns, NearDedup, Repetition, Sample, Source, Target
from mixtura.recipe.training import Mine, Preference, Probe, TinyModel, Train

__all__ = [
    "Build",
    "Cap",
    "Clean",
    "Columns",
    "Embed",
    "Globs",
    "Marks",
    "Mine",
    "Mix",
    "Model",
    "NearDedup",
    "Output",
    "Pick",
    "Positive",
    "Preference",
    "Probe",
    "Recipe",
    "Repetition",
    "Sample",
    "Selection",
    "Share",
    "Source",
    "Splits",
    "Target",
    "TinyModel",
    "Train",
    "Word",
    "digest",
]


class Recipe(Model):
    """Everything about one mixture."""

    name: Word = Field(description="Names the mixture, its folder and its card.")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="The same seed over the same rows gives the same bytes.")
    env: list[str] = Field(
        default_factory=list, description="Environment variables that `${NAME}` may name in paths and model names."
    )
    sources: dict[Word, Source] = Field(min_length=1, description="The pool's sources; an earlier one wins duplicates.")
    target: Target | None = Field(default=None, description="Rows that show what the mixture is for.")
    reference: Sample | None = Field(
        default=None, description="Sample of the base model's training data; else the pool's own."
    )
    avoid: Sample | None = Field(
        default=None, description="Rows to move away from, which then leave the pool too; of selectors, nudge heeds it."
    )
    clean: Clean = Field(default=Clean(), description="Filters and deduplication.")
    build: list[Build] = Field(default_factory=list, description="Builders, in order: new rows out of rows.")
    embed: Embed = Field(default=Embed(), description="Encoder; used only where a selector needs vectors.")
    select: list[Selection] = Field(min_length=1, description="Selections that feed the mixture.")
    mix: Mix = Field(default=Mix(), description="Weights and splits.")
    output: Output = Field(default=Output(), description="Folder and files.")
    train: Train = Field(default=Train(), description="Settings of `mixtura train`.")
    probe: Probe = Field(default=Probe(), description="Settings of `mixtura probe`.")
    mine: Mine = Field(default=Mine(), description="Settings of `mixtura mine`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [s.word for s in self.select]
        if len(set(names)) != len(names):
            raise ValueError(f"select must have a different name for each selection; got {names}")
        known = self._with_builds()
        for selection in self.select:
            _known(f"select.{selection.word}.sources", selection.sources or [], known)
            _known(f"select.{selection.word}.pick.caps", [c for c in selection.pick.caps if c != "*"], known)
        _known("embed.fit_on", self.embed.fit_on or [], set(self.sources))
        if self.mix.weights is not None:
            _known("mix.weights", list(self.mix.weights), set(names))
            if missing := sorted(set(names) - set(self.mix.weights)):
                raise ValueError(f"mix.weights must weigh every selection; missing {missing}")
        if self.mix.marks is not None and self.mix.marks.selection is not None:
            _known("mix.marks.selection", [self.mix.marks.selection], set(names))
        reserved = {"target", "reference", "avoid"} & known
        if reserved:
            raise ValueError(f"sources must not be named {sorted(reserved)}: the words are taken")
        return self

    @property
    def samples(self) -> dict[str, Sample]:
        """Rows that show a distribution, by what they are to the mixture; those that the recipe has."""
        given = {"target": self.target, "reference": self.reference, "avoid": self.avoid}
        return {role: sample for role, sample in given.items() if sample is not None}

    def _with_builds(self) -> set[str]:
        """Names of sources and builds; each build reads what stands before it, and takes a name of its own."""
        known = set(self.sources)
        for build in self.build:
            _known(f"build.{build.word}.sources", build.sources, known)
            if build.word in known:
                raise ValueError(f"build must have names that no source and no other build has; got {build.word!r}")
            known.add(build.word)
        return known

    def pool_names(self) -> list[str]:
        """Names that rows of the pool go by: sources, then builds, in the recipe's order."""
        return [*self.sources, *(b.word for b in self.build)]

    def sources_of(self, selection: Selection) -> list[str]:
        """What a selection may choose from: what it names, else everything that no build reads."""
        read = {name for b in self.build for name in b.sources}
        return selection.sources or [n for n in self.pool_names() if n not in read]

    def chosen_from(self) -> list[str]:
        """Sources and builds that some selection may choose from; the others only serve builds."""
        open_names = {n for s in self.select for n in self.sources_of(s)}
        return [n for n in self.pool_names() if n in open_names]

    def fingerprint(self) -> str:
        """Digest of everything that the recipe says, as 16 hex digits."""
        return digest(self.model_dump(mode="json"))[:16]


def _known(where: str, named: list[str], known: set[str]) -> None:
    if unknown := [n for n in named if n not in known]:
        raise ValueError(f"{where} must name known ones of {sorted(known)}; got {unknown}")
