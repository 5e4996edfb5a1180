"""`mixtura probe`: the experiment on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixtura.cli.running import curate
from mixtura.cli.terminal import TerminalTeller, console, relative, table
from mixtura.pipeline.summary import ArmFacts, EvidenceFacts
from mixtura.recipe import Recipe


def run(recipe: Recipe, settings: Any) -> None:
    """Probe, print what was measured, and write the mixture with it."""
    from mixtura.probe.session import probe
    from mixtura.stages.plan import Plan

    console.print(f"[bold]probe[/]  {recipe.name}, {recipe.probe.seeds} seeds\n")
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
    """The arms, best first."""
    console.print(
        f"{evidence.model}; {evidence.tokens:,} tokens of warm-up; {evidence.heldout_rows} held-out target rows"
    )
    table(
        ["picks of", "bits per byte", "better than uniform", "fine-tuned", "reference", "coverage"],
        [
            (a.name, f"{a.warmed:.4f}", _gain(a), f"{a.tuned:.4f}", f"{a.kept:.4f}", _share(a.coverage))
            for a in sorted(evidence.arms, key=lambda a: a.warmed)
        ],
    )


def _gain(arm: ArmFacts) -> str:
    return f"{arm.gain[0]:+.4f} ({arm.gain[1]:+.4f} to {arm.gain[2]:+.4f})" if arm.gain else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
