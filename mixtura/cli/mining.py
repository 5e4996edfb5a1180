"""`mixtura mine`: the loop on the terminal."""

from __future__ import annotations

from typing import Any

from mixtura.cli.running import prefect
from mixtura.cli.terminal import TerminalTeller, console, relative, table
from mixtura.recipe import Recipe

HEAD = ("policy", "held-out rows", "held-out tools", "pairs", "kept")


def run(recipe: Recipe, settings: Any, *, plain: bool) -> None:
    """Mine, and print every policy's pass rates."""
    teller = TerminalTeller()
    try:
        found = _mined(recipe, settings, teller, plain=plain)
    finally:
        teller.close()
    console.print()
    table(HEAD, [_line(s) for s in found["stages"]])
    console.print(f"\n{found['stopped']}; best on held-out rows: {found['best']}", soft_wrap=True)
    where = relative(found["folder"])
    console.print(
        f"model   {f'{where}/' if found['model'] != 'start' else ''}{found['model']}\nreport  {where}/report.html"
    )


def _mined(recipe: Recipe, settings: Any, teller: TerminalTeller, *, plain: bool) -> dict[str, Any]:
    def tell(line: str) -> None:
        console.print(f"[bold]·[/] {line}", soft_wrap=True)

    if plain:
        from mixtura.loop.session import mine
        from mixtura.stages.plan import Plan

        return mine(Plan.of(recipe, settings, teller), tell=tell)
    with prefect():
        from mixtura.flows.mine import mine as flow
        from mixtura.flows.telling import telling, told
    with telling(teller), told(tell):
        return flow(recipe, settings)


def _line(stage: dict[str, Any]) -> tuple[str, ...]:
    rates = (stage["measured"].get(name) for name in ("rows", "tools"))
    said = [f"{m['rate']:.1%} ({m['low']:.0%} to {m['high']:.0%})" if m else "–" for m in rates]
    return (stage["name"], *said, f"{stage['pairs']:,}", "–" if stage["kept"] is None else f"{stage['kept']:.1%}")
