"""Training as a Prefect flow: the bundled trainer on a mixture."""

# no `from __future__ import annotations`: a served flow is pickled, and its annotations must travel as types

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from mixtura.flows.telling import watcher
from mixtura.recipe import Train


@flow(name="train", persist_result=False)
def train(mixture: str, settings: Train | None = None, out: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Fine-tune a causal LM on a mixture, and measure the held-out losses before and after.

    Args:
        mixture: the mixture's folder.
        settings: the trainer's settings.
        out: folder of the model; by default `model` beside the mixture's name.
        seed: of order and initial weights.
    """
    from mixtura.trainer import train as train_on  # torch: seconds that registering a deployment need not wait for

    folder = Path(mixture)
    target = Path(out) if out else folder.with_name(f"{folder.name}-model")
    run = task(name="train", cache_policy=NO_CACHE, persist_result=False)(train_on)
    result = run(folder, settings or Train(), out=target, seed=seed, progress=watcher())
    losses = [
        {"held out": name, "before": h["before"]["loss"], "after": h["after"]["loss"]}
        for name, h in result["heldout"].items()
    ]
    create_table_artifact(losses, key="train", description=f"{result['steps']} steps on {folder.name}")
    return result
