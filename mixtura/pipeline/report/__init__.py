"""The report: one HTML file that answers which rows, why these, what was lost, and whether it moves toward the target.

It opens offline, asks nothing of any network (a content security policy forbids it) and runs one script, whose digest
the policy names: text of rows cannot become code. The same summary and exhibits give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from mixtura.pipeline import wording
from mixtura.pipeline.report import gains, marked, market, plots
from mixtura.pipeline.report import map as row_map
from mixtura.pipeline.report.exhibits import GROUPS, Exhibits, ShownRow, nearest_target, telling_words
from mixtura.pipeline.report.map import project
from mixtura.pipeline.report.plots import Axis, Mark
from mixtura.pipeline.summary import Summary
from mixtura.pipeline.wording import visible

__all__ = [
    "GROUPS",
    "Exhibits",
    "ShownRow",
    "assets_digest",
    "nearest_target",
    "project",
    "render_report",
    "telling_words",
    "visible",
]

ASSETS = ("page.html.jinja", "report.css", "report.js")
SHOWN_CHARS = 20_000  # of one row; a longer one is cut, and the page says so
ALL_CHARS = 600_000  # of all rows together: keeps the page near a megabyte


def render_report(summary: Summary, exhibits: Exhibits) -> str:
    """The report as one HTML page.

    Args:
        summary: of a finished mixture; its books must balance.
        exhibits: evidence; a section whose exhibit is missing says so.

    Returns:
        HTML, UTF-8 safe, without references to anything outside itself.

    Raises:
        CountError: the summary's books do not balance.
    """
    summary.check()
    marks = series(summary)
    css, script = _asset("report.css"), _asset("report.js")
    points = None
    if exhibits.points is not None and exhibits.points.height:
        points = row_map.draw(exhibits.points, marks)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            s=summary,
            total=summary.total,
            read=sum(x.read for x in summary.sources),
            pool_rows=sum(x.pool_rows for x in summary.sources),
            pool_tokens=sum(x.pool_tokens for x in summary.sources),
            losses=losses(summary),
            marks=marks,
            css=Markup(css),
            script=Markup(script),
            policy=policy(script),
            moves={unit: moves(summary, marks, unit) for unit in ("rows", "tokens")},
            likeness=likeness(exhibits, marks),
            evidence=gains.told(summary.evidence, marks) if summary.evidence else None,
            marked=marked.told(summary.marks, exhibits) if summary.marks else None,
            border={side: [_row(r, 4_000) for r in rows] for side, rows in exhibits.border.items()},
            words=words(exhibits, marks),
            scores={x.name: scores(exhibits, x.name, marks) for x in summary.selections},
            markets={n: market.draw(f, marks[n]) for n, f in exhibits.prices.items() if f.height and n in marks},
            points=points,
            rows={x.name: shown(exhibits, x.name) for x in summary.selections},
            groups=GROUPS,
        )
    )


def assets_digest() -> str:
    """Digest of template, style and script: part of the code version of whatever stores a report."""
    return hashlib.sha256("\0".join(_asset(name) for name in ASSETS).encode()).hexdigest()


def series(summary: Summary) -> dict[str, Mark]:
    """The marks of pool, target, picks and every selection, in drawing order."""
    marks = {"pool": Mark("pool", "Pool", "pool"), "target": Mark("target", "Target", "target")}
    marks["pick"] = Mark("pick", "Picked", "s0")
    return marks | {x.name: Mark(x.name, x.name, f"s{i % 6}") for i, x in enumerate(summary.selections)}


def losses(summary: Summary) -> list[dict[str, Any]]:
    """Per stage: shares of everything read that it kept and lost, and its reasons, for bars on one linear scale."""
    whole = max((x.read for x in summary.stages), default=0) or 1
    out = []
    for x in summary.stages:
        reasons = wording.by_count(x.dropped | ({"quarantined": x.quarantined} if x.quarantined else {}))
        out.append(
            {
                "stage": x,
                "kept": 100 * x.written / whole,
                "gone": 100 * (x.read - x.written) / whole,
                "reasons": reasons,
            }
        )
    return out


@dataclass(frozen=True)
class Move:
    """Composition before and after, in one unit: the plot, and the table behind it."""

    plot: Markup
    marks: list[Mark]
    table: list[tuple[str, list[tuple[int, str]]]]  # source → (count, share) per mark


def moves(summary: Summary, marks: dict[str, Mark], unit: str) -> Move:
    """Each source's share of the pool and of each selection, the largest pool share first."""
    used = [marks["pool"], *(marks[x.name] for x in summary.selections if x.picked_rows)]
    columns = {"pool": {x.name: x.pool_rows if unit == "rows" else x.pool_tokens for x in summary.sources}}
    for x in summary.selections:
        columns[x.name] = {source: t.rows if unit == "rows" else t.tokens for source, t in x.by_source.items()}
    totals = {name: sum(column.values()) for name, column in columns.items()}
    names = sorted((x.name for x in summary.sources), key=lambda n: (-columns["pool"].get(n, 0), n))
    shares = {n: {m.name: columns[m.name].get(n, 0) / (totals[m.name] or 1) for m in used} for n in names}
    top = max((v for line in shares.values() for v in line.values()), default=0.0) or 1.0
    plot = plots.dumbbells(
        list(shares.items()), used, Axis(0.0, min(1.0, top * 1.02)), plots.percent, label=f"Shares by {unit}"
    )
    table = [
        (n, [(columns[m.name].get(n, 0), wording.share(columns[m.name].get(n, 0), totals[m.name])) for m in used])
        for n in names
    ]
    return Move(plot, used, table)


