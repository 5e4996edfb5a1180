"""DSIR: importance weights of a row under hashed n-gram models of the target and of the pool.

The features are `pipeline.ngrams`; here they are weighed, and the two that say most of each row's score are named.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of
from mixtura.pipeline.ngrams import NAT, Ngrams, bucket_counts, log_ratio, ngrams, per_row
from mixtura.recipe import Positive

SHOWN = 60  # bytes of a word that the why-columns show


class Spec(contract.Spec):
    """Options of dsir."""

    buckets: Annotated[int, Field(ge=2, le=1 << 24)] = Field(
        10_000, description="Hash buckets; more keep more n-grams apart and need more target text."
    )
    pseudo_count: Positive = Field(1.0, description="Added to every bucket; higher trusts rare n-grams less.")
    length_normalise: bool = Field(
        True,
        description="Score the mean log weight of an n-gram. False is the paper's sum, whose size grows with length: "
        "rule 'top' then takes the longest rows that resemble the target.",
    )


class Dsir:
    """score = log p_target(row) - log p_pool(row), over its words and pairs of words, per n-gram by default.

    Differs from the paper's code: another hash; a pseudo-count per bucket instead of 1e-8 on each probability;
    every Han or kana character is a word; no shortest length (the recipe's `clean` has one); seeded noise, in `pick`.
    """

    name: ClassVar[str] = "dsir"
    source: ClassVar[str] = "Xie et al. 2023, Data Selection for Language Models via Importance Resampling, section 3"
    needs: ClassVar[Needs] = Needs(target=True, columns=("plain",))
    scale: ClassVar[Scale] = "log_weight"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Count n-grams of the target and of the pool's sample; the reference plays no part.

        Raises:
            InputError: there is no target, or it has no word.
        """
        wanted_rows = rows_of(self.name, self.needs, target, "target")
        pool_rows = rows_of(self.name, self.needs, sample, "sample")
        wanted, present = (bucket_counts(r["plain"], spec.buckets) for r in (wanted_rows, pool_rows))
        if not wanted.sum():
            raise InputError("selector 'dsir'", "needs a target with at least one word")
        ratio = log_ratio(wanted, present, spec.pseudo_count)
        p = (wanted + spec.pseudo_count) / (wanted.sum() + spec.pseudo_count * spec.buckets)
        facts = {
            "target_rows": wanted_rows.height,
            "target_ngrams": int(wanted.sum()),
            "pool_rows": pool_rows.height,
            "pool_ngrams": int(present.sum()),
            "kl_target_from_pool": round(float(p @ ratio) / NAT, 9),  # nats per n-gram: how much there is to gain
        }
        return Fitted({"log_ratio": ratio}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, log_weight, ngrams, most_like_target, least_like_target`.

        `log_weight` is the whole row's, in nats. A row without a word has log weight 0, and per n-gram the lowest
        there is. The last two columns are the n-grams of the largest and the smallest log ratio.
        """
        rows = rows_of(self.name, self.needs, shard, "shard")
        ratio = fitted.arrays["log_ratio"]
        parts = [_explained(piece, ratio) for piece in ngrams(rows["plain"], spec.buckets)]
        table = pl.concat([pl.DataFrame(schema=WHY), *parts])
        score = pl.col("log_weight")
        if spec.length_normalise:
            per_ngram = pl.col("log_weight") / pl.col("ngrams")
            score = pl.when(pl.col("ngrams") > 0).then(per_ngram).otherwise(float(ratio.min()) / NAT)
        return table.select(rows["id"], score.alias("score"), pl.all())


WHY = {"log_weight": pl.Float64, "ngrams": pl.Int32, "most_like_target": pl.String, "least_like_target": pl.String}


def _explained(n: Ngrams, ratio: np.ndarray) -> pl.DataFrame:
    """Log weight, count and the two extreme n-grams of each row."""
    word, pair = ratio[n.word], np.where(n.paired, ratio[n.pair], 0)
    weight, count = per_row(n, word, pair)
    return pl.DataFrame(
        {
            "log_weight": weight,
            "ngrams": count,
            "most_like_target": _extreme(n, word, pair, 1),
            "least_like_target": _extreme(n, word, pair, -1),
        },
        schema=WHY,
        strict=False,
    )


def _extreme(n: Ngrams, word: np.ndarray, pair: np.ndarray, sign: int) -> list[str | None]:
    """Each row's n-gram of the largest `sign * log ratio`, the first of equals; None for a row without a word."""
    least = np.iinfo(np.int64).min
    pair = np.where(n.paired, sign * pair, least)
    best = np.maximum(sign * word, pair)
    found: list[str | None] = [None] * (len(n.row_words) - 1)
    rows = np.flatnonzero(np.diff(n.row_words))
    if not len(rows):
        return found
    top = np.maximum.reduceat(best, n.row_words[rows])
    hits = np.flatnonzero(best == np.repeat(top, np.diff(n.row_words)[rows]))
    first = hits[np.searchsorted(hits, n.row_words[rows])]
    is_pair = sign * word[first] < best[first]
    raw = n.text.tobytes()
    for row, at, two in zip(rows.tolist(), first.tolist(), is_pair.tolist(), strict=True):
        pieces = [raw[n.starts[i] : min(n.ends[i], n.starts[i] + SHOWN)] for i in range(at, at + 1 + two)]
        found[row] = b" ".join(pieces).decode(errors="ignore").replace("\x01", "�")
    return found


SELECTOR = Dsir()
