"""Picks that cover the target: as targets are served, they stop paying.

A first-order score spends the whole budget on the steepest direction, be it twenty rows of a target of four hundred.
Here the budget is spent in slices. After each, the picks so far join the reference, with a weight that grows to
`strength` as the budget is spent, and the prices are solved again: a target that is served loses its price, and the
next slice goes elsewhere. No row's vector is read: the few targets that it serves and what they cost, which the
scoring pass kept, say all that is needed.

Source: the objective is Kang et al. 2024 (GOT-D), lemma 1, at a finite mixing strength; serving it greedily is
partial Wasserstein covering (Kawano, Koide, Otaki 2022), whose greedy choice is within 0.63 of the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline.transport import solve_prices

SLICES = 20  # of the budget
ENOUGH = 1e-2  # marginal error at which a slice's prices are good enough
MOST = 2_000  # iterations of a slice
COSTS = 2_000_000  # numbers of the reference's costs: 2,000 reference rows for 1,000 targets
COLUMNS = ("targets", "costs")  # of a selector whose scores can be covered with
PENALTY = "penalty"  # part of the score that no price moves, where a selector gives one


@dataclass(frozen=True)
class Market:
    """Targets and the reference that serves them: all that the prices depend on.

    Attributes:
        reference: f32[n, d], unit L2 norm.
        target: f32[M, d], alike.
        weight: f64[M], of targets, summing to 1.
        price: f64[M], solved on the reference alone, in units of cost.
        epsilon: in units of cost.
        slack: see `transport.solve_prices`.
    """

    reference: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    price: np.ndarray
    epsilon: float
    slack: float | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Market | None:
        """From what a selector fitted, or None where it has no prices.

        Args:
            arrays: `reference` in any order, `target`, `price` and `weight`.
            facts: `epsilon`, and perhaps `slack`.
        """
        if not {"reference", "target", "price", "weight"} <= arrays.keys():
            return None
        known = arrays["reference"][: max(1, COSTS // len(arrays["target"]))]
        named = {name: arrays[name] for name in ("target", "weight", "price")}
        return cls(known, **named, epsilon=facts["epsilon"], slack=facts.get("slack"))


@dataclass(frozen=True)
class Served:
    """The targets that each candidate serves.

    Attributes:
        targets: i32[rows, k], -1 where there are no more.
        costs: f32[rows, k], to each; not read where the target is -1.
        soft: f64[rows], f(x) over all targets under the market's prices.
        penalty: f64[rows], what else a row costs, whatever the targets' prices; 0 without.
    """

    targets: np.ndarray
    costs: np.ndarray
    soft: np.ndarray
    penalty: np.ndarray | float = 0.0

    @classmethod
    def of(cls, scores: pl.DataFrame) -> Served:
        """From a selector's `score`, `targets`, `costs` and, where it gives one, `penalty`, part of the score."""
        width = max(int(scores["targets"].list.len().max() or 0), 1)  # type: ignore[arg-type]

        def padded(column: str, fill: float) -> np.ndarray:
            found = scores.select(
                pl.col(column).list.get(i, null_on_oob=True).fill_null(fill).alias(str(i)) for i in range(width)
            )
            return found.to_numpy()

        penalty = scores[PENALTY].to_numpy() if PENALTY in scores.columns else 0.0
        soft = -scores["score"].to_numpy() - penalty
        return cls(padded("targets", -1).astype(np.int32), padded("costs", 0.0), soft, penalty)


class Prices:
    """Prices under a reference that the picks have joined.

    Of a candidate's mass only what goes to its few targets is known target by target. Where they take a share k of it,
    the rest is taken to go k to their like and 1 - k to all targets alike: a row that is near few is near theirs.
    """

    def __init__(self, market: Market, served: Served) -> None:
        self.market, self.price, self.penalty = market, market.price, served.penalty
        self.targets = served.targets
        self.costs = np.where(served.targets >= 0, served.costs.astype(np.float64), np.inf)
        with np.errstate(divide="ignore"):
            self.log_weight = np.log(market.weight)  # -inf: a target of no weight takes no mass
            whole = -served.soft / market.epsilon
            known = np.logaddexp.reduce(self._logits(), axis=1)
            self.rest = whole + np.log1p(-np.exp(np.minimum(known - whole, 0.0)))  # log of the mass that goes elsewhere
        self.share = np.exp(self._logits() - whole[:, None])
        self.known = np.minimum(self.share.sum(1), 1.0)

    def soft_distance(self) -> np.ndarray:
        """f64[rows], f(x) of all candidates, with their penalties."""
        change = (self.price - self.market.price) / self.market.epsilon
        theirs = (self.share * change[self.targets]).sum(1)  # k times the mean of the few
        moved = theirs + (1.0 - self.known) * (self.market.weight @ change)
        mass = np.logaddexp(np.logaddexp.reduce(self._logits(), axis=1), self.rest + moved)
        return self.penalty - self.market.epsilon * mass

    def settle(self, rows: np.ndarray, weight: np.ndarray) -> None:
        """Solve the prices again, with picks as mass at the targets that they serve.

        Args:
            rows: i64[p], candidates picked so far.
            weight: f64[p], of each in the mixture; what is missing to 1 is the reference's.
        """
        market = self.market
        unknown = 1.0 - self.known[rows]
        targets, share = self.targets[rows], self.share[rows] * (weight * (1.0 + unknown))[:, None]
        served = np.bincount(targets[targets >= 0], share[targets >= 0], minlength=len(market.target))
        served += (weight @ unknown**2) * market.weight
        n = len(market.reference)
        solved = solve_prices(
            np.concatenate([market.reference, market.target]),
            market.target,
            np.concatenate([np.full(n, (1.0 - weight.sum()) / n), served]),
            market.weight,
            epsilon=market.epsilon,
            tolerance=ENOUGH,
            max_iterations=MOST,
            slack=market.slack,
        )
        self.price = solved.price

    def _logits(self) -> np.ndarray:
        return (self.price[self.targets] - self.costs) / self.market.epsilon + self.log_weight[self.targets]


def round_robin(scores: pl.DataFrame) -> np.ndarray:
    """Each target in turn takes the nearest row that is left, among those that have it in their list.

    Args:
        scores: `id, targets, costs`.

    Returns:
        i64[rows], all positions; rows that no target takes come last, by score.

    Source: Ivison et al. 2025 (RDS+), section 3; there each query ranks the whole pool.
    """
    at = scores.select(pl.int_range(pl.len()).alias("at"), "id", "score", "targets", "costs")
    bids = at.explode("targets", "costs").drop_nulls("targets").sort("costs", "id")
    # a row's turn is the first in which one of its targets reaches it; taken rows are passed over
    queues = {j: iter(rows) for j, rows in bids.group_by("targets").agg("at").sort("targets").iter_rows()}
    taken = np.zeros(scores.height, bool)
    order: list[int] = []
    while queues:
        for target, queue in list(queues.items()):
            row = next((r for r in queue if not taken[r]), None)
            if row is None:
                del queues[target]
                continue
            taken[row] = True
            order.append(row)
    rest = at.filter(~pl.Series(taken)).sort(["score", "id"], descending=[True, False])["at"].to_list()
    return np.array(order + rest, np.int64)
