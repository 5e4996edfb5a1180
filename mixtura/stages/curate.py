"""The whole curation, in order. Prefect runs the same stages as tasks (`flows/curate.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mixtura import recipe_file
from mixtura.pipeline.publication import check_output
from mixtura.stages import build, choose, gather, mark, publish
from mixtura.stages.plan import Plan


class Step(Protocol):
    """How one stage is run: called plainly here, as a task by Prefect."""

    def __call__(self, name: str, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Run `stage(*inputs)`."""
        ...


def plainly(name: str, stage: Callable[..., Any], *inputs: Any) -> Any:
    """Just run it."""
    return stage(*inputs)


def curate(plan: Plan, step: Step = plainly) -> publish.Published:
    """Files in, mixture out.

    Raises:
        InputError: the recipe or an input is wrong.
        CountError: the books do not balance.
    """
    check_output(plan.output)
    marker = recipe_file.marker_of(plan.recipe)
    for selection in [*plan.recipe.select, *([marker] if marker else [])]:
        choose.language_model(plan, selection)  # a model that is not there is told before hours of work
    for made in plan.recipe.build:
        build.chosen(plan, made)  # and so is a file that an option names
    plan.store.sweep()
    with plan.workers:
        units = step("ingest", gather.ingest, plan)
        units = step("clean", gather.clean, plan, units)
        pool = step("dedup", gather.dedup, plan, units)
        if plan.recipe.build:
            pool = step("build", build.build, plan, pool)
        embedded = step("embed", choose.embed, plan, pool)
        scored = step("score", choose.score, plan, pool, embedded)
        picked = step("pick", choose.pick, plan, scored)
        mixed = step("mix", choose.mix, plan, pool, picked)
        marked = step("mark", mark.mark, plan, pool, embedded, picked, mixed) if marker else None
        return step("write", publish.write, plan, pool, embedded, picked, mixed, marked)
