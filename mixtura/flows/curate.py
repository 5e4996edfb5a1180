"""The curation as a Prefect flow: each stage a task that passes paths and manifests, never tables.

prefect deploy --all          registers the deployments of prefect.yaml
mixtura run RECIPE            runs the flow here, with the embedded server or the one that PREFECT_API_URL names
"""

# no `from __future__ import annotations`: a served flow is pickled, and its annotations must travel as types

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.annotations import quote

from mixtura import recipe_file
from mixtura.errors import InputError, MixturaError
from mixtura.flows.telling import teller
from mixtura.pipeline.summary import Summary
from mixtura.recipe import Recipe
from mixtura.stages import curate as stages
from mixtura.stages.plan import Plan, Settings
from mixtura.stages.publish import Published

# What reads files or models may fail for a moment (a share, a hub); arithmetic fails for good.
RETRIES = {"ingest": 2, "embed": 1, "write": 1}


@flow(name="curate", description=__doc__, persist_result=False)
def curate(recipe: Recipe, settings: Settings | None = None) -> dict[str, Any]:
    """Make the mixture that a recipe describes.

    Args:
        recipe: everything about the mixture.
        settings: how to run; never changes the mixture's bytes.

    Returns:
        `folder`, `card`, `rows`, `tokens`, `changed`.
    """
    recipe_file.check_words(recipe)
    published: Published = stages.curate(Plan.of(recipe, settings or Settings(), teller()), as_task)
    _show(published)
    total = published.summary.total
    return {
        "folder": str(published.folder),
        "card": str(published.card),
        "rows": total.rows,
        "tokens": total.tokens,
        "changed": published.changed,
    }


@flow(name="curate-file", persist_result=False)
def curate_file(path: str, settings: Settings | None = None) -> dict[str, Any]:
    """Make the mixture of a recipe file; for schedules, so that an edited recipe needs no new deployment.

    Args:
        path: the recipe's file.
        settings: how to run; by default beside the recipe.
    """
    return curate(recipe_file.load(path), settings or Settings(base=str(recipe_file.base_of(path))))


def serve(path: Path, name: str, cron: str, limit: int) -> None:
    """Run a recipe file whenever `cron` says, `limit` runs at once at most, until stopped.

    Raises:
        InputError: there is no Prefect server to hold the schedule.
    """
    if not get_current_settings().api.url:
        step = "Start one with `prefect server start`, and set PREFECT_API_URL to what it prints"
        raise InputError("mixtura serve", "needs a Prefect server, which holds the schedule", next_step=step)
    curate_file.serve(
        name=name,
        cron=cron,
        limit=limit,
        parameters={"path": str(path)},
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file would be loaded alone, without its package
    )


def as_task(name: str, stage: Callable[..., Any], *inputs: Any) -> Any:
    """Run a stage as a task of this flow."""
    # the store caches by content; Prefect's cache would need to hash every manifest, and `quote` spares it the walk
    run = task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES.get(name, 0),
        retry_delay_seconds=5,
        retry_condition_fn=_passing,
    )
    return run(stage)(*(quote(i) for i in inputs))


def _passing(task: Any, run: Any, state: Any) -> bool:
    """Whether a failure may pass by itself: a mistake of the user or of ours does not."""
    try:
        state.result()
    except MixturaError:
        return False
    except (OSError, TimeoutError):
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not a passing one
        return False
    return False


def _show(published: Published) -> None:
    """The card and the stages as artifacts of the flow run."""
    summary = published.summary
    key = "".join(c if c.isalnum() else "-" for c in summary.name.lower()).strip("-")
    create_markdown_artifact((published.folder / "README.md").read_text(encoding="utf-8"), key=f"{key}-card")
    create_table_artifact(stage_table(summary), key=f"{key}-stages", description=f"{summary.name}: kept and lost")


def stage_table(summary: Summary) -> list[dict[str, Any]]:
    """What each stage read, wrote and lost, as rows of a table."""
    return [
        {
            "stage": s.stage,
            "read": s.read,
            "written": s.written,
            "quarantined": s.quarantined,
            "dropped": ", ".join(f"{n} {r}" for r, n in s.dropped.items()),
        }
        for s in summary.stages
    ]
