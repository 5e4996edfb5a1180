"""Turn scores into picks under one budget. Scores are read, never computed again: a new budget costs one sort.

One rule makes every budget's picks the beginning of any larger budget's. Rows come in order of their key, ties by id,
and the pick stops at the first row that does not fit (no later, shorter row fills the gap; at most one row's tokens of
the budget are left). Under a cap by share, a source's row enters once the budget has grown to where the source's
total with it is within its share.
"""

from __future__ import annotations

import heapq
import math
from fractions import Fraction

import numpy as np
import polars as pl

from mixtura.errors import InputError
from mixtura.pipeline import cover
from mixtura.pipeline.contract import Scale
from mixtura.pipeline.hashing import unit_noise
from mixtura.recipe import Cap, Pick

COLUMNS = ("id", "score", "source", "tokens")


def pick(
    scores: pl.DataFrame, spec: Pick, *, scale: Scale, seed: int, market: cover.Market | None = None
) -> pl.DataFrame:
    """The rows that a budget buys, best first.

    Args:
        scores: `id` (unique), `score` (finite f64; higher is better), `source`, `tokens` (>= 0), in any order; for the
            rules cover and round_robin also `targets` and `costs`.
        spec: rule (None is 'top'), budget and caps.
        scale: what the score is; decides which rules make sense.
        seed: of the Gumbel noise, which is keyed by id.
        market: the selector's prices, for rule 'cover'.

    Returns:
        `id, score, key, rank`, in pick order; `key` (f64) is what the rule sorted by, `rank` (i64) counts from 0.
        A threshold may leave no row; caps may leave fewer than the budget.

    Raises:
        InputError: a column is missing, ids repeat, a score is not finite, the rule does not suit the scale, the
            budget exceeds the pool, or not even the first row fits.

    Source: rule 'gumbel' is Gumbel-top-k (Kool, van Hoof, Welling 2019): sampling without replacement in proportion
    to exp(log_weight / temperature).
    """
    _check(scores, spec, scale)
    if spec.rule == "cover":
        ordered = taken = _covered(scores, spec, market)
    else:
        ordered = _ordered(scores, spec, scale, seed)
        taken = _within_budget(_within_caps(ordered, spec), spec)
    if not taken.height and scores.height and spec.rule != "threshold":
        advice = "Raise the budget, or loosen the caps"
        first = (ordered if ordered.height else scores.sort("score", "id", descending=[True, False]))["tokens"][0]
        need = f"must have room for one row; the first has {first} tokens"
        raise InputError("pick", need, got=_said(spec), next_step=advice)
    return taken.select("id", "score", "key", rank=pl.int_range(pl.len()))


def _ordered(scores: pl.DataFrame, spec: Pick, scale: Scale, seed: int) -> pl.DataFrame:
    """All rows that the rule may take, with their `key`, best first."""
    if spec.rule == "round_robin":
        order = cover.round_robin(scores)
        return scores[order].select(*COLUMNS, key=-pl.int_range(pl.len()).cast(pl.Float64))
    keyed = scores.select(*COLUMNS).with_columns(key=_keys(scores, spec, scale, seed))
    if spec.rule == "threshold":
        keyed = keyed.filter(pl.col("score") >= spec.threshold)
    elif spec.budget_rows and not spec.caps:  # a partition costs less than sorting rows that no budget reaches
        kth = np.partition(keyed["key"].to_numpy(), -spec.budget_rows)[-spec.budget_rows]
        keyed = keyed.filter(pl.col("key") >= kth)
    return keyed.sort(["key", "id"], descending=[True, False])


