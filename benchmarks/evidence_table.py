"""What the cells of the evidence say, as Markdown: the default rule against its rivals, and every arm of each cell."""

from __future__ import annotations

from typing import Any

from mixtura.probe.intervals import holm

RULE, RIVALS = "nudge", ("nearest", "dsir")
STAGES = ("warmed", "tuned")
SUMMARY_HEAD = (
    "cell",
    "better of the two",
    "nudge better by, warmed up; p (Holm)",
    "better of the two",
    "fine-tuned; p (Holm)",
    "better than uniform by, warmed up",
)
ARM_HEAD = ("arm", "warmed up", "better than uniform", "fine-tuned", "reference", "rows", "coverage", "of uniform's")


def render(results: list[dict[str, Any]]) -> str:
    """A table over all cells that have the default rule and both rivals, and one for each cell.

    Raises:
        ValueError: cells differ in seeds, orders or held-out rows: they are no one experiment.
    """
    if len({(tuple(c["seeds"]), c["orders"], c["heldout_rows"]) for c in results}) > 1:
        raise ValueError("cells must be of the same seeds, orders and held-out rows; move the others elsewhere")
    cells = sorted(results, key=lambda found: (found["target"], found["budget"]))
    compared = [c for c in cells if RULE in c["arms"] and set(RIVALS) <= set(c["arms"])]
    summary = [_summary(compared)] if compared else []
    return "\n\n".join([*summary, *(f"**{_name(c)} tokens**\n\n{_arms(c)}" for c in cells)])


def _summary(cells: list[dict[str, Any]]) -> str:
    """By how much the rule is better than the better of its rivals; p is of all comparisons here together (Holm)."""
    best = {(i, s): min(RIVALS, key=lambda n: _bits(c, n, s)) for i, c in enumerate(cells) for s in STAGES}
    ours = {(i, s): cells[i]["arms"][RULE][s]["better_than"][rival] for (i, s), rival in best.items()}
    p = holm({f"{i} {s}": gain["p"] for (i, s), gain in ours.items()})
    rows = []
    for i, c in enumerate(cells):
        said = [f"*{c['target']}*, {c['tokens']:,}"]
        for s in STAGES:
            said += [f"`{best[i, s]}`", f"{_interval(ours[i, s])}; {p[f'{i} {s}']:.2g}"]
        rows.append([*said, _interval(c["arms"][RULE]["warmed"]["better_than"]["uniform"])])
    return _table(SUMMARY_HEAD, rows)


def _arms(cell: dict[str, Any]) -> str:
    """Bits per byte of every arm, and facts of its picks: means over seeds."""
    rows = []
    for name, arm in cell["arms"].items():
        gain = arm["warmed"]["better_than"].get("uniform")
        said = [name, f"{_bits(cell, name, 'warmed'):.4f}", _interval(gain, 4) if gain else ""]
        said += [f"{_bits(cell, name, stage):.4f}" for stage in ("tuned", "kept")]
        rows.append(
            [*said, *(_mean(arm["facts"], k, n) for k, n in (("rows", 0), ("coverage", 2), ("also_uniform", 3)))]
        )
    return _table(ARM_HEAD, rows)


def _name(cell: dict[str, Any]) -> str:
    return f"{cell['target']}, {cell['tokens']:,}"


def _bits(cell: dict[str, Any], arm: str, stage: str) -> float:
    return cell["arms"][arm][stage]["bits_per_byte"]


def _interval(gain: dict[str, float], digits: int = 3) -> str:
    mean, low, high = (f"{gain[k]:+.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _mean(facts: list[dict[str, float]], key: str, digits: int) -> str:
    found = [f[key] for f in facts if key in f]
    return f"{sum(found) / len(found):.{digits}f}" if found else ""


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
