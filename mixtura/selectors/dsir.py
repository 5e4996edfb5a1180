"""DSIR: importance weights of a row under hashed n-gram models of the target and of the pool.

Words and punctuation are found, hashed and weighed as arrays over a shard's bytes; no n-gram is ever made as a string,
but the two per row that explain its score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of
from mixtura.pipeline.hashing import buffers, mix, piece_hashes
from mixtura.recipe import Positive

NAT = float(1 << 32)  # log ratios are stored as integers of 2^-32 nats: their sums are exact in any order
SPACE, WORD, MARK = 0, 1, 2
SHOWN = 60  # bytes of a word that the why-columns show

CLASS = np.full(256, MARK, np.uint8)
CLASS[[9, 10, 11, 12, 13, 32]] = SPACE
CLASS[[c for c in range(256) if c >= 128 or chr(c).isalnum() or c == ord("_")]] = WORD


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
        p, q = ((c + spec.pseudo_count) / (c.sum() + spec.pseudo_count * spec.buckets) for c in (wanted, present))
        ratio = np.log(p) - np.log(q)
        facts = {
            "target_rows": wanted_rows.height,
            "target_ngrams": int(wanted.sum()),
            "pool_rows": pool_rows.height,
            "pool_ngrams": int(present.sum()),
            "kl_target_from_pool": round(float(p @ ratio), 9),  # nats per n-gram: how much there is to gain
        }
        return Fitted({"log_ratio": np.rint(ratio * NAT).astype(np.int64)}, facts)

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


@dataclass(frozen=True)
class Ngrams:
    """Words of some rows, in order, and the pair that starts at each.

    Attributes:
        text: u8[n], the rows' bytes, lower case.
        starts: i64[k], first byte of each word.
        ends: i64[k], one past its last.
        row_words: i64[rows + 1], where in the words each row begins.
        word: i64[k], bucket of each word.
        pair: i64[k], bucket of the word and the next one.
        paired: bool[k], False for the last word of a row, whose `pair` means nothing.
    """

    text: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    row_words: np.ndarray
    word: np.ndarray
    pair: np.ndarray
    paired: np.ndarray


def ngrams(texts: pl.Series, buckets: int):
    """Words and pairs of words of each row, some rows at a time.

    A word is a run of word characters, or of marks (neither word character nor white space), of the text in lower
    case: `WordPunctTokenizer` of NLTK, which the paper's code uses. All marks beyond ASCII count as one mark.

    Yields:
        `Ngrams`, covering all rows in order.
    """
    for text, offsets in buffers(_plain_words(texts)):
        kind = CLASS[text]
        before, after = np.zeros(len(text), np.uint8), np.zeros(len(text), np.uint8)
        before[1:], after[:-1] = kind[:-1], kind[1:]
        inner = offsets[(offsets > 0) & (offsets < len(text))]
        before[inner], after[inner - 1] = SPACE, SPACE
        starts = np.flatnonzero((kind != before) & (kind != SPACE))
        ends = np.flatnonzero((kind != after) & (kind != SPACE)) + 1
        row_words = np.searchsorted(starts, offsets)
        hashes = piece_hashes(text, starts, ends)
        pairs = mix(hashes * np.uint64(0xD6E8FEB86659FD93) + np.roll(hashes, -1))
        paired = np.ones(len(starts), bool)
        paired[row_words[1:][row_words[1:] > row_words[:-1]] - 1] = False
        yield Ngrams(text, starts, ends, row_words, _bucket(hashes, buckets), _bucket(pairs, buckets), paired)


def bucket_counts(texts: pl.Series, buckets: int) -> np.ndarray:
    """f64[buckets], n-grams of all texts in each bucket."""
    counts = np.zeros(buckets)
    for n in ngrams(texts, buckets):
        counts += np.bincount(n.word, minlength=buckets) + np.bincount(n.pair[n.paired], minlength=buckets)
    return counts


def _plain_words(texts: pl.Series) -> pl.Series:
    """Lower case, such that a byte tells its class: white space and marks become ASCII; Han and kana stand apart."""
    foreign = pl.col("t").str.contains(r"[^\x00-\x7F]")
    simple = (
        pl.col("t")
        .str.replace_all(r"[\s&&[^\x00-\x7F]]", " ")
        .str.replace_all(r"[^\w\s\x00-\x7F]", "\x01")
        .str.replace_all(r"([\p{Han}\p{Hiragana}\p{Katakana}])", " $1 ")
    )
    lower = texts.fill_null("").str.to_lowercase().alias("t").to_frame()
    return lower.select(pl.when(foreign).then(simple).otherwise(pl.col("t")))["t"]


def _bucket(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """The top 32 bits, scaled: Lemire 2019, a division-free stand-in for the remainder."""
    return (((hashes >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


def _explained(n: Ngrams, ratio: np.ndarray) -> pl.DataFrame:
    """Log weight, count and the two extreme n-grams of each row."""
    word, pair = ratio[n.word], np.where(n.paired, ratio[n.pair], 0)
    total = np.concatenate([[0], np.cumsum(word + pair)])[n.row_words]
    words = np.diff(n.row_words)
    return pl.DataFrame(
        {
            "log_weight": np.diff(total) / NAT,
            "ngrams": 2 * words - (words > 0),
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