def _covered(scores: pl.DataFrame, spec: Pick, market: cover.Market | None) -> pl.DataFrame:
    """What rule 'cover' takes, slice by slice; caps hold at the end of each."""
    if market is None:
        raise InputError("pick.rule 'cover'", "needs a selector that prices its targets", next_step="Use rule 'top'")
    rows = scores.select(*COLUMNS, at=pl.int_range(pl.len()))
    prices = cover.Prices(market, cover.Served.of(scores))
    everyone, by_id = np.arange(rows.height), scores["id"].rank().to_numpy()
    key, taken = np.zeros(rows.height), rows.clear()
    unit, budget = ("budget_tokens", spec.budget_tokens) if spec.budget_tokens else ("budget_rows", spec.budget_rows)
    for nth in range(1, cover.SLICES + 1):
        part = spec.model_copy(update={unit: max(1, (budget or 0) * nth // cover.SLICES)})
        soft = prices.soft_distance()
        left = np.setdiff1d(everyone, taken["at"].to_numpy(), assume_unique=True)
        best = left[np.lexsort((by_id[left], soft[left]))]
        before = taken.height
        taken = _within_budget(_within_caps(pl.concat([taken, rows[best]]), part), part)
        new, cost = taken["at"].to_numpy()[before:], _cost(taken, spec).to_numpy()
        key[new] = -soft[new]
        if taken.height:
            share = spec.strength * nth / cover.SLICES
            prices.settle(taken["at"].to_numpy(), share * cost / max(cost.sum(), 1))
    return taken.with_columns(key=pl.Series(key[taken["at"].to_numpy()]))


def _check(scores: pl.DataFrame, spec: Pick, scale: Scale) -> None:
    needed = COLUMNS + (cover.COLUMNS if spec.rule in ("cover", "round_robin") else ())
    if missing := [c for c in needed if c not in scores.columns]:
        raise InputError("scores", f"must have the columns {list(needed)}", got=f"no {missing}")
    if (unique := scores["id"].n_unique()) != scores.height:
        raise InputError("scores", f"must have one row per id, {unique}", got=scores.height)
    if not scores["score"].is_finite().fill_null(False).all():
        bad = scores.filter(~pl.col("score").is_finite().fill_null(False))["id"][0]
        raise InputError("scores", "must be finite", got=f"row {bad}")
    if scores["tokens"].null_count() or (scores.height and scores["tokens"].cast(pl.Int64).min() < 0):  # type: ignore[operator]
        raise InputError("scores", "must say how many tokens each row has, 0 or more")
    if spec.rule == "gumbel" and scale not in ("log_weight", "probability"):
        advice = "Use rule 'top', or a selector that gives weights, such as dsir"
        raise InputError("pick.rule 'gumbel'", "needs scores that are weights", got=scale, next_step=advice)
    if spec.budget_rows is None and spec.budget_tokens is None:
        if shared := [s for s, c in spec.caps.items() if c.share is not None]:
            raise InputError(f"pick.caps.{shared[0]}.share", "needs a budget that it is a share of")
    elif spec.rule != "threshold":
        unit, budget = ("tokens", spec.budget_tokens) if spec.budget_tokens else ("rows", spec.budget_rows)
        have = int(scores["tokens"].cast(pl.Int64).sum()) if unit == "tokens" else scores.height
        if budget and budget > have:
            raise InputError(
                f"pick.budget_{unit}",
                f"must be at most {have}, the {unit} to choose from",
                got=budget,
                next_step="Lower it or add a source",
            )


def _keys(scores: pl.DataFrame, spec: Pick, scale: Scale, seed: int) -> pl.Series:
    """What the rule sorts by, f64[n]."""
    score = scores["score"].cast(pl.Float64)
    if spec.rule != "gumbel":
        return score
    with np.errstate(divide="ignore"):  # probability 0: log weight -inf, never before a positive one
        log_weight = np.log(score.to_numpy()) if scale == "probability" else score.to_numpy()
    gumbel = -np.log(-np.log(unit_noise(scores["id"], seed, "gumbel")))
    return pl.Series(log_weight / spec.temperature + gumbel)


def _within_caps(ordered: pl.DataFrame, spec: Pick) -> pl.DataFrame:
    """Drop what a cap refuses at any budget, and put rows under a share behind the budget that lets them in."""
    if not spec.caps:
        return ordered
    caps = {s: spec.caps.get(s, spec.caps.get("*")) for s in ordered["source"].unique().to_list()}
    by_source = pl.col("tokens").cast(pl.Int64).cum_sum().over("source")
    nth = pl.int_range(1, pl.len() + 1).over("source")
    limit = {
        "rows": {s: c.rows for s, c in caps.items() if c and c.rows is not None},
        "tokens": {s: c.tokens for s, c in caps.items() if c and c.tokens is not None},
    }
    fits = pl.lit(True)
    for unit, total in (("rows", nth), ("tokens", by_source)):
        if limit[unit]:
            most = pl.col("source").replace_strict(limit[unit], default=None, return_dtype=pl.Int64)
            fits &= (total <= most).fill_null(True)
    kept = ordered.filter(fits)
    shares = {s: c for s, c in caps.items() if c and c.share is not None}
    return kept[_released(kept, shares, spec)] if shares else kept


def _released(ordered: pl.DataFrame, shares: dict[str, Cap], spec: Pick) -> np.ndarray:
    """Order of the rows as the budget grows from nothing, each source within its share at every size.

    A row's release is the smallest budget of which its source's total, up to this row, is within the share. The best
    released row is next; while it does not fit yet, the budget grows to where it does, or to the next release.

    Returns:
        i64[k], positions in `ordered`; rows that the budget cannot reach are left out.
    """
    budget = spec.budget_tokens or spec.budget_rows or 0
    cost = _cost(ordered, spec).to_list()
    release = _releases(ordered, shares, spec)
    queues = {s: iter(at.to_list()) for s, at in zip(*_positions(ordered), strict=True)}
    waiting: list[tuple[int, int, str]] = []  # (release, position, source): at most one row of each source
    ready: list[tuple[int, str]] = []  # (position, source): released, best first

    def enqueue(source: str) -> None:
        if (at := next(queues[source], None)) is not None:
            heapq.heappush(waiting, (release[at], at, source))

    for source in queues:
        enqueue(source)
    level = used = 0
    order: list[int] = []
    while level <= budget and (ready or waiting):
        while waiting and waiting[0][0] <= level:
            _, at, source = heapq.heappop(waiting)
            heapq.heappush(ready, (at, source))
        if ready and used + cost[ready[0][0]] <= level:
            at, source = heapq.heappop(ready)
            order.append(at)
            used += cost[at]
            enqueue(source)
        else:
            level = min([used + cost[at] for at, _ in ready[:1]] + [at for at, _, _ in waiting[:1]])
    return np.array(order, np.int64)


def _releases(ordered: pl.DataFrame, shares: dict[str, Cap], spec: Pick) -> list[int]:
    """The smallest budget that lets each row in; 0 for a source without a share."""
    exact = {s: Fraction(str(c.share)) for s, c in shares.items()}  # in floats, 0.29 of 100 rows is 28
    total = ordered.select(_cost(ordered, spec).alias("cost"), "source").select(
        pl.col("cost").cum_sum().over("source")
    )["cost"]
    never = np.iinfo(np.int64).max
    return [
        0 if s not in exact else math.ceil(n / exact[s]) if exact[s] else never
        for n, s in zip(total.to_list(), ordered["source"].to_list(), strict=True)
    ]


def _positions(ordered: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Each source, and the positions of its rows, in order."""
    grouped = ordered.select("source", at=pl.int_range(pl.len())).group_by("source", maintain_order=True).agg("at")
    return grouped["source"], grouped["at"]


def _within_budget(ordered: pl.DataFrame, spec: Pick) -> pl.DataFrame:
    """The rows before the first that does not fit."""
    budget = spec.budget_tokens or spec.budget_rows
    return ordered if budget is None else ordered.filter(_cost(ordered, spec).cum_sum() <= budget)


def _cost(rows: pl.DataFrame, spec: Pick) -> pl.Series:
    """What each row takes from the budget, i64[n]: its tokens, or one."""
    return rows["tokens"].cast(pl.Int64) if spec.budget_tokens else pl.Series(np.ones(rows.height, np.int64))


def _said(spec: Pick) -> str:
    return str(spec.model_dump(mode="json", exclude_defaults=True))
