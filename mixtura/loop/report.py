"""The loop's report: one offline HTML page with the pass rates of every policy, and what each round was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from mixtura.pipeline.report import plots
from mixtura.pipeline.report import policy as content_policy
from mixtura.pipeline.report.plots import TALL, WIDE, Axis, Mark, percent
from mixtura.pipeline.wording import count, share

MARKS = {"rows": Mark("rows", "held-out rows", "s0"), "tools": Mark("tools", "rows of held-out tools", "target")}
ERRORS = 8  # kinds shown of each round


def render(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: of the loop, see `session.Session`.

    Returns:
        HTML without references to anything outside itself; the same facts give the same bytes.
    """
    stages = facts["stages"]
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            f=facts,
            css=Markup(files("mixtura.pipeline.report").joinpath("report.css").read_text(encoding="utf-8")),
            policy=content_policy(""),
            curve=curve(stages),
            legend=plots.legend([m for n, m in MARKS.items() if n in stages[0]["measured"]]),
            interval=interval,
            errors=[(s["name"], list(s["measured"]["rows"]["errors"].items())[:ERRORS]) for s in stages],
        )
    )


def curve(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """Pass rate by policy, a line for each held-out set over its 95 % interval."""
    top = max(m["high"] for s in stages for m in s["measured"].values())
    tall = Axis(0.0, max(0.05, min(1.0, 1.05 * top)))
    drawing = Markup("")
    for name, mark in MARKS.items():
        points = [s["measured"][name] for s in stages if name in s["measured"]]
        drawing += _band(points, tall, mark.css)
    body = plots.frame(
        drawing, Axis(0, max(1, len(stages) - 1)), plots.plain, label="Pass rate by policy", height=14, y=tall,
        y_form=percent,
    )  # fmt: skip
    return body


def _band(points: Sequence[Mapping[str, Any]], tall: Axis, css: str) -> Markup:
    if not points:
        return Markup("")
    x = [WIDE * i / max(1, len(points) - 1) for i in range(len(points))]

    def y(value: float) -> float:
        return TALL * (1 - tall.at(value) / 100)

    high = [f"{a:.1f} {y(p['high']):.1f}" for a, p in zip(x, points, strict=True)]
    low = [f"{a:.1f} {y(p['low']):.1f}" for a, p in zip(x, points, strict=True)]
    middle = [f"{a:.1f} {y(p['rate']):.1f}" for a, p in zip(x, points, strict=True)]
    return Markup('<path class="band {}" d="M{}L{}Z"/><path class="curve {}" d="M{}"/>').format(
        css, "L".join(high), "L".join(reversed(low)), css, "L".join(middle)
    )


def interval(measured: Mapping[str, Any]) -> str:
    """A rate in words: `41 % (33 to 50 %), 60 of 146`."""
    return (
        f"{100 * measured['rate']:.1f} % ({100 * measured['low']:.0f} to {100 * measured['high']:.0f} %), "
        f"{measured['passed']:,} of {measured['rows']:,}"
    )


@cache
def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("mixtura.loop", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters |= {"n": lambda x: f"{x:,}", "count": count, "share": share}
    return env
