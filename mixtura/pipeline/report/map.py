"""The map: pool, target and picks in two dimensions, with each point's text under the pointer."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from mixtura.pipeline.report.plots import Mark
from mixtura.pipeline.wording import beginning

MOST = 1_500  # points; t-SNE then takes about 4 s on one core, and the page stays light
SNIPPET = 160  # characters of a row's text under the pointer
SIDE = 1000  # user units of the square


def project(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Place vectors in the plane so that near ones stay near: PCA to 50 dimensions, then t-SNE.

    One thread, so the same machine gives the same bits each time; another machine's arithmetic may differ. Distances
    between far clusters and the sizes of clusters mean nothing on such a map.

    Args:
        vectors: f32[n, d], n ≤ 1,500.
        seed: of the initialisation.

    Returns:
        f32[n, 2], scaled to fit -1..1; zeros where fewer than four rows leave nothing to place.

    Source: van der Maaten 2014, Barnes-Hut t-SNE (scikit-learn), perplexity 30, started from the first two components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(vectors)
    if n > MOST:
        raise ValueError(f"a map takes at most {MOST} points; got {n}")
    if n < 4:
        return np.zeros((n, 2), np.float32)
    spread = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    if np.abs(spread).max() < 1e-6:  # all rows alike
        return np.zeros((n, 2), np.float32)
    with threadpool_limits(1):
        small = PCA(min(50, n - 1, vectors.shape[1]), svd_solver="full").fit_transform(spread)
        start = small[:, :2] if small.shape[1] > 1 else np.hstack([small, np.zeros((n, 1))])
        start = (start / start[:, 0].std() * 1e-4).astype(np.float32)
        placed = TSNE(
            init=start,
            perplexity=min(30.0, (n - 1) / 3),
            max_iter=500,
            random_state=seed,
            learning_rate="auto",
            n_jobs=1,
        ).fit_transform(small.astype(np.float32))
    placed -= (placed.max(axis=0) + placed.min(axis=0)) / 2
    return (placed / np.abs(placed).max()).astype(np.float32)


def draw(points: pl.DataFrame, marks: dict[str, Mark]) -> tuple[Markup, list[list[Any]]]:
    """The map's SVG and the data behind it, in one order: pool first, then picks, the target on top.

    Args:
        points: see `Exhibits.points`; `x` and `y` in -1..1.
        marks: series → mark: `pool`, `target`, and each selection (or `pick`).

    Returns:
        The SVG, and per point `[x, y, css, source, id, text]` in its user units.
    """
    shapes, data = [], []
    for css, p in sorted(((_css(p, marks), p) for p in points.iter_rows(named=True)), key=lambda x: _layer(*x)):
        x, y = (SIDE * (0.5 + 0.48 * float(p[axis])) for axis in ("x", "y"))
        shapes.append(_shape(css, round(x), round(y)))
        data.append([round(x), round(y), css, p["source"], p["id"], beginning(p["text"] or "", SNIPPET)])
    return (
        Markup('<svg id="map" viewBox="0 0 {} {}" role="img" aria-label="Map of rows">{}</svg>').format(
            SIDE, SIDE, Markup("".join(shapes))
        ),
        data,
    )


def _shape(css: str, x: int, y: int) -> str:
    """A point in the shape that the legend gives its series: disc, square, or a diamond for the target."""
    if css == "target":
        return f'<path class="target" d="M{x} {y - 7}l7 7-7 7-7-7z"/>'
    if css in ("s1", "s3", "s5"):
        return f'<rect class="{css}" x="{x - 4}" y="{y - 4}" width="8" height="8"/>'
    return f'<circle class="{css}" cx="{x}" cy="{y}" r="4.5"/>'


def _css(point: dict[str, Any], marks: dict[str, Mark]) -> str:
    if point["kind"] == "pick":
        by = [marks[s].css for s in point.get("picked_by") or [] if s in marks]
        return by[0] if len(by) == 1 else "many" if by else marks["pick"].css
    return marks[point["kind"]].css


def _layer(css: str, point: dict[str, Any]) -> tuple[int, str, str]:
    return ("pool", "pick", "target").index(point["kind"]), css, point["id"]
