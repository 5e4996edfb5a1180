"""Read the report's evidence off the artefacts: scores, whole rows, a map, telling words, likeness to the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl

from mixtura.pipeline.embed import read_vectors
from mixtura.pipeline.hashing import keys
from mixtura.pipeline.report.exhibits import Exhibits, ShownRow, nearest_target, telling_words
from mixtura.pipeline.report.map import project
from mixtura.rows import Message, plain_text
from mixtura.stages.choose import Embedded, Picked
from mixtura.stages.gather import Pool
from mixtura.stages.mark import Marked
from mixtura.stages.plan import Plan

POINTS = {"pool": 800, "target": 250, "pick": 450}  # 1,500 in all: t-SNE on one thread takes seconds
WORDS = 4_000  # rows of the pool, of the target and of each selection whose words are counted
PRICED = {"not picked": 2_000, "picked": 1_000}  # rows of the plot of price against distance
SHOWN = 6  # rows of each kind in full
COMMON = ["id", "source", "file", "offset", "text", "messages", "chosen"]


def exhibits(
    plan: Plan, pool: Pool, embedded: Embedded, picked: Sequence[Picked], marked: Marked | None = None
) -> Exhibits:
    """Everything the report shows beside the summary; a sample by hash where the pool is large."""
    pool = replace(pool, parts=tuple(pool.of(plan.recipe.chosen_from())))
    frames = {p.word: _scores(p) for p in picked}
    seed = plan.recipe.seed
    ids = {"pool": _drawn(_ids(pool), seed, WORDS)}
    ids |= {word: _drawn(f.filter("picked")["id"], seed, WORDS) for word, f in frames.items()}
    texts = _fetch(pool, pl.concat(list(ids.values())).unique())
    target = pl.read_parquet(pool.target.rows.file("chosen.parquet")) if pool.target else None
    near = {} if target is None else dict(zip(target["id"], plain_text(target), strict=True))
    rows = {p.word: _shown(p, frames[p.word], near) for p in picked}
    points = likeness = words = None
    if target is not None:
        groups = {name: _plain(texts, wanted) for name, wanted in ids.items()}
        words = telling_words(groups.pop("pool"), plain_text(target), groups)
    if embedded.parts and target is not None:
        points, likeness = _space(plan, pool, embedded, ids, texts, target)
    prices = {p.word: _prices(p, frames[p.word], seed) for p in picked if _priced(p)}
    marks = None if marked is None else marked.answers.filter(pl.col("score").is_not_null())
    border = {} if marks is None or marked is None else _border(pool, marks, marked.spec.indicator)
    return Exhibits(frames, points, rows, words, likeness=likeness, prices=prices, marks=marks, border=border)


def _border(pool: Pool, answers: pl.DataFrame, indicator: str) -> dict[str, list[ShownRow]]:
    """The lowest marked answers and the highest that are not, with what the user said last, as it was written."""
    sides = {
        "marked": answers.filter("marked").sort("score", "id", "turn").head(SHOWN),
        "not marked": answers.filter(~pl.col("marked")).sort(["score", "id", "turn"], descending=[True, False, False])
        .head(SHOWN),
    }  # fmt: skip
    texts = _fetch(pool, pl.concat([f["id"] for f in sides.values()]).unique())
    rows = {r["id"]: r for r in texts.iter_rows(named=True)}
    return {side: [_answer(a, rows[a["id"]], indicator) for a in f.iter_rows(named=True)] for side, f in sides.items()}


def _answer(answer: Mapping[str, Any], row: Mapping[str, Any], indicator: str) -> ShownRow:
    turns = [dict(t) for t in (row["messages"] or []) + (row["chosen"] or [])]
    if answer["marked"]:
        turns[answer["place"]]["content"] += f" {indicator}"
    first = answer["turn"] if answer["place"] is None else answer["place"]
    shown = cast("tuple[Message, ...]", tuple(turns[first : answer["turn"] + 1]))
    why = {"answer": f"turn {answer['turn'] + 1} of {len(turns)}"}
    origin = f"{row['file']} @ {row['offset']}"
    return ShownRow(row["id"], row["source"], answer["score"], "", None, why, shown, origin)


def _scores(picked: Picked) -> pl.DataFrame:
    """`id, score, picked, source` of every row that the selection could choose."""
    chosen = picked.frame.select("id", picked=pl.lit(True))
    frames = [
        pl.read_parquet(s.file("scores.parquet"), columns=["id", "score"]).hstack(
            pl.read_parquet(p.path, columns=["source"])
        )
        for p, s in picked.scored.scores
    ]
    return (
        pl.concat(frames).join(chosen, on="id", how="left").with_columns(pl.col("picked").fill_null(False)).sort("id")
    )


def _priced(picked: Picked) -> bool:
    """Whether the selector gives each row the price and the distance of a target."""
    return all(
        {"price", "distance"} <= set(pl.read_parquet_schema(s.file("scores.parquet"))) for _, s in picked.scored.scores
    )


def _prices(picked: Picked, frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`id, price, distance, picked` of a sample by hash."""
    refused, chosen = frame.filter(~pl.col("picked"))["id"], frame.filter("picked")["id"]
    wanted = pl.concat([_drawn(refused, seed, PRICED["not picked"]), _drawn(chosen, seed, PRICED["picked"])])
    marked = frame.select("id", "picked").filter(pl.col("id").is_in(wanted.implode()))
    scores = [
        pl.scan_parquet(s.file("scores.parquet")).select("id", "price", "distance") for _, s in picked.scored.scores
    ]
    return pl.concat([s.collect().join(marked, on="id") for s in scores]).sort("id")


