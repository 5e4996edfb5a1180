"""Nudge: rows that move the base model's training distribution toward the target (GOT-D).

One optimal-transport solve prices each target row: dear where what the model has already seen under-serves it. A pool
row's score is then its soft distance to the targets, less the price that they pay. Rows near common targets, of which
the model has plenty, rank below rows near rare ones; `nearest` cannot tell these apart.

A vector says what a row is about and forgets how it is worded; n-gram weights (`dsir`) know that and nothing else. The
score is of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import contract, cover, tables
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, pack_ids, rows_of, unpack_ids, vectors_of
from mixtura.pipeline.phrasing import PART, Phrasing
from mixtura.pipeline.transport import Prices, SoftDistances, median_cost, soft_distances, solve_prices
from mixtura.recipe import Positive

BEST_PAID = 5  # targets that the facts name
SERVED = 8  # targets that a row's scores name


class Spec(contract.Spec):
    """Options of nudge."""

    epsilon: Positive = Field(
        0.1,
        description="Entropy, in units of the median cost of reference and target: lower follows single targets more "
        "closely and takes more iterations, higher blurs targets together.",
    )
    solve_rows: PositiveInt = Field(
        20_000,
        description="Reference rows in the solve; 10 to 30 per target row give nine tenths of the full solve's top "
        "picks or more. Memory: 8 bytes times these times the target rows.",
    )
    tolerance: Annotated[float, Field(gt=0, lt=0.1)] = Field(
        1e-3, description="Share of the mass that may arrive at a wrong target when the solve stops."
    )
    slack: Positive | None = Field(
        None,
        description="For noisy targets, in units of the median cost: a target may be left short at this price; lower "
        "lets strays pay less. None serves every target in full.",
    )
    task_weights: dict[str, Positive] | Literal["equal"] | None = Field(
        None,
        description="Several targets at once: weight of each task's rows together, or 'equal'; a task is what the "
        "target rows' column task says. None weighs every row alike.",
    )
    row_weight: str | None = Field(
        None, description="A number in the target rows' other columns (meta) that weighs each row."
    )
    phrasing: Annotated[float, Field(ge=0, le=10)] = Field(
        1.0,
        description="What a row's phrasing counts (log weights of its n-grams, as in dsir, beside those of the target "
        "rows that it serves) where its vector counts 1, both in standard deviations of the pool's sample. 0 is the "
        "paper's score, as under rule 'got-d'; choose it where target and pool differ in language.",
    )
    avoid_weight: Positive = Field(
        0.5,
        description="Where the recipe has rows to avoid: what moving away from them counts, where moving toward the "
        "target counts 1; higher loses target rows that are like them.",
    )
    max_iterations: PositiveInt = Field(5000, description="Of the solve, which raises where they do not suffice.")


class Nudge:
    """score = -f(x), f the dual potential of entropic transport from the reference to the target.

    With rows to avoid, score = -f(x) + w f'(x), f' the potential of transport to them: the steepest descent of the
    distance to the target less w times the distance to what is avoided. The paper has no such term.

    With `phrasing` of w', score = -f(x) + w' sd(f) / sd(l) (l(x) - mean(l)), l how much more the row is worded like the
    target than the part of it that it serves (`pipeline.phrasing`); means and standard deviations are over the pool's
    sample. The paper has none of it.

    Differs from the paper: the prices are solved on a sample of the reference and pool rows are scored out of sample,
    where the paper solves over the whole pool; the reference may be the model's true training data, where the paper
    lets the pool stand in; vectors have unit norm and eps is relative to the median cost.
    """

    name: ClassVar[str] = "nudge"
    source: ClassVar[str] = "Kang et al. 2024, Get more for less (GOT-D), theorem 1; arXiv:2405.02774"
    needs: ClassVar[Needs] = Needs(
        vectors=True, target=True, columns=("plain",), target_columns=("task", "meta"), avoid=True
    )
    scale: ClassVar[Scale] = "rank"
    rules: ClassVar[tuple[str, ...]] = ("cover", "round_robin", "got-d")
    as_published: ClassVar[dict[str, Any]] = {"phrasing": 0.0}  # the options of rule 'got-d'
    Spec: type[Spec] = Spec

    def fit(
        self,
        spec: Spec,
        *,
        sample: Shard,
        target: Shard | None,
        reference: Shard | None,
        seed: int,
        avoid: Shard | None = None,
    ) -> Fitted:
        """Solve the prices once, and once more for rows to avoid.

        Raises:
            InputError: there is no target, or the solve does not converge.
        """
        role, known = ("sample", sample) if reference is None else ("reference", reference)
        rows = rows_of(self.name, self.needs.of_target, target, "target")
        ids, weight = rows["id"], target_weights(rows, spec)
        y = vectors_of(self.name, self.needs, target, "target")
        x = vectors_of(self.name, self.needs, known, role)[: spec.solve_rows]
        usual = median_cost(x, y)
        epsilon = spec.epsilon * usual
        slack = None if spec.slack is None else spec.slack * usual
        prices = _solved(spec, x, y, weight, epsilon, slack)
        facts = {
            "reference": "the pool's sample" if reference is None else "reference",
            "reference_rows": len(x),
            "target_rows": len(y),
            "median_cost": usual,
            "epsilon": epsilon,
            "iterations": prices.iterations,
            "marginal_error": prices.marginal_error,
            **({} if slack is None else {"slack": slack}),
            **({} if rows["task"].n_unique() < 2 else {"tasks": _by_task(rows["task"], weight)}),
            "best_paid_targets": _best_paid(prices, ids),
        }
        arrays = {
            "reference": x[: max(1, cover.COSTS // len(y))],  # for picks that cover; in order of id, which is a hash
            "target": y,
            "weight": weight,
            "price": prices.price,
            "target_id": pack_ids(ids),
        }
        if spec.phrasing and (phrasing := _phrasing(arrays, facts, sample, rows["plain"])):
            arrays, facts = arrays | phrasing.arrays, facts | phrasing.facts
        if avoid is not None:
            away = vectors_of(self.name, self.needs, avoid, "sample of rows to avoid")
            theirs = _solved(spec, x, away, None, epsilon, slack)
            arrays |= {"avoid": away, "avoid_price": theirs.price}
            facts |= {"avoid_rows": len(away), "avoid_marginal_error": theirs.marginal_error}
        return Fitted(arrays, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, nearest_target_id, share, price, distance, score_without_prices, targets, shares, costs`.

        The named target is the one that takes the largest `share` of the row, at its `price` (0 on average; higher
        where the reference lacks it) and squared `distance` (0 to 4). `score_without_prices` is what `nearest` gives.
        The lists name the few targets that a row serves, as positions of target rows, with share and squared distance.
        Where phrasing counts there is `phrasing`, nats per n-gram, higher for a row worded more like the target rows
        that it serves; there, or with rows to avoid, there is `penalty`, what the score is less for both.
        """
        x = vectors_of(self.name, self.needs, shard, "shard")
        price = fitted.arrays["price"]
        found = _served(fitted.arrays, fitted.facts, x)
        assert found.targets is not None
        assert found.shares is not None
        assert found.costs is not None
        serves = found.targets >= 0
        beside = _beside(spec, fitted, shard, found)
        return pl.DataFrame(
            {
                "id": shard.rows["id"],
                "score": -found.soft - beside.get(cover.PENALTY, 0.0),
                "nearest_target_id": unpack_ids(fitted.arrays["target_id"]).gather(found.target),
                "share": found.share,
                "price": price[found.target],
                "distance": found.distance,
                "score_without_prices": -found.soft_unpriced,
                "targets": tables.ragged(found.targets, serves),
                "shares": tables.ragged(found.shares, serves),
                "costs": tables.ragged(found.costs, serves),
                **beside,
            }
        )


