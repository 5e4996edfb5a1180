"""Mix selections by weight and divide the mixture into splits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixtura.errors import InputError
from mixtura.pipeline.hashing import keys, unit_noise
from mixtura.recipe import Mix, Splits

SPLITS = ("train", "validation", "test")


def mix(picks: Mapping[str, pl.DataFrame], rows: pl.DataFrame, spec: Mix, *, seed: int) -> pl.DataFrame:
    """Make one mixture of several selections' picks.

    A row that several selections picked belongs to the first of them, and counts once.

    Args:
        picks: selection → `id, score, rank`, ids unique within each; in the recipe's order.
        rows: `id, tokens, split_group` of at least every picked row; where there is a column `evaluate_only`, the
            split group of a row with it is tested on, whole; where there is a column `asked`, rows that ask the same
            are of one group.
        spec: weights, their unit, the budget, the splits.
        seed: of splits and order.

    Returns:
        `id, selection, rank, score, split`, in the order in which the mixture is written: split by split, shuffled.

    Raises:
        InputError: the weights cannot reach the budget with what was picked.
    """
    owned = _owned(picks).join(rows, on="id", how="left", maintain_order="left")
    if spec.weights is not None:
        owned = _weighted(owned, spec)
    if "asked" in owned.columns:
        owned = owned.with_columns(split_group=joined_groups(owned))
    owned = owned.with_columns(split=pl.Series(split_of(owned["id"], owned["split_group"], spec.splits, seed=seed)))
    if "evaluate_only" in owned.columns:
        group = pl.coalesce("split_group", "id")
        aside = pl.col("evaluate_only").any().over(group)
        owned = owned.with_columns(split=pl.when(aside).then(pl.lit("test")).otherwise("split"))
    shuffled = owned.with_columns(
        at=pl.col("split").replace_strict({s: i for i, s in enumerate(SPLITS)}, return_dtype=pl.Int8),
        key=pl.Series(keys(owned["id"], seed, "order"), dtype=pl.UInt64),
    ).sort("at", "key", "id")
    return shuffled.select("id", "selection", "rank", "score", "split")


def joined_groups(rows: pl.DataFrame) -> pl.Series:
    """Split groups, joined where a row of one asks what a row of another asks.

    Args:
        rows: `id`, `split_group`, `asked` (any value that is equal where rows ask the same; null: it asks nothing).

    Returns:
        `split_group` of each row, never null: the smallest name among the groups that are joined.
    """
    names = rows.select(group=pl.coalesce("split_group", "id"), asked="asked")
    groups, at = np.unique(names["group"].to_numpy(), return_inverse=True)
    known = names["asked"].is_not_null().to_numpy()
    _, what = np.unique(names["asked"].drop_nulls().to_numpy(), return_inverse=True)
    n = len(groups) + (what.max(initial=-1) + 1)
    edges = coo_array((np.ones(known.sum(), bool), (at[known], len(groups) + what)), shape=(n, n))
    _, component = connected_components(edges, directed=False)
    smallest = np.full(component.max(initial=-1) + 1, len(groups))
    np.minimum.at(smallest, component[: len(groups)], np.arange(len(groups)))
    return pl.Series("split_group", groups[smallest[component[at]]].astype(str), dtype=pl.String)


def split_of(ids: pl.Series, groups: pl.Series, splits: Splits, *, seed: int) -> list[str]:
    """The split of each row: a function of its group and the seed alone, so a growing mixture never moves a row.

    Args:
        ids: row ids; a row without a group is a group of its own.
        groups: `split_group` of each row, or null.
        splits: shares of validation and test.
        seed: the recipe's seed.

    Returns:
        One of `SPLITS` per row. A wanted share gets at least one group where there are groups enough.
    """
    if not len(ids):
        return []
    names = groups.cast(pl.String).fill_null(ids)
    key = keys(names, seed, "split")
    where = unit_noise(names, seed, "split")
    split = np.where(where < splits.test, "test", "train").astype("<U10")
    split[(where >= splits.test) & (where < splits.test + splits.validation)] = "validation"
    order = np.unique(key)
    for i, (name, share) in enumerate((("validation", splits.validation), ("test", splits.test))):
        if share > 0 and name not in split and len(order) > 2 + i:
            split[key == order[-1 - i]] = name  # the groups furthest from every threshold
    return split.tolist()


def _owned(picks: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All picks, best first within each selection, each row under the first selection that picked it."""
    parts = [
        p.sort("rank").select("id", "rank", "score", selection=pl.lit(name, dtype=pl.String))
        for name, p in picks.items()
    ]
    return pl.concat(parts).unique("id", keep="first", maintain_order=True)


def _weighted(owned: pl.DataFrame, spec: Mix) -> pl.DataFrame:
    """The longest prefix of each selection that keeps the weights."""
    assert spec.weights is not None
    size = pl.col("tokens").cast(pl.Int64) if spec.unit == "tokens" else pl.lit(1, dtype=pl.Int64)
    owned = owned.with_columns(size=size).with_columns(reach=pl.col("size").cum_sum().over("selection"))
    available = {name: int(owned.filter(pl.col("selection") == name)["reach"].max() or 0) for name in spec.weights}  # pyright: ignore[reportArgumentType]
    total = sum(spec.weights.values())
    shares = {name: w / total for name, w in spec.weights.items()}
    possible = min(available[name] / share for name, share in shares.items())
    budget = spec.budget_rows or spec.budget_tokens
    if budget and spec.unit != ("rows" if spec.budget_rows else "tokens"):
        raise InputError("mix.unit", "must be that of the mixture's budget", got=spec.unit)
    if budget and budget > possible + 1e-9:
        short = min(shares, key=lambda n: available[n] / shares[n])
        raise InputError(
            f"mix.budget_{spec.unit}",
            f"must be at most {int(possible):,} with these weights: selection {short!r} picked {available[short]:,}",
            got=budget,
            next_step=f"Raise the budget of selection {short!r}, or lower its weight",
        )
    quota = _quotas(shares, int(budget or possible))
    limit = pl.col("selection").replace_strict(quota, return_dtype=pl.Int64)
    return owned.filter(pl.col("reach") <= limit)


def _quotas(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion that add up to the total (largest remainders; ties to the earlier name)."""
    exact = {n: s * total for n, s in shares.items()}
    quota = {n: int(e + 1e-9) for n, e in exact.items()}
    for name in sorted(exact, key=lambda n: quota[n] - exact[n])[: total - sum(quota.values())]:
        quota[name] += 1
    return quota
