"""`mixtura probe`: the experiment on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixtura.cli.running import curate
from mixtura.cli.terminal import TerminalTeller, console, relative, table
from mixtura.pipeline.evidence import HEAD, method, verdict
from mixtura.pipeline.evidence import table as told
from mixtura.pipeline.summary import EvidenceFacts
from mixtura.pipeline.wording import count
from mixtura.recipe import Recipe

SHOWN = (0, 1, 2, 3)  # of the evidence's columns, what fits a terminal; the report has all


def run(recipe: Recipe, settings: Any) -> None:
    """Probe, print what was measured, and write the mixture with it."""
    from mixtura.probe.session import probe
    from mixtura.stages.plan import Plan

    spec = recipe.probe
    often = f", {count(spec.orders, 'order')} in each" if spec.orders > 1 else ""
    console.print(f"[bold]probe[/]  {recipe.name}, {count(spec.seeds, 'seed')}{often}\n")
    evidence = probe(Plan.of(recipe, settings), lambda line: console.print(f"[dim]{line}[/]"))
    console.print()
    show(evidence)
    console.print()
    teller = TerminalTeller()
    try:
        done = curate(recipe, settings, teller, plain=True)
    finally:
        teller.close()
    console.print(f"\ncard    {relative(done['card'])}\nreport  {relative(str(Path(done['folder']) / 'report.html'))}")


def show(evidence: EvidenceFacts) -> None:
    """What was measured, as the card says it."""
    console.print(f"[dim]{method(evidence)}[/]\n", soft_wrap=True)
    lines = [[line[i] for i in SHOWN] for line in (HEAD, *told(evidence))]
    table(lines[0], lines[1:])
    console.print(f"\n{verdict(evidence)}", soft_wrap=True)
