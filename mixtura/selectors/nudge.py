"""Nudge: rows that move the base model's training distribution toward the target (GOT-D).

One optimal-transport solve prices each target row: dear where what the model has already seen under-serves it. A pool
row's score is then its soft distance to the targets, less the price that they pay. Rows near common targets, of which
the model has plenty, rank below rows near rare ones; `nearest` cannot tell these apart.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import contract, cover, tables
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, pack_ids, rows_of, unpack_ids, vectors_of
from mixtura.pipeline.transport import Prices, median_cost, soft_distances, solve_prices
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
    max_iterations: PositiveInt = Field(5000, description="Of the solve, which raises where they do not suffice.")


class Nudge:
    """score = -f(x), f the dual potential of entropic transport from the reference to the target.

    Differs from the paper: the prices are solved on a sample of the reference and pool rows are scored out of sample,
    where the paper solves over the whole pool; the reference may be the model's true training data, where the paper
    lets the pool stand in; vectors have unit norm and eps is relative to the median cost.
    """

    name: ClassVar[str] = "nudge"
    source: ClassVar[str] = "Kang et al. 2024, Get more for less (GOT-D), theorem 1; arXiv:2405.02774"
    needs: ClassVar[Needs] = Needs(vectors=True, target=True)
    scale: ClassVar[Scale] = "rank"
    rules: ClassVar[tuple[str, ...]] = ("cover", "round_robin")
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Solve the prices once.

        Raises:
            InputError: there is no target, or the solve does not converge.
        """
        role, known = ("sample", sample) if reference is None else ("reference", reference)
        ids = rows_of(self.name, self.needs, target, "target")["id"]
        y = vectors_of(self.name, self.needs, target, "target")
        x = vectors_of(self.name, self.needs, known, role)[: spec.solve_rows]
        usual = median_cost(x, y)
        epsilon = spec.epsilon * usual
        prices = solve_prices(x, y, epsilon=epsilon, tolerance=spec.tolerance, max_iterations=spec.max_iterations)
        if not prices.marginal_error <= spec.tolerance:
            raise InputError(
                "selector 'nudge'",
                f"must bring its marginal error to {spec.tolerance:g} within {spec.max_iterations} iterations",
                got=f"{prices.marginal_error:.2g}",
                next_step="Raise its option epsilon",
            )
        facts = {
            "reference": "the pool's sample" if reference is None else "reference",
            "reference_rows": len(x),
            "target_rows": len(y),
            "median_cost": usual,
            "epsilon": epsilon,
            "iterations": prices.iterations,
            "marginal_error": prices.marginal_error,
            "best_paid_targets": _best_paid(prices, ids),
        }
        arrays = {
            "reference": x[: max(1, cover.COSTS // len(y))],  # for picks that cover; in order of id, which is a hash
            "target": y,
            "weight": np.full(len(y), 1 / len(y)),
            "price": prices.price,
            "target_id": pack_ids(ids),
        }
        return Fitted(arrays, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, nearest_target_id, share, price, distance, score_without_prices, targets, shares, costs`.

        The named target is the one that takes the largest `share` of the row, at its `price` (0 on average; higher
        where the reference lacks it) and squared `distance` (0 to 4). `score_without_prices` is what `nearest` gives.
        The lists name the few targets that a row serves, as positions of target rows, with share and squared distance.
        """
        x = vectors_of(self.name, self.needs, shard, "shard")
        price = fitted.arrays["price"]
        found = soft_distances(x, fitted.arrays["target"], price, epsilon=fitted.facts["epsilon"], keep=SERVED)
        assert found.targets is not None
        assert found.shares is not None
        assert found.costs is not None
        serves = found.targets >= 0
        return pl.DataFrame(
            {
                "id": shard.rows["id"],
                "score": -found.soft,
                "nearest_target_id": unpack_ids(fitted.arrays["target_id"]).gather(found.target),
                "share": found.share,
                "price": price[found.target],
                "distance": found.distance,
                "score_without_prices": -found.soft_unpriced,
                "targets": tables.ragged(found.targets, serves),
                "shares": tables.ragged(found.shares, serves),
                "costs": tables.ragged(found.costs, serves),
            }
        )


def _best_paid(prices: Prices, ids: pl.Series) -> list[dict[str, Any]]:
    """The targets that the reference serves worst."""
    worst = np.argsort(-prices.price, kind="stable")[:BEST_PAID]
    return [{"id": ids[int(j)], "price": float(prices.price[j])} for j in worst]


SELECTOR = Nudge()
