"""Mark the answers that lean on what the user gave, and write the indicator into the user's message before each.

A model that is trained on marked turns learns what the indicator stands for, and can be asked for such answers with
it: conditional fine-tuning (Wang et al. 2024, section 3.2). The indicator goes behind the text of the user's message,
after a space; nothing else of a row changes. Ours differs in three points: the paper's code also adds a full stop to
every message that it scored, marked or not; a share may be asked for instead of a threshold; and answers may be marked
at random, or matched in length, which tells what the marks themselves bring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mixtura.errors import MixturaError
from mixtura.pipeline.hashing import keys
from mixtura.recipe import Marks

BINS = 8  # of each of the two lengths that control 'length' matches: 64 cells
ANSWERS = ("id", "source", "turn", "place", "given", "answered")
SPOKEN = ("text", "messages", "chosen", "rejected", "tools")  # where a row may spell out the indicator


def answers(rows: pl.DataFrame) -> pl.DataFrame:
    """Every answer of some conversations.

    Args:
        rows: `id` (unique), `source`, `messages`, `chosen`; documents have no answer.

    Returns:
        `id`, `source`, `turn` i32 (its place in the messages, then in the chosen answer), `place` i32 (of the last
        user's message before it, which would carry its mark; null where there is none), `given` and `answered`
        (characters of all users' messages up to it, and of the answer itself), in order.
    """
    said = rows.select("id", "source", prompt=pl.col("messages").list.len().fill_null(0), turn=_all_turns())
    said = said.explode("turn").drop_nulls("turn").unnest("turn")
    asked = (pl.col("role") == "user") & pl.col("content").is_not_null()
    size = pl.col("content").str.len_chars().fill_null(0).cast(pl.Int64)
    return (
        said.with_columns(turn=pl.int_range(pl.len(), dtype=pl.Int32).over("id"))
        .with_columns(
            place=pl.when(asked & (pl.col("turn") < pl.col("prompt"))).then("turn").forward_fill().over("id"),
            given=pl.when(pl.col("role") == "user").then(size).otherwise(0).cum_sum().over("id"),
            answered=size,
        )
        .filter(pl.col("role") == "assistant")
        .select(*ANSWERS)
    )


def _all_turns() -> pl.Expr:
    both = [pl.col(c).fill_null([]) for c in ("messages", "chosen")]
    return both[0].list.concat(both[1])


def turn_scores(word: str, column: str, scores: pl.DataFrame) -> pl.DataFrame:
    """A selector's scores of answers, one line each.

    Args:
        word: the selector's, for errors.
        column: which of its columns, lists as long as `turns`.
        scores: its scores of rows, with `id`, `turns` and that column; perhaps `unscored`, list[str], which says
            why an answer has no score.

    Returns:
        `id`, `turn` i32, `score` (f32 or f64; null where there is none), `reason` str or null.

    Raises:
        MixturaError: the selector has no such columns, or lists of other lengths.
    """
    need = f"selector {word!r} must return `turns` and {column!r}, lists of one length in each row"
    lists = ["turns", column, *(["unscored"] if "unscored" in scores.columns else [])]
    if missing := [c for c in lists if not isinstance(scores.schema.get(c), pl.List)]:
        raise MixturaError(f"{need}; got no list {missing}")
    for other in lists[1:]:
        if uneven := scores.filter(pl.col("turns").list.len() != pl.col(other).list.len()).height:
            raise MixturaError(f"{need}; got {uneven} uneven rows in {other!r}")
    flat = scores.select("id", *lists).explode(*lists).drop_nulls("turns")
    score = pl.col(column)
    if flat.schema[column] != pl.Float32:  # kept in its own width: as f64, 0.6 in f32 is above a threshold of 0.6
        score = score.cast(pl.Float64)
    reason = pl.col("unscored") if len(lists) > 2 else pl.lit("no-score")
    return flat.select(
        "id",
        turn=pl.col("turns").cast(pl.Int32),
        score=pl.when(score.is_finite()).then(score),
        reason=pl.when(~score.is_finite().fill_null(False)).then(reason),
    )


def mark(told: pl.DataFrame, spec: Marks, *, seed: int) -> pl.DataFrame:
    """Decide which answers are marked.

    Args:
        told: what `answers` says, and `score` (f32 or f64) or null.
        spec: threshold or share, and whether the marks are a control.
        seed: of ties at the border of a share, and of a control's draw; keyed by row and turn, so that neither the
            order nor the company of the rows matters.

    Returns:
        The same rows and columns, with `marked` bool. Only an answer with a score and a user's message before it can
        be marked. A threshold is strict, as in the paper's code: a score equal to it is not marked.
    """
    able = told["score"].is_not_null() & told["place"].is_not_null()
    at = np.flatnonzero(able.to_numpy())
    some = told[at]
    names = some["id"] + "/" + some["turn"].cast(pl.String)
    chosen = np.zeros(len(at), bool)
    if spec.threshold is not None:
        chosen = (some["score"] > spec.threshold).to_numpy()
    elif spec.share is not None:
        wanted = int(spec.share * len(at) + 0.5)
        chosen[np.lexsort((keys(names, seed, "marks"), -some["score"].to_numpy()))[:wanted]] = True
    if spec.control is not None:
        cells = _cells(some) if spec.control == "length" else np.zeros(len(at), np.int64)
        chosen = _redrawn(chosen, cells, keys(names, seed, "marks/control"))
    marked = np.zeros(told.height, bool)
    marked[at] = chosen
    return told.with_columns(marked=pl.Series(marked))


def _cells(some: pl.DataFrame) -> np.ndarray:
    """i64[n]: which of the 64 cells of like length, given and answered, each answer is in; equal lengths share one."""
    cell = np.zeros(some.height, np.int64)
    for column in ("given", "answered"):
        size = some[column].to_numpy()
        edges = np.quantile(size, np.arange(1, BINS) / BINS) if len(size) else np.zeros(0)
        cell = cell * BINS + np.searchsorted(edges, size, side="right")
    return cell


def _redrawn(chosen: np.ndarray, cells: np.ndarray, key: np.ndarray) -> np.ndarray:
    """bool[n]: as many of each cell as were chosen there, those with the smallest keys."""
    order = np.lexsort((key, cells))
    _, first, cell = np.unique(cells[order], return_index=True, return_inverse=True)
    nth = np.arange(len(order)) - first[cell]
    wanted = np.bincount(cell, weights=chosen[order], minlength=len(first))
    drawn = np.zeros(len(chosen), bool)
    drawn[order] = nth < wanted[cell]
    return drawn


def spells(rows: pl.DataFrame, indicator: str) -> pl.Series:
    """bool[n]: whether each row holds the indicator already, which nobody could tell from a mark."""
    found = pl.lit(False)
    for column in (c for c in SPOKEN if c in rows.columns):
        if isinstance(rows.schema[column], pl.List):
            turn = pl.element().struct
            said = [
                turn.field(f).fill_null("").str.contains(indicator, literal=True) for f in ("content", "tool_calls")
            ]
            found |= pl.col(column).list.eval(said[0] | said[1]).list.any().fill_null(False)
        elif rows.schema[column] == pl.String:
            found |= pl.col(column).fill_null("").str.contains(indicator, literal=True)
    return rows.select(spells=found)["spells"]


def written(messages: pl.Series, places: Sequence[Sequence[int] | None], indicator: str) -> pl.Series:
    """Conversations with the indicator behind the messages at some places, after a space; the rest as it was.

    Args:
        messages: of each row.
        places: of each row, in its messages; None and empty change nothing.
        indicator: one word.
    """
    rows = messages.to_list()
    for turns, mine in zip(rows, places, strict=True):
        for place in set(mine or ()):
            turns[place]["content"] = f"{turns[place]['content']} {indicator}"
    return pl.Series(messages.name, rows, dtype=messages.dtype)