def _solved(
    spec: Spec, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, epsilon: float, slack: float | None
) -> Prices:
    """Prices of y.

    Raises:
        InputError: the solve does not converge.
    """
    limits = {"tolerance": spec.tolerance, "max_iterations": spec.max_iterations}
    prices = solve_prices(x, y, None, weight, epsilon=epsilon, slack=slack, **limits)
    if not prices.marginal_error <= spec.tolerance:
        raise InputError(
            "selector 'nudge'",
            f"must bring its marginal error to {spec.tolerance:g} within {spec.max_iterations} iterations",
            got=f"{prices.marginal_error:.2g}",
            next_step="Raise its option epsilon",
        )
    return prices


def _served(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], x: np.ndarray) -> SoftDistances:
    """Soft distances of x under the prices, and the few targets that each row serves."""
    return soft_distances(
        x, arrays["target"], arrays["price"], epsilon=facts["epsilon"], b=arrays["weight"], keep=SERVED
    )


def _phrasing(
    arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], pool: Shard, target: pl.Series
) -> Phrasing | None:
    """What the phrasing of rows tells beside their vectors, if anything."""
    assert pool.vectors is not None
    served = _served(arrays, facts, pool.vectors)
    return Phrasing.fit(
        target=target,
        vectors=arrays["target"],
        width=PART * facts["median_cost"],
        pool=pool.rows["plain"],
        served=served,
    )