def likeness(exhibits: Exhibits, marks: dict[str, Mark]) -> dict[str, Any] | None:
    """Ridges of the cosine to the nearest target row, and how much of the gap to the target each selection closes."""
    if exhibits.likeness is None or not exhibits.likeness.height:
        return None
    frame = exhibits.likeness
    groups = {
        m.name: frame.filter(pl.col("group") == m.name)["similarity"].to_numpy()
        for m in _ordered(marks)
        if (frame["group"] == m.name).any()
    }
    everything = np.concatenate(list(groups.values()))
    low, high = float(np.floor(everything.min() * 10) / 10), float(np.ceil(everything.max() * 10) / 10)
    axis = Axis(low, high if high > low else low + 0.1)
    top = max(float(plots.binned(v, axis).max()) for v in groups.values())
    middle = {name: float(np.median(v)) for name, v in groups.items()}
    gap = middle["target"] - middle["pool"] if {"target", "pool"} <= set(middle) else 0.0
    closed = (
        {n: (v - middle["pool"]) / gap for n, v in middle.items() if n not in ("pool", "target")} if gap > 0 else {}
    )
    return {
        "plot": Markup("").join(plots.ridge(v, marks[n], axis, top) for n, v in groups.items()),
        "ticks": plots.ticks(axis, plots.plain),
        "closed": {n: f"{100 * v:.0f} %".replace("-", "−") for n, v in closed.items()},
        "sizes": {marks[n].label: len(v) for n, v in groups.items()},
        "gap": gap > 0,
    }


def words(exhibits: Exhibits, marks: dict[str, Mark]) -> dict[str, Any] | None:
    """Dumbbells of the target's telling words on a logarithmic scale."""
    if exhibits.words is None or not exhibits.words.height:
        return None
    used = [m for m in _ordered(marks) if m.name in exhibits.words.columns]
    values = exhibits.words.select([m.name for m in used]).to_numpy()
    low = 10.0 ** float(np.floor(np.log10(values[values > 0].min())))
    axis = Axis(low, max(float(values.max()), 10 * low), log=True)
    items = [(r["word"], {m.name: r[m.name] for m in used}) for r in exhibits.words.iter_rows(named=True)]
    return {"plot": plots.dumbbells(items, used, axis, plots.plain, label="Telling words"), "marks": used}


def scores(exhibits: Exhibits, name: str, marks: dict[str, Mark]) -> dict[str, Any] | None:
    """The score plot of a selection, or the one score that every row has."""
    frame = exhibits.scores.get(name)
    if frame is None or not frame.height:
        return None
    values = frame["score"].to_numpy()
    if values.min() == values.max():
        return {"constant": wording.number(float(values[0])), "rows": frame.height}
    key = plots.legend([marks["pool"], Mark(name, f"{name}: picked", marks[name].css)])
    return {
        "plot": plots.score_plot(frame, marks[name]),
        "key": key,
        "facts": plots.score_facts(frame),
        "rows": frame.height,
    }


def shown(exhibits: Exhibits, name: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of a selection with their texts cut to what the page can carry."""
    n = sum(len(rows) for groups in exhibits.rows.values() for rows in groups.values())
    limit = min(SHOWN_CHARS, max(2_000, ALL_CHARS // max(n, 1)))
    return {group: [_row(row, limit) for row in exhibits.rows.get(name, {}).get(group, [])] for group in GROUPS}


def _row(row: ShownRow, limit: int) -> dict[str, Any]:
    turns = [(m.get("role") or "?", (m.get("content") or "") + (m.get("tool_calls") or "")) for m in row.messages]
    turns = turns or [("", row.text)]
    whole, left, cut = sum(len(t) for _, t in turns), limit, []
    for role, text in turns:
        cut.append((role, text[:left]))
        left -= len(text[:left])
    why = [(k, _value(v)) for k, v in row.why.items() if v is not None]
    return {
        "row": row,
        "turns": [t for t in cut if t[1] or len(cut) == 1],
        "whole": whole,
        "shown": min(whole, limit),
        "why": why,
    }


def settings(facts: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Label, value in words, and whether it is too long for a line; what is not set is left out."""
    words = {k: f"{v:.4g}" if isinstance(v, float) else _value(v) for k, v in facts.items() if v not in (None, {}, [])}
    said = [(k.replace("_", " "), v) for k, v in words.items()]
    return [(k, v, len(v) > 60) for k, v in said]


def _value(x: Any) -> str:
    if isinstance(x, bool) or x is None:
        return {True: "yes", False: "no", None: "none"}[x]
    if isinstance(x, int):
        return f"{x:,}"
    if isinstance(x, float):
        return wording.number(x)
    if isinstance(x, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in sorted(x.items()))
    return "\n".join(_value(v) for v in x) if isinstance(x, (list, tuple)) else str(x)


def policy(script: str) -> str:
    """Content security policy: nothing from anywhere, one script by digest."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _ordered(marks: dict[str, Mark]) -> list[Mark]:
    return [marks["pool"], *(m for n, m in marks.items() if n not in ("pool", "target", "pick")), marks["target"]]


@cache
def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8").strip("\n")


@cache
def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda v: visible(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    env.filters |= {
        "n": lambda x: f"{x:,}",
        "count": wording.count,
        "share": wording.share,
        "size": wording.bytes_of,
        "number": wording.number,
        "by_count": wording.by_count,
        "legend": plots.legend,
        "settings": settings,
    }
    return env