def _shown(picked: Picked, frame: pl.DataFrame, near: Mapping[str, str]) -> dict[str, list[ShownRow]]:
    """The best picks, the last picks with the first refused, and the lowest scores.

    `near` is id → text of the target rows, for the why-column `nearest_target_id`.
    """
    order = picked.frame.sort("rank")
    refused = frame.filter(~pl.col("picked")).sort(["score", "id"], descending=[True, False])
    half = SHOWN // 2
    groups = {
        "best": order.head(SHOWN)["id"].to_list(),
        "borderline": [*order.tail(half)["id"], *refused.head(half)["id"]],
        "worst": frame.sort("score", "id").head(SHOWN)["id"].to_list(),
    }
    wanted = {i for ids in groups.values() for i in ids}
    rows: dict[str, ShownRow] = {}
    marked = set(order["id"])
    for part, scores in picked.scored.scores:
        inside = pl.read_parquet(part.path, columns=["id"])["id"].is_in(list(wanted)).arg_true()
        if not len(inside):
            continue
        here = pl.read_parquet(part.path, columns=COMMON)[inside]
        told = pl.read_parquet(scores.file("scores.parquet"))[inside].drop("id")
        for row, why, text in zip(
            here.iter_rows(named=True), told.iter_rows(named=True), plain_text(here), strict=True
        ):
            score = why.pop("score")
            rows[row["id"]] = ShownRow(
                row["id"],
                row["source"],
                score,
                text,
                row["id"] in marked,
                why,
                tuple((row["messages"] or []) + (row["chosen"] or [])),
                f"{row['file']} @ {row['offset']}",
                near.get(str(why.get("nearest_target_id")), ""),
            )
    return {name: [rows[i] for i in ids] for name, ids in groups.items()}


def _space(
    plan: Plan, pool: Pool, embedded: Embedded, ids: dict[str, pl.Series], texts: pl.DataFrame, target: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The 2-D map, and how like the target each group is."""
    assert pool.target is not None
    seed = plan.recipe.seed
    picks = pl.concat([i for n, i in ids.items() if n != "pool"]).unique()
    shown = {
        "target": _drawn(target["id"], seed, POINTS["target"]),
        "pick": _drawn(picks, seed, POINTS["pick"]),
    }
    rest = ids["pool"].filter(~ids["pool"].is_in(picks.to_list()))
    shown["pool"] = _drawn(rest, seed, POINTS["pool"])
    wanted = pl.concat([shown["pool"], shown["pick"], *ids.values()]).unique().sort()
    vectors = _vectors(pool, embedded, wanted)
    target_ids, target_vectors = read_vectors(embedded.drawn["target"].file("vectors.parquet"))
    at = {i: n for n, i in enumerate(wanted)}
    near = [
        pl.DataFrame(
            {"group": n, "similarity": nearest_target(vectors[[at[i] for i in members]], target_vectors)},
            schema={"group": pl.String, "similarity": pl.Float32},
        )
        for n, members in ids.items()
    ]
    if len(target_ids) > 1:
        own = nearest_target(target_vectors, target_vectors, same=True)
        near.append(pl.DataFrame({"group": "target", "similarity": own}, schema=near[0].schema))
    place = {i: n for n, i in enumerate(target_ids)}
    order = [("pool", i) for i in shown["pool"]] + [("target", i) for i in shown["target"]]
    order += [("pick", i) for i in shown["pick"]]
    stacked = np.stack([target_vectors[place[i]] if kind == "target" else vectors[at[i]] for kind, i in order])
    xy = project(stacked, seed)
    about = pl.concat([texts, target.select(texts.columns).with_columns(source=pl.lit("target"))]).unique("id")
    points = pl.DataFrame(
        {"x": xy[:, 0], "y": xy[:, 1], "kind": [k for k, _ in order], "id": [i for _, i in order]}
    ).join(about.select("id", "source", text=plain_text(about)), on="id", how="left", maintain_order="left")
    by = pl.concat([pl.DataFrame({"id": i, "picked_by": n}) for n, i in ids.items() if n != "pool"])
    by = by.group_by("id").agg(pl.col("picked_by").sort())
    points = points.join(by, on="id", how="left", maintain_order="left").with_columns(pl.col("picked_by").fill_null([]))
    return points, pl.concat(near)


def _vectors(pool: Pool, embedded: Embedded, wanted: pl.Series) -> np.ndarray:
    """f32[n, d]: vectors of pool rows, in the order of `wanted` (sorted)."""
    found_ids, found = [], []
    for artefact in embedded.parts:
        ids, vectors = read_vectors(artefact.file("vectors.parquet"))
        inside = pl.Series(ids, dtype=pl.String).is_in(wanted.to_list()).arg_true().to_numpy()
        found_ids.append(pl.Series(ids, dtype=pl.String)[inside])
        found.append(vectors[inside])
    order = pl.concat(found_ids).arg_sort().to_numpy()
    return np.concatenate(found)[order]


def _ids(pool: Pool) -> pl.Series:
    return pl.concat([pl.read_parquet(p.path, columns=["id"]) for p in pool.parts])["id"]


def _drawn(ids: pl.Series, seed: int, most: int) -> pl.Series:
    """At most so many ids, by hash, sorted."""
    return ids[np.argsort(keys(ids, seed, "exhibit"), kind="stable")[:most]].sort()


def _fetch(pool: Pool, wanted: pl.Series) -> pl.DataFrame:
    """Rows of the pool by id, in the order of id."""
    ids = pl.DataFrame({"id": wanted})
    found = [pl.read_parquet(p.path, columns=COMMON).join(ids, on="id", how="semi") for p in pool.parts]
    return pl.concat(found).sort("id")


def _plain(texts: pl.DataFrame, ids: pl.Series) -> pl.Series:
    return plain_text(texts.join(pl.DataFrame({"id": ids}), on="id", how="semi").sort("id"))
