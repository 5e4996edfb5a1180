"""Marked answers: how their scores are spread, what share of each source carries a mark, and answers at the border."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from mixtura.pipeline import marks
from mixtura.pipeline.report import plots
from mixtura.pipeline.report.exhibits import Exhibits
from mixtura.pipeline.report.plots import TALL, WIDE, Axis, Mark
from mixtura.pipeline.summary import MarkFacts

OPEN, FILLED = Mark("rest", "Not marked", "pool"), Mark("marked", "Marked", "s0")
ALL, ONE = Mark("all", "All sources", "pool"), Mark("marked", "This source", "s0")


def told(x: MarkFacts, exhibits: Exhibits) -> dict[str, Any]:
    """What the page says and draws of the marks.

    Args:
        x: the summary's marks.
        exhibits: `marks`, whose scores are drawn; without any the page says so.
    """
    return {
        "verdict": marks.verdict(x),
        "control": marks.CONTROLS.get(x.control or "", "").replace("**", ""),
        "unmarkable": marks.unmarkable(x),
        "border": marks.border(x),
        "inference": marks.inference(x),
        "head": marks.HEAD,
        "table": marks.table(x),
        "plot": _spread(x, exhibits),
        "key": plots.legend([OPEN, FILLED]),
        "shares": _shares(x),
        "shares_key": plots.legend([ALL, ONE]),
        "scored": x.total.scored,
    }


def _spread(x: MarkFacts, exhibits: Exhibits) -> Markup | None:
    """Both groups' scores in bins, stacked, so that the outline is that of all; a line stands at the threshold."""
    if exhibits.marks is None or not exhibits.marks.height:
        return None
    values = exhibits.marks["score"].to_numpy().astype(np.float64)
    marked = exhibits.marks["marked"].to_numpy()
    low, high = float(values.min()), float(values.max())
    axis = Axis(low, high) if high > low else Axis(low - 0.5, low + 0.5)
    edges = np.linspace(axis.low, axis.high, plots.BINS + 1)
    whole, _ = np.histogram(values, edges)
    some, _ = np.histogram(values[marked], edges)
    tall = Axis(0.0, float(whole.max()) * 1.05)
    drawing = plots.area(whole / tall.high, OPEN.css) + plots.area(some / tall.high, FILLED.css)
    if x.threshold is not None and axis.low < x.threshold < axis.high:
        at = WIDE / 100 * axis.at(x.threshold)
        drawing += Markup('<path class="zero" d="M{} 0V{}"/>').format(f"{at:.1f}", TALL)
    return plots.frame(
        drawing, axis, plots.plain, label="Answers per bin of score", height=11, y=tall, y_form=plots.plain
    )


def _shares(x: MarkFacts) -> Markup:
    """Each source's share of marked answers beside that of all."""
    total = x.total
    everywhere = total.marked / total.scored if total.scored else 0.0
    order = sorted(x.by_source.items(), key=lambda s: (-s[1].answers, s[0]))
    items = [(name, {"all": everywhere, "marked": t.marked / t.scored}) for name, t in order if t.scored]
    top = max((v for _, line in items for v in line.values()), default=0.0) or 1.0
    return plots.dumbbells(
        items,
        [ALL, ONE],
        Axis(0.0, min(1.0, top * 1.02)),
        plots.percent,
        label="Share of scored answers that are marked",
    )
