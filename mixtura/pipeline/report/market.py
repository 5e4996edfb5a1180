"""Price against distance: of each row, how far the target is that takes most of it, and what that target pays."""

from __future__ import annotations

from typing import Any

import polars as pl
from markupsafe import Markup

from mixtura.pipeline.report import plots
from mixtura.pipeline.report.plots import TALL, WIDE, Axis, Mark

MARGIN = 0.03  # of an axis, so that no dot is cut in half


def draw(prices: pl.DataFrame, mark: Mark) -> dict[str, Any]:
    """The plot of one selection, its key, and how many rows of each kind it draws.

    Args:
        prices: see `Exhibits.prices`; at least one row.
        mark: of the selection.
    """
    refused, picked = prices.filter(~pl.col("picked")).sort("id"), prices.filter("picked").sort("id")
    wide, tall = _axis(prices["distance"], 0.0, 4.0), _axis(prices["price"].append(pl.Series([0.0])))
    level = TALL * (1 - tall.at(0) / 100)
    drawing = Markup('<path class="zero" d="M0 {}H{}"/>').format(f"{level:.1f}", WIDE)
    drawing += _dots(refused, wide, tall, "pool") + _dots(picked, wide, tall, mark.css)
    plot = plots.frame(
        drawing, wide, plots.plain, label="Price against distance", height=18, y=tall, y_form=plots.plain
    )
    key = plots.legend([Mark("pool", "Pool, not picked", "pool"), Mark(mark.name, f"{mark.name}: picked", mark.css)])
    return {"plot": plot, "key": key, "picked": picked.height, "refused": refused.height}


def _axis(values: pl.Series, least: float = float("-inf"), most: float = float("inf")) -> Axis:
    """An axis around the values, not beyond what they can be."""
    low, high = float(values.min()), float(values.max())  # pyright: ignore[reportArgumentType]
    edge = MARGIN * (high - low) or 0.1
    return Axis(max(low - edge, least), min(high + edge, most))


def _dots(rows: pl.DataFrame, wide: Axis, tall: Axis, css: str) -> Markup:
    """One dot per row: a line of no length with round or square ends, for the drawing's stretching leaves these be."""
    places = zip(rows["distance"], rows["price"], strict=True)
    dots = "".join(
        f'<path d="M{WIDE / 100 * wide.at(x):.0f} {TALL * (1 - tall.at(y) / 100):.1f}h0"/>' for x, y in places
    )
    return Markup('<g class="dots {}">{}</g>').format(css, Markup(dots))