def _beside(spec: Spec, fitted: Fitted, shard: Shard, found: SoftDistances) -> dict[str, np.ndarray]:
    """What rows cost beside their distance, f64[n] each: `penalty`, and the `phrasing` in it, where there are such."""
    arrays, facts = fitted.arrays, fitted.facts
    columns: dict[str, np.ndarray] = {}
    costs = []
    if phrasing := Phrasing.of(arrays, facts):
        columns["phrasing"] = phrasing.beyond(shard.rows["plain"], found)
        costs.append(spec.phrasing * phrasing.cost(columns["phrasing"]))
    if "avoid" in arrays:
        assert shard.vectors is not None
        away = soft_distances(shard.vectors, arrays["avoid"], arrays["avoid_price"], epsilon=facts["epsilon"])
        costs.append(-spec.avoid_weight * away.soft)
    return columns | {cover.PENALTY: np.sum(costs, axis=0)} if costs else {}


def target_weights(rows: pl.DataFrame, spec: Spec) -> np.ndarray:
    """f64[M], of each target row, summing to 1.

    Args:
        rows: `id, task, meta` of the target.
        spec: `row_weight` and `task_weights`; with both, rows share their task's weight in proportion.

    Raises:
        InputError: a row has no such number, or a negative one; a task has no weight, or a weight no task.
    """
    weight = np.ones(rows.height)
    if spec.row_weight is not None:
        pattern = f"$['{spec.row_weight}']"
        found = rows["meta"].str.json_path_match(pattern).cast(pl.Float64, strict=False)
        if not (found.is_finite() & (found >= 0)).fill_null(False).all() or not found.sum():
            bad = rows["id"][int((~(found.is_finite() & (found >= 0)).fill_null(False)).arg_max() or 0)]
            need = f"must name a number of 0 or more in every target row's meta; {spec.row_weight!r} is none"
            raise InputError("selector 'nudge' option row_weight", need, got=f"row {bad}")
        weight = found.to_numpy()
    if spec.task_weights is not None:
        tasks = rows["task"].fill_null("")
        wanted = dict.fromkeys(tasks.unique(), 1.0) if spec.task_weights == "equal" else spec.task_weights
        if set(wanted) != set(tasks):
            need = f"must weigh every task of the target and no other: {sorted(set(tasks))}"
            raise InputError("selector 'nudge' option task_weights", need, got=sorted(wanted))
        total = pl.DataFrame({"t": tasks, "w": weight}).select(pl.col("w").sum().over("t"))["w"].to_numpy()
        share = tasks.replace_strict(wanted, return_dtype=pl.Float64).to_numpy()
        weight = np.divide(weight * share, total, out=np.zeros_like(weight), where=total > 0)
    return weight / weight.sum()


def _by_task(tasks: pl.Series, weight: np.ndarray) -> dict[str, float]:
    """Weight of each task."""
    by = pl.DataFrame({"task": tasks.fill_null(""), "weight": weight}).group_by("task").agg(pl.col("weight").sum())
    return {t: round(w, 6) for t, w in by.sort("task").iter_rows()}


def _best_paid(prices: Prices, ids: pl.Series) -> list[dict[str, Any]]:
    """The targets that the reference serves worst."""
    worst = np.argsort(-prices.price, kind="stable")[:BEST_PAID]
    return [{"id": ids[int(j)], "price": float(prices.price[j])} for j in worst]


SELECTOR = Nudge()
