"""The task pool: a domain's actions, their steps in order, and how each step's rows are made.

One YAML file a domain. A step is one sub-task and later one data set; its `task_id` is `domain/action/step`. The file
is written by a person or drafted by `mixtura tasks propose`, and read by the builders.

Source: AnyTaskTune (arXiv:2407.07094), figure of the method: field → actions → steps → one pool entry for each pair of
action and step. Differs: what the paper does by interviews a file says; input, output, checks and rows are declared,
so that a row which breaks them can be refused. Kinds of step: those that recur across the paper's domains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PositiveInt, StringConstraints, ValidationError, model_validator

from mixtura import recipe_file
from mixtura.errors import RecipeError
from mixtura.recipe import Model, Word
from mixtura.tasks import schema
from mixtura.tasks.template import Template

Kind = Literal["enhance", "extract", "standardise", "classify", "score", "advise", "summarise", "free"]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")]  # BCP 47: en, pt-BR
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Value = str | int | float | bool | None
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Rows(Model):
    """Which rows of the pool a step is made from, and how many it gives."""

    sources: list[Word] | None = Field(default=None, description="Sources of the recipe; by default all.")
    where: dict[str, list[Value]] = Field(
        default_factory=dict, description="Field → values it may have; a row must satisfy every one."
    )
    clusters: list[int] | None = Field(
        default=None, description="Clusters of the proposal that the row may be in; needs `memberships` of the pool."
    )
    budget: PositiveInt | None = Field(
        default=None, description="Rows wanted, chosen by hash; by default all there are."
    )
    floor: Annotated[int, Field(ge=0)] = Field(default=0, description="Fewer valid rows than this stop the build.")
    cap: PositiveInt | None = Field(default=None, description="Most rows of one source, chosen by hash.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.budget is not None and self.floor > self.budget:
            raise ValueError("must have a floor of at most its budget")
        if self.clusters is not None and not self.clusters:
            raise ValueError("must name a cluster in clusters, or leave it out")
        return self


class Check(Model):
    """A further condition of an answer, beside its schema: a checker's word and its options."""

    name: Word = Field(description="The checker's word, such as numeric, choice or spans.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the checker.")


class Proposed(Model):
    """What a proposal saw; for the person who edits the file, and ignored by builders."""

    rows: int = Field(description="Rows of the corpus behind the step.")
    terms: list[str] = Field(default_factory=list, description="Words that set its rows apart, strongest first.")
    central: list[str] = Field(default_factory=list, description="Ids of its most central rows.")
    why: str = Field(default="", description="What made it a step: a cluster, or a column and what it holds.")


class Step(Model):
    """One sub-task. Input fields and templates name a row's fields, see `template.fields_of`."""

    kind: Kind = Field(description="What is done; 'free' where nothing else fits.")
    description: str = Field(default="", description="For people: one sentence.")
    instructions: dict[Language, list[Text]] = Field(
        min_length=1,
        description="Wordings by language. {field} inserts an input field; inputs that a wording does not insert "
        "follow it.",
    )
    rows: Rows = Field(default=Rows(), description="The rows it is made from.")
    language: Language | None = Field(
        default=None,
        description="Language of what is asked about, where it is not the row's: the other side of a pair.",
    )
    input: dict[str, Text] = Field(
        default_factory=lambda: {"text": "{text}"}, description="Field of the task → template over a row's fields."
    )
    output: Text | dict[str, Text] | None = Field(
        default=None,
        description="The answer as a template over a row's fields, or an object of templates; null: a model writes it.",
    )
    output_schema: dict[str, Any] = Field(
        default_factory=lambda: {"type": "string", "minLength": 1},
        description="JSON Schema of the answer. Type string: the answer is plain text; any other: it is JSON.",
    )
    words: dict[str, dict[str, Text]] = Field(
        default_factory=dict, description="Field → value → the words that stand for it in templates; one-to-one."
    )
    checks: list[Check] = Field(default_factory=list, description="Further conditions of an answer.")
    proposed: Proposed | None = Field(default=None, description="What a proposal saw; ignored by builders.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bad := [n for n in self.input if not NAME.fullmatch(n)]:
            raise ValueError(f"input must have names of letters, digits, '_' and '.'; got {bad}")
        for language, wordings in self.instructions.items():
            if not wordings:
                raise ValueError(f"instructions.{language} must have a wording")
            for wording in wordings:
                if unknown := sorted(set(Template(wording).fields) - set(self.input)):
                    need = f"instructions.{language} must insert input fields only"
                    raise ValueError(f"{need}, and write braces twice, {{{{ }}}}; got {unknown}")
        for name, words in self.words.items():
            if len({w.casefold() for w in words.values()}) != len(words):
                raise ValueError(f"words.{name} must be one-to-one: two values share words")
        schema.check(self.output_schema)
        if isinstance(self.output, dict) and schema.is_text(self.output_schema):
            raise ValueError("output_schema must be that of an object where output has fields")
        return self

    @property
    def made_by_model(self) -> bool:
        """Whether a model writes the answers, rather than the row's own columns."""
        return self.output is None


class Action(Model):
    """What a practitioner does, as a sequence of steps."""

    description: str = Field(default="", description="For people: one sentence.")
    steps: dict[Word, Step] = Field(min_length=1, description="Its steps, in the order in which they are done.")


class TaskPool(Model):
    """A domain's task pool."""

    domain: Word = Field(description="The field, such as medicine; the first part of each task_id.")
    description: str = Field(default="", description="For people: one sentence.")
    memberships: str | None = Field(
        default=None, description="Parquet file of `id` and `cluster` beside this one, which `rows.clusters` refer to."
    )
    actions: dict[Word, Action] = Field(min_length=1, description="Its actions.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.memberships is None and (named := [t.id for t in self.tasks() if t.step.rows.clusters is not None]):
            raise ValueError(f"must give memberships where rows.clusters are named; steps {named}")
        if self.memberships is not None and Path(self.memberships).name != self.memberships:
            raise ValueError("memberships must be the name of a file beside the task pool")
        return self

    def tasks(self) -> Iterator[Task]:
        """Every step with its names, in the order of the file."""
        for action_name, action in self.actions.items():
            for step_name, step in action.steps.items():
                yield Task(self.domain, action_name, step_name, step)


@dataclass(frozen=True)
class Task:
    """One step and where it stands."""

    domain: str
    action: str
    name: str
    step: Step

    @property
    def id(self) -> str:
        """`domain/action/step`, unique within a pool: each part is a key of a mapping."""
        return f"{self.domain}/{self.action}/{self.name}"


def load(path: str | Path) -> TaskPool:
    """Read and check a task pool file.

    Raises:
        InputError: it is missing, too large, no YAML, or wrong; the path of the first wrong key is named.
    """
    return build(recipe_file.read_tree(path, "task pool"), "task pool")


def parse(text: str, name: str = "task pool") -> TaskPool:
    """A task pool from YAML text; see `load`."""
    return build(recipe_file.parse_tree(text, name, "task pool"), name)


def build(tree: dict[str, Any], name: str = "task pool") -> TaskPool:
    """A task pool from plain values; see `load`."""
    try:
        return TaskPool.model_validate(tree)
    except ValidationError as e:
        found = recipe_file.explain(e, tree, model=TaskPool)
        where = name if found.thing == "recipe" else f"{name}: {found.thing}"
        raise RecipeError(where, found.need, got=found.got, next_step=found.next_step) from None


def to_yaml(pool: TaskPool) -> str:
    """The pool as a file for people: keys in the order of this module, defaults left out."""
    return yaml.safe_dump(
        pool.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True, width=110
    )
