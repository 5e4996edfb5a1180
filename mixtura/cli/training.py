"""`mixtura train`: the bundled trainer on a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mixtura.cli.inspect_mixture import summary_of
from mixtura.cli.running import trained
from mixtura.cli.terminal import TrainingBar, console, relative, table
from mixtura.recipe import Recipe, Train


def run(mixture: Path, out: Path | None, model: str | None, steps: int | None, *, plain: bool) -> None:
    """Train with the mixture's own recipe, and print what it did to the held-out losses."""
    summary_of(mixture)
    recipe = Recipe.model_validate(yaml.safe_load((mixture / "recipe.yaml").read_text(encoding="utf-8")))
    changes: dict[str, Any] = {k: v for k, v in (("model", model), ("steps", steps)) if v is not None}
    settings = Train.model_validate(recipe.train.model_dump() | changes)
    target = out or mixture.with_name(f"{mixture.name}-model")
    bar = TrainingBar("train")
    try:
        result = trained(mixture, settings, target, recipe.seed, bar, plain=plain)
    finally:
        bar.close()
    heldout = result["heldout"]
    told = {n: h for n, h in heldout.items() if "accuracy" not in h["after"]}
    if told:
        table(
            ["held out", "loss before", "loss after", "bits per byte", "tokens"],
            [
                (n, h["before"]["loss"], h["after"]["loss"], h["after"]["bits_per_byte"], h["after"]["tokens"])
                for n, h in told.items()
            ],
        )
    if pairs := {n: h for n, h in heldout.items() if n not in told}:
        table(
            ["held-out pairs", "loss before", "loss after", "right before", "right after", "pairs"],
            [
                (n, *(h[w][k] for k in ("loss", "accuracy") for w in ("before", "after")), h["after"]["pairs"])
                for n, h in pairs.items()
            ],
        )
    console.print(f"model   {relative(str(target))}" + (" (finished before, unchanged)" if result["reused"] else ""))
