"""Perplexity: rows that a causal LM finds easy, hard, or neither. It knows no target."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import lm
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of


class Spec(lm.Spec):
    """Options of perplexity: those of the language model, and which rows are wanted."""

    prefer: Literal["low", "middle", "high"] = Field(
        default="middle",
        description="low: what the model finds likely, such as boilerplate; high: what surprises it, noise included; "
        "middle: rows around the pool's median.",
    )
    sample_rows: PositiveInt = Field(
        default=1000, description="Rows of the pool's sample that say what is usual; more place the middle better."
    )


class Perplexity:
    """score by the row's mean token loss, in nats: minus it, it, or minus its distance from the median in quantiles.

    Differs from the paper: the quantiles are those of a sample of the pool; a row is read up to `max_tokens`.
    """

    name: ClassVar[str] = "perplexity"
    source: ClassVar[str] = "Marion et al. 2023, When Less is More: Investigating Data Pruning, section 2.1"
    needs: ClassVar[Needs] = Needs(columns=("plain",), model=True)
    scale: ClassVar[Scale] = "rank"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Learn how losses are spread over the pool; target and reference play no part.

        Raises:
            InputError: the sample holds no token, or the model is unfit.
        """
        texts = rows_of(self.name, self.needs, sample, "sample")["plain"].to_list()[: spec.sample_rows]
        losses, judged = lm.open_model(spec).losses(texts)
        known = losses[judged > 0]
        if not len(known):
            raise InputError("selector 'perplexity'", "needs a sample with at least one token")
        low, middle, high = np.quantile(known, (0.05, 0.5, 0.95))
        facts = {
            "sample_rows": len(texts),
            "sample_tokens": int(judged.sum()),
            "loss_5_percent": round(float(low), 6),
            "loss_median": round(float(middle), 6),
            "loss_95_percent": round(float(high), 6),
        }
        return Fitted({"sample_loss": np.sort(known)}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, loss, quantile, tokens_judged`.

        `loss` is in nats per token (perplexity is its exponential), `quantile` the share of the sample below it. A row
        without a token to judge has neither, and scores below all of the sample.
        """
        rows = rows_of(self.name, self.needs, shard, "shard")
        losses, judged = lm.open_model(spec).losses(rows["plain"].to_list())
        sample = fitted.arrays["sample_loss"]
        unread = _preference(sample, sample, spec.prefer).min() - 1
        quantile = _quantile(losses, sample)
        return pl.DataFrame(
            {
                "id": rows["id"],
                "score": np.where(judged > 0, _preference(losses, sample, spec.prefer), unread),
                "loss": pl.Series(losses).fill_nan(None),
                "quantile": pl.Series(quantile).fill_nan(None),
                "tokens_judged": judged,
            }
        )


def _preference(loss: np.ndarray, sample: np.ndarray, prefer: str) -> np.ndarray:
    """f64[n], higher is preferred; NaN where the loss is.

    In the middle, what lies outside the sample's range comes after all of the sample, the farther the later.
    """
    if prefer != "middle":
        return loss if prefer == "high" else -loss
    outside = np.maximum(0, np.maximum(sample[0] - loss, loss - sample[-1]))
    return -(np.abs(_quantile(loss, sample) - 0.5) + outside)


def _quantile(loss: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """f64[n], share of a sorted sample below each loss, half of the equal ones counted; linear between its values."""
    values, counts = np.unique(sample, return_counts=True)
    return np.interp(loss, values, (np.cumsum(counts) - counts / 2) / len(sample))


SELECTOR = Perplexity()
