"""Plots as HTML and inline SVG, written by hand.

The axis labels are HTML, so they keep their size on a narrow screen while the drawing stretches; colours are CSS
variables, so one page serves light and dark; the bytes depend on the numbers alone, which a chart library's generated
ids do not promise. Every series has a colour and a shape of its own, for eyes that do not tell the colours apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from markupsafe import Markup

from mixtura.pipeline.wording import number, share

BINS = 60
WIDE, TALL = 1000, 200  # user units of a drawing; it is stretched to its place


@dataclass(frozen=True)
class Mark:
    """One series: its name, its words in the legend, and its CSS class (`pool`, `target`, `s0`, `s1`, ...)."""

    name: str
    label: str
    css: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`; logarithmic ones put 0 at their left end."""

    low: float
    high: float
    log: bool = False

    def at(self, x: float) -> float:
        """Position in 0..100."""
        if self.log:
            if x < self.low:
                return 0.0
            return 6 + 94 * math.log(min(x, self.high) / self.low) / math.log(self.high / self.low)
        return 100 * (min(max(x, self.low), self.high) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values, six at most."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [0.0, *(10.0**p for p in powers)]
        step = nice_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def nice_step(raw: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def legend(marks: Sequence[Mark]) -> Markup:
    """The key of a plot."""
    items = Markup("").join(Markup('<li><i class="dot {}"></i>{}</li>').format(m.css, m.label) for m in marks)
    return Markup('<ul class="legend">{}</ul>').format(items)


def dumbbells(
    items: Sequence[tuple[str, Mapping[str, float]]],
    marks: Sequence[Mark],
    axis: Axis,
    form: Callable[[float], str],
    *,
    label: str,
) -> Markup:
    """One line per item with a mark per series, so that a move reads as a distance.

    Args:
        items: label of the line, then series name → value.
        marks: series, in drawing order; the first is where the move starts.
        axis: common to all lines.
        form: a value in words, for ticks and tooltips.
        label: what a screen reader says.
    """
    lines = []
    for name, values in items:
        spots = [(axis.at(values[m.name]), m) for m in marks if m.name in values]
        low, high = min(p for p, _ in spots), max(p for p, _ in spots)
        said = ", ".join(f"{m.label} {form(values[m.name])}" for _, m in spots)
        dots = Markup("").join(
            Markup('<i class="dot {}" style="left:{}%"></i>').format(m.css, f"{p:.2f}") for p, m in spots
        )
        lines.append(
            Markup(
                '<div class="line" title="{}: {}"><span class="name"><bdi>{}</bdi></span><span class="track">'
                '<i class="stem" style="left:{}%;width:{}%"></i>{}</span></div>'
            ).format(name, said, name, f"{low:.2f}", f"{high - low:.2f}", dots)
        )
    foot = Markup('<div class="line axis"><span class="name"></span><span class="track">{}</span></div>')
    return Markup('<div class="dumbbells" role="img" aria-label="{}">{}{}</div>').format(
        label, Markup("").join(lines), foot.format(ticks(axis, form))
    )


def score_plot(scores: pl.DataFrame, mark: Mark) -> Markup:
    """The pool's scores and the picked ones, each as a share of its own group, over the rate of picking per bin.

    Args:
        scores: `score` f64 finite, `picked` bool; at least two different scores.
        mark: of the selection.
    """
    values = scores["score"].to_numpy().astype(np.float64)
    picked = scores["picked"].to_numpy().astype(bool)
    low, high = _range(values, picked)
    edges = np.linspace(low, high, BINS + 1)
    inside = np.clip(values, low, high)
    pool, _ = np.histogram(inside, edges)
    picks, _ = np.histogram(inside[picked], edges)
    pool_share, pick_share = pool / max(pool.sum(), 1), picks / max(picks.sum(), 1)
    top = max(pool_share.max(), pick_share.max())
    tall = Axis(0.0, float(top) * 1.05)
    drawing = area(pool_share / tall.high, "pool")
    if picked.any():
        drawing += area(pick_share / tall.high, mark.css)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(pool > 0, picks / np.maximum(pool, 1), 0.0)
    wide = Axis(low, high)
    body = frame(drawing, wide, plain, label="Share of rows per bin of score", height=11, y=tall, y_form=percent)
    strip = frame(
        bars(rate, mark.css),
        wide,
        plain,
        label="Share of each bin that was picked",
        height=3.2,
        y=Axis(0, 1),
        y_form=percent,
        y_ticks=(0.0, 1.0),
    )
    tails = int((values < low).sum()), int((values > high).sum())
    note = Markup("")
    if any(tails):
        note = Markup('<p class="note">The outermost bins also hold {} below and {} above the axis.</p>').format(
            f"{tails[0]:,} rows", f"{tails[1]:,} rows"
        )
    head = Markup('<p class="sub">Share of the group’s rows per bin; each group adds up to 100 %</p>')
    middle = Markup('<p class="sub">Share of the bin’s rows that were picked</p>')
    return head + body + middle + strip + note


def ridge(values: np.ndarray, mark: Mark, axis: Axis, top: float) -> Markup:
    """One group's histogram on a common axis with its median.

    Args:
        values: f32[n], n ≥ 1.
        mark: of the group.
        axis: common to all ridges.
        top: largest share of a bin over all ridges: a common height.
    """
    middle = float(np.median(values))
    at = axis.at(middle)
    drawing = area(binned(values, axis) / top, mark.css)
    return Markup(
        '<div class="ridge"><span class="name"><i class="dot {}"></i>{}</span><span class="plot">{}'
        '<i class="median {}" style="left:{}%"></i></span><span class="value">{}</span></div>'
    ).format(mark.css, mark.label, svg(drawing), mark.css, f"{at:.2f}", f"{middle:.3f}".replace("-", "−"))


def binned(values: np.ndarray, axis: Axis) -> np.ndarray:
    """Share of the values in each of `BINS` bins of an axis, f64[BINS]; values beyond it count in the last."""
    counts, _ = np.histogram(np.clip(values, axis.low, axis.high), np.linspace(axis.low, axis.high, BINS + 1))
    return counts / max(len(values), 1)


def area(heights: np.ndarray, css: str) -> Markup:
    """A stepped area: heights f64[bins] in 0..1."""
    step = WIDE / len(heights)
    path = ["M0", f"{TALL}"]
    for i, h in enumerate(heights):
        path.append(f"L{i * step:.1f} {TALL * (1 - h):.1f}H{(i + 1) * step:.1f}")
    return Markup('<path class="area {}" d="{}V{}Z"/>').format(css, " ".join(path), TALL)


def bars(heights: np.ndarray, css: str) -> Markup:
    """Bars with a gap between, heights f64[bins] in 0..1; a height of 0 draws nothing."""
    step = WIDE / len(heights)
    path = "".join(
        f"M{i * step + 1:.1f} {TALL}V{TALL * (1 - h):.1f}H{(i + 1) * step - 1:.1f}V{TALL}Z"
        for i, h in enumerate(heights)
        if h > 0
    )
    return Markup('<path class="bars {}" d="{}"/>').format(css, path)


def frame(
    drawing: Markup,
    x: Axis,
    x_form: Callable[[float], str],
    *,
    label: str,
    height: float,
    y: Axis,
    y_form: Callable[[float], str],
    y_ticks: Sequence[float] | None = None,
) -> Markup:
    """A drawing between axes. `height` is in rem; labels are HTML."""
    marks = y.ticks() if y_ticks is None else y_ticks
    side = Markup("").join(
        Markup('<i class="rule" style="bottom:{}%"><b>{}</b></i>').format(f"{y.at(t):.2f}", y_form(t)) for t in marks
    )
    return Markup(
        '<div class="frame" role="img" aria-label="{}"><div class="plot" style="height:{}rem">{}{}</div>'
        '<div class="ticks">{}</div></div>'
    ).format(label, f"{height:g}", side, svg(drawing), ticks(x, x_form))


def svg(drawing: Markup) -> Markup:
    """An SVG that fills its place."""
    return Markup('<svg viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        WIDE, TALL, drawing
    )


def score_facts(scores: pl.DataFrame) -> dict[str, str]:
    """What the score plot does not say by itself, as label and value."""
    picked = scores.filter(pl.col("picked"))
    facts = {"median of the pool": _median(scores)}
    if picked.height:
        lowest = float(picked["score"].to_numpy().min())
        above = scores.filter((pl.col("score") > lowest) & ~pl.col("picked")).height
        facts["median of the picks"] = _median(picked)
        facts["lowest score picked"] = number(lowest)
        facts["scored higher, yet not picked"] = f"{above:,} ({share(above, scores.height)})"
    return facts


def _median(scores: pl.DataFrame) -> str:
    return number(float(np.median(scores["score"].to_numpy()))) if scores.height else "–"


def _range(values: np.ndarray, picked: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: all values, unless outliers would squeeze the rest; most picks are always inside."""
    low, high = np.quantile(values, [0.001, 0.999])
    if picked.any():
        inner = np.quantile(values[picked], [0.05, 0.95])
        low, high = min(low, inner[0]), max(high, inner[1])
    full = values.min(), values.max()
    if full[1] - full[0] <= 1.5 * (high - low) or high <= low:
        low, high = full
    return float(low), float(high)


def percent(x: float) -> str:
    """A share at a tick: `0.5 %`, `20 %`."""
    return f"{100 * x:.3g} %"


def plain(x: float) -> str:
    """A number at a tick, without trailing zeros: `−1`, `0.5`, `2,000`."""
    return (f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}").replace("-", "−")


def ticks(axis: Axis, form: Callable[[float], str]) -> Markup:
    """Labels along an axis."""
    return Markup("").join(_tick(axis.at(t), form(t)) for t in axis.ticks())


def _tick(at: float, text: str) -> Markup:
    edge = " first" if at < 4 else " last" if at > 96 else ""
    return Markup('<i class="tick{}" style="left:{}%">{}</i>').format(edge, f"{at:.2f}", text)
