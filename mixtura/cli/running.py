"""Run a curation or a training from the command line: as a Prefect flow, or plainly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixtura.cli.terminal import TerminalTeller, TrainingBar, console
from mixtura.recipe import Recipe, Train


def curate(recipe: Recipe, settings: Any, teller: TerminalTeller, *, plain: bool) -> dict[str, Any]:
    """Run the curation, as a Prefect flow or plainly; both run the same stages."""
    if plain:
        from mixtura.stages.curate import curate as stages
        from mixtura.stages.plan import Plan

        done = stages(Plan.of(recipe, settings, teller))
        total = done.summary.total
        sizes = {"rows": total.rows, "tokens": total.tokens}
        return {"folder": str(done.folder), "card": str(done.card), "changed": done.changed, **sizes}
    with prefect():
        from mixtura.flows.curate import curate as flow
        from mixtura.flows.telling import telling
    with telling(teller):
        return flow(recipe, settings)


def trained(mixture: Path, settings: Train, out: Path, seed: int, bar: TrainingBar, *, plain: bool) -> dict[str, Any]:
    """Train, as a Prefect flow or plainly."""
    if plain:
        from mixtura.trainer import train

        return train(mixture, settings, out=out, seed=seed, progress=bar)
    with prefect():
        from mixtura.flows.telling import watching
        from mixtura.flows.train import train as flow
    with watching(bar):
        return flow(str(mixture), settings, str(out), seed)


@contextmanager
def prefect() -> Iterator[None]:
    """Around the import of a flow: afterwards there is a server to run it on, the user's or an embedded one."""
    from mixtura.flows import embedded

    with console.status("starting Prefect"):
        embedded.start()
        yield  # the imports inside take seconds too, meanwhile
        embedded.wait()
