"""Sub-task rows: each step of a task pool, made from a row's own columns, or by a model whose answers are checked.

Every row says its `task_id` (`domain/action/step`, column `task`), the wording and the language of its instruction, and
where its answer comes from. No row leaves that its step's output schema or checks refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import keys
from mixtura.tasks import pool as task_pool
from mixtura.tasks.rendering import Refusal, Rendered


class Spec(contract.Spec):
    """Options of subtask."""

    tasks: str = Field(description="The task pool file: a path, as the recipe's files are named.")
    steps: list[str] | None = Field(
        default=None, description="Build these only: `action` or `action/step`; by default every step."
    )
    languages: Literal["match", "each"] = Field(
        default="match",
        description="Language of the instruction: 'match' the row's own where the step has it, else one by hash; "
        "'each': a row for every language.",
    )
    without_model: Literal["refuse", "skip"] = Field(
        default="refuse", description="Steps that a model must write, where there is none: stop, or leave them out."
    )


class Subtask:
    """Source: AnyTaskTune (arXiv:2407.07094): field, actions, steps, one data set for each pair of action and step.

    Differs: the paper lets a model write every row and publishes no split; here a step may read columns that are there,
    every answer fits a declared schema, budgets and caps are by hash, and rows of one parent share a split.
    """

    name: ClassVar[str] = "subtask"
    source: ClassVar[str] = "AnyTaskTune, arXiv:2407.07094; answers from columns, checked against a declared schema"
    needs: ClassVar[Needs] = Needs(files=("tasks",))
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """The hash up to which each step takes rows, so that its cap and budget hold over all of them."""
        tasks = _tasks(spec, means)
        found: dict[str, list[tuple[str, int]]] = {t.id: [] for t in tasks}
        for shard in shards:
            draws = {t.id: _draws(shard, t.id, means.seed) for t in tasks}
            for i, row in enumerate(shard.rows.iter_rows(named=True)):
                fields = Rendered.fields(row)
                for task in tasks:
                    if not isinstance(task.made(row, fields), Refusal):
                        found[task.id].append((row["source"], draws[task.id][i]))
        facts = {t.id: _limits(t, found[t.id]) for t in tasks}
        return Fitted(facts={"steps": facts, "rows": {t.id: len(found[t.id]) for t in tasks}})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """Rows of every step, in the order of their parents."""
        built, tasks = Built(self.name), _tasks(spec, means)
        limits: dict[str, dict[str, int]] = fitted.facts["steps"]
        draws = {t.id: _draws(shard, t.id, means.seed) for t in tasks}
        for i, row in enumerate(shard.rows.iter_rows(named=True)):
            fields = Rendered.fields(row)
            why: dict[str, str] = {}
            before = len(built.rows)
            for task in tasks:
                made = task.made(row, fields)
                if isinstance(made, Refusal):
                    why.setdefault(made.reason, f"{task.id}: {made.detail}")
                    continue
                draw, here = draws[task.id][i], limits[task.id]
                if draw > min(here.get("*", draw), here.get(row["source"], draw)):
                    why.setdefault("over-budget", task.id)
                    continue
                for language in task.languages(row, draw, every=spec.languages == "each"):
                    turns, wording = task.turns(made, language, draw)
                    about = task.about | {"prompt_id": f"{language}-{wording}", "prompt_language": language}
                    spoken = task.step.language or row["language"]
                    built.add([row], messages=turns, task=task.id, language=spoken, about=about)
            for reason, detail in why.items():
                if reason != "no-step" or (len(built.rows) == before and len(why) == 1):
                    built.refuse(row, reason, detail)
        return built


def _tasks(spec: Spec, means: Means) -> list[Rendered]:
    """The steps to build.

    Raises:
        InputError: the file is wrong, names no such step, or a step needs a model.
    """
    tasks = list(task_pool.parse(means.files["tasks"]).tasks())
    if spec.steps is not None:
        known = {t.action for t in tasks} | {f"{t.action}/{t.name}" for t in tasks}
        if unknown := [s for s in spec.steps if s not in known]:
            raise InputError("builder 'subtask'", f"must have steps of {sorted(known)}", got=unknown)
        tasks = [t for t in tasks if t.action in spec.steps or f"{t.action}/{t.name}" in spec.steps]
    by_model = [t.id for t in tasks if t.step.made_by_model]
    if by_model and spec.without_model == "refuse":
        step = "Give them an output, leave them out by steps, or set without_model: skip"
        raise InputError("builder 'subtask'", "needs a model for steps without output", got=by_model, next_step=step)
    tasks = [t for t in tasks if not t.step.made_by_model]
    if named := [t.id for t in tasks if t.step.rows.clusters is not None]:
        step = "Choose rows by sources and where"
        raise InputError("builder 'subtask'", "cannot choose rows by clusters", got=named, next_step=step)
    if not tasks:
        raise InputError("builder 'subtask'", "must have a step to build", got=spec.steps)
    return [Rendered(t) for t in tasks]


def _draws(shard: Shard, task: str, seed: int) -> list[int]:
    return keys(shard.rows["id"], seed, f"subtask/{task}").tolist()


def _limits(task: Rendered, found: list[tuple[str, int]]) -> dict[str, int]:
    """Source → the last hash that its cap takes, and `*` → the last that the budget takes; absent: no limit.

    Raises:
        InputError: the step has fewer valid rows than its floor.
    """
    rules, limits = task.step.rows, {}
    if rules.cap is not None:
        for source, n in Counter(s for s, _ in found).items():
            if n > rules.cap:
                limits[source] = _nth(np.array([d for s, d in found if s == source], np.uint64), rules.cap)
        found = [(s, d) for s, d in found if d <= limits.get(s, d)]
    if rules.budget is not None and len(found) > rules.budget:
        limits["*"] = _nth(np.array([d for _, d in found], np.uint64), rules.budget)
    if len(found) < rules.floor:
        need = f"must give at least {rules.floor:,} rows, its floor"
        step = "Lower the floor, loosen where, or add a source"
        raise InputError(f"step {task.id!r}", need, got=len(found), next_step=step)
    return limits


def _nth(draws: np.ndarray, n: int) -> int:
    return int(np.partition(draws, n - 1)[n - 1])


BUILDER = Subtask()
