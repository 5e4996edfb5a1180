"""One row per language of the prompt: templates over a data set's fields, capped by hash per data set and prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt, StringConstraints, model_validator

from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import keys
from mixtura.tasks.template import MissingField, Template, fields_of, found_in

Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]  # BCP 47


class Prompt(contract.Spec):
    """One prompt in several languages."""

    inputs: dict[Language, str] = Field(min_length=1, description="Language of the prompt → template of the request.")
    target: str | dict[Language, str] = Field(description="Template of the answer, one or by language of the prompt.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if isinstance(self.target, dict) and (missing := sorted(set(self.inputs) - set(self.target))):
            raise ValueError(f"target must have every language of inputs; missing {missing}")
        return self


class Spec(contract.Spec):
    """Options of multilingual."""

    prompts: dict[str, Prompt] = Field(min_length=1, description="Prompt's name → its templates.")
    cap: PositiveInt = Field(default=100_000, description="Most rows per data set, prompt and language; by hash of id.")
    data_set: str = Field(default="{source}", description="What a data set is: a template over the row's fields.")
    hidden: dict[str, list[str | int | None]] = Field(
        default_factory=dict, description="Field → values that stand for a hidden label; such rows give nothing."
    )


class Multilingual:
    """Source: xP3 (arXiv:2211.01786), section 3.1 and appendix; recipe verified in the authors' code.

    Differs: the cap takes rows by a seeded hash (the authors sort by the inputs' alphabet and take the first); prompt
    language and text language are recorded apart; a row without exactly one target is refused with a reason.
    """

    name: ClassVar[str] = "multilingual"
    source: ClassVar[str] = "xP3, arXiv:2211.01786; caps by hash rather than by the alphabet"
    needs: ClassVar[Needs] = Needs()
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """The hash up to which rows are taken, for each data set, prompt and language that has more than the cap."""
        found: dict[str, list[np.ndarray]] = {}
        counts: Counter[str] = Counter()
        rendered = _Rendered(spec)
        for shard in shards:
            here: dict[str, list[int]] = {}
            for i, row in enumerate(shard.rows.iter_rows(named=True)):
                for cell in rendered.cells(row):
                    here.setdefault(cell, []).append(i)
            for cell, places in here.items():
                counts[cell] += len(places)
                found.setdefault(cell, []).append(_keys(shard.rows["id"][places], means.seed, cell))
        limits = {
            cell: int(np.partition(np.concatenate(parts), spec.cap - 1)[spec.cap - 1])
            for cell, parts in found.items()
            if counts[cell] > spec.cap
        }
        return Fitted(facts={"capped": len(limits), "limits": limits})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """Every prompt in every language that the row can fill."""
        built, rendered = Built(self.name), _Rendered(spec)
        limits: dict[str, int] = fitted.facts["limits"]
        hashed = {cell: _keys(shard.rows["id"], means.seed, cell).tolist() for cell in limits}
        for i, row in enumerate(shard.rows.iter_rows(named=True)):
            before = len(built.rows)
            made, why = rendered.all(row)
            for cell, prompt, language, asked, answered in made:
                if cell in limits and hashed[cell][i] > limits[cell]:
                    why.setdefault("over-cap", f"{prompt}/{language}")
                    continue
                turns = [
                    {"role": "user", "content": asked, "tool_calls": None},
                    {"role": "assistant", "content": answered, "tool_calls": None},
                ]
                about = {"prompt_id": prompt, "prompt_language": language}
                built.add([row], messages=turns, task=row["task"] or prompt, about=about)
            for reason, detail in why.items():
                built.refuse(row, reason, detail)
            assert len(built.rows) > before or why
        return built


class _Rendered:
    """The templates, read once."""

    def __init__(self, spec: Spec) -> None:
        self.hidden, self.data_set = spec.hidden, Template(spec.data_set)
        self.prompts = [
            (name, language, Template(asked), Template(p.target if isinstance(p.target, str) else p.target[language]))
            for name, p in spec.prompts.items()
            for language, asked in p.inputs.items()
        ]

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """Data set, prompt and language of everything that the row gives."""
        return [cell for cell, *_ in self.all(row)[0]]

    def all(self, row: Mapping[str, Any]) -> tuple[list[tuple[str, str, str, str, str]], dict[str, str]]:
        """(cell, prompt, language, request, answer) of each, and why others are missing."""
        fields = fields_of(row)
        why: dict[str, str] = {}
        if (name := next((n for n, v in self.hidden.items() if fields.get(n) in v), None)) is not None:
            return [], {"hidden-label": name}
        try:
            group = self.data_set.text(fields)
        except MissingField as missing:
            return [], {"missing-field": missing.field}
        made = []
        for name, language, asked, answered in self.prompts:
            try:
                if answered.alone and isinstance(targets := found_in(fields, answered.fields[0]), list):
                    if len(targets) != 1:
                        why.setdefault("not-one-target", f"{len(targets)} in {answered.fields[0]}")
                        continue
                    said = str(targets[0])
                else:
                    said = answered.text(fields)
                made.append((f"{group}/{name}/{language}", name, language, asked.text(fields), said))
            except MissingField as missing:
                why.setdefault("missing-field", missing.field)
        return made, why


def _keys(ids: pl.Series, seed: int, cell: str) -> np.ndarray:
    return keys(ids, seed, f"multilingual/{cell}")


BUILDER = Multilingual()
