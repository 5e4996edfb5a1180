"""What the report shows beside the summary: scores, points, words, likeness and whole rows.

The caller reads these off its artefacts. Everything is optional: a section whose exhibit is missing says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline.index import Index
from mixtura.rows import Message

GROUPS = ("best", "borderline", "worst")
COPIES = 32  # neighbours looked at; a row with more copies than that counts as alone
COPY = 1 - 1e-5  # cosine of two copies, stored as f16
LIFT = 2.0  # a telling word is at least so many times as frequent in the target: keeps `the` and `and` out
PRIOR = 0.1  # weaker ones call a word uncertain that fills the target and never occurs in the pool


@dataclass(frozen=True)
class ShownRow:
    """One row in full, with the reasons for its score."""

    id: str
    source: str
    score: float
    text: str
    picked: bool | None = None  # None: not known
    why: dict[str, Any] = field(default_factory=dict)  # the selector's why-columns
    messages: tuple[Message, ...] = ()  # shown instead of text where there are any
    origin: str = ""  # file and offset
    nearest_text: str = ""  # text of the target row it is nearest to, where the selector knows one


@dataclass(frozen=True)
class Exhibits:
    """Evidence for the report.

    Attributes:
        scores: selection → columns `id` str, `score` f64, `picked` bool, `source` str; the pool or a sample of it.
        points: `x` f32, `y` f32, `kind` (`pool`, `target`, `pick`), `source`, `id`, `text`, and optionally `picked_by`
            list[str] (selections); from `project`. None: no vectors, no map.
        rows: selection → `best`, `borderline`, `worst` → rows, in the order to show them.
        words: from `telling_words`: `word`, then rates per 1,000 words in `pool`, `target` and each selection.
        prices: selection → columns `id` str, `price` f64, `distance` f32 (squared), `picked` bool, of a sample of the
            rows that were not picked and of those that were; only selections whose scores have prices.
        marks: of every answer with a score `score` f32 or f64 and `marked` bool. None: the recipe marks none.
        border: `marked`, `not marked` → answers next to the border, nearest first; each shows the user's last message.
        likeness: `group` (`pool`, `target`, or a selection), `similarity` f32: cosine to the nearest target row, from
            `nearest_target`. None: no vectors or no target.
    """

    scores: dict[str, pl.DataFrame] = field(default_factory=dict)
    points: pl.DataFrame | None = None
    rows: dict[str, dict[str, list[ShownRow]]] = field(default_factory=dict)
    words: pl.DataFrame | None = None
    likeness: pl.DataFrame | None = None
    prices: dict[str, pl.DataFrame] = field(default_factory=dict)
    marks: pl.DataFrame | None = None
    border: dict[str, list[ShownRow]] = field(default_factory=dict)


def nearest_target(vectors: np.ndarray, target: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Cosine similarity of each row to its nearest target row.

    Args:
        vectors: f32[n, d], unit L2 norm.
        target: f32[m, d], unit L2 norm, m ≥ 1.
        same: `vectors` is `target` itself: each row looks at those that differ from it, which gives the ceiling for
            picks. Copies do not count, for no pick may copy the target.

    Returns:
        f32[n] in [-1, 1].
    """
    if not same:
        return np.clip(Index(target, device="cpu").search(vectors, 1)[0][:, 0], -1, 1)
    cosine = Index(target, device="cpu").search(vectors, COPIES)[0]
    return np.clip(np.where(cosine > COPY, -1.0, cosine).max(axis=1), -1, 1).astype(np.float32)


def telling_words(pool: pl.Series, target: pl.Series, picks: dict[str, pl.Series], *, most: int = 24) -> pl.DataFrame:
    """Words that tell the target from the pool, and how often each selection uses them.

    Log-odds with an informative Dirichlet prior (a tenth of the two together), each divided by its standard
    error; the highest are the target's words. A word counts once per row, so one long row cannot make a word telling.

    Args:
        pool: plain text of a sample of the pool.
        target: plain text of the target rows.
        picks: selection → plain text of its picks, or of a sample.
        most: words to return; fewer where fewer are telling (z > 3, in at least 3 target
            rows, and in twice as large a share of them as of the pool).

    Returns:
        `word`, `pool`, `target` and one column per selection that picked: rows per 1,000 rows that hold the word, f64;
        most telling first, ties by word.

    Source: Monroe, Colaresi, Quinn 2008, "Fightin' Words", equations 16, 18 and 22. Differs: rows, not occurrences.
    """
    counts = _word_rows(pool).rename({"rows": "pool"})
    counts = counts.join(_word_rows(target).rename({"rows": "target"}), on="word", how="full", coalesce=True)
    counts = counts.fill_null(0)
    a_total, b_total = (float(counts[c].sum()) for c in ("target", "pool"))
    prior = PRIOR * (pl.col("target") + pl.col("pool"))
    whole = PRIOR * (a_total + b_total)
    ours, theirs = pl.col("target") + prior, pl.col("pool") + prior
    odds = (ours / (a_total + whole - ours)).log() - (theirs / (b_total + whole - theirs)).log()
    counts = counts.with_columns((odds / (1 / ours + 1 / theirs).sqrt()).alias("z"))
    lifted = pl.col("target") / max(len(target), 1) >= LIFT * pl.col("pool") / max(len(pool), 1)
    told = counts.filter((pl.col("z") > 3) & (pl.col("target") >= 3) & lifted).sort(
        ["z", "word"], descending=[True, False]
    )
    told = told.head(most).select("word", _rate("pool", len(pool)), _rate("target", len(target)))
    for name, texts in picks.items():
        if not len(texts):
            continue
        rate = _word_rows(texts).select("word", _rate("rows", len(texts)).alias(name))
        told = told.join(rate, on="word", how="left", maintain_order="left").with_columns(pl.col(name).fill_null(0.0))
    return told


def _word_rows(texts: pl.Series) -> pl.DataFrame:
    """Word → number of rows that hold it. Words have three letters or more, in lower case."""
    words = pl.DataFrame({"text": texts}).select(
        pl.col("text").str.to_lowercase().str.extract_all(r"\p{L}[\p{L}\p{M}'’-]+\p{L}").list.unique().alias("word")
    )
    return words.explode("word").drop_nulls().group_by("word").agg(pl.len().cast(pl.Int64).alias("rows")).sort("word")


def _rate(column: str, rows: int) -> pl.Expr:
    return (pl.col(column) * (1000.0 / max(rows, 1))).alias(column)
