"""Mining as a Prefect flow: every mixture's stages and every training a task of its own."""

# no `from __future__ import annotations`: a served flow is pickled, and its annotations must travel as types

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from mixtura import recipe_file
from mixtura.flows.curate import as_task
from mixtura.flows.telling import saying, teller, watcher
from mixtura.recipe import Recipe
from mixtura.stages.plan import Plan, Settings


@flow(name="mine", description=__doc__, persist_result=False)
def mine(recipe: Recipe, settings: Settings | None = None) -> dict[str, Any]:
    """Make a recipe's mixture, find what a model fails at among its rows, learn from it, and go round.

    Args:
        recipe: everything about the mixture; its `mine` and `train` say how the loop runs.
        settings: how to run; never changes what comes out.

    Returns:
        What `mined.json` says, and its folder.
    """
    from mixtura.loop.session import mine as rounds  # torch: seconds that registering a deployment need not wait for

    recipe_file.check_words(recipe)
    log, terminal = get_run_logger(), saying()

    def tell(line: str) -> None:
        log.info(line)
        terminal(line)

    found = rounds(Plan.of(recipe, settings or Settings(), teller()), as_task, tell, watcher())
    table = [
        {"policy": s["name"], "pairs": s["pairs"], **{k: round(m["rate"], 4) for k, m in s["measured"].items()}}
        for s in found["stages"]
    ]
    create_table_artifact(table, key="mine", description=f"{recipe.name}: {found['stopped']}")
    return found
