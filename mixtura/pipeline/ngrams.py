"""Words and pairs of words of texts in hash buckets, and how much likelier they are in one text than in another.

Words and punctuation are found, hashed and weighed as arrays over a shard's bytes; no n-gram is ever made as a string.

Source: Xie et al. 2023 (DSIR), section 3: hashed n-gram features. Differs: another hash; a pseudo-count per bucket
instead of 1e-8 on each probability; every Han or kana character is a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from mixtura.pipeline.hashing import buffers, mix, piece_hashes

NAT = float(1 << 32)  # log ratios are stored as integers of 2^-32 nats: their sums are exact in any order
SPACE, WORD, MARK = 0, 1, 2

CLASS = np.full(256, MARK, np.uint8)
CLASS[[9, 10, 11, 12, 13, 32]] = SPACE
CLASS[[c for c in range(256) if c >= 128 or chr(c).isalnum() or c == ord("_")]] = WORD


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


def ngrams(texts: pl.Series, buckets: int) -> Iterator[Ngrams]:
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


def log_ratio(wanted: np.ndarray, present: np.ndarray, pseudo_count: float) -> np.ndarray:
    """Log of how much likelier an n-gram of each bucket is among the wanted, i64[buckets] in units of 1 / NAT nats.

    Args:
        wanted: f64[buckets], counts in the target.
        present: f64[buckets], counts in what it is compared with.
        pseudo_count: added to every bucket of both.
    """
    p, q = ((c + pseudo_count) / (c.sum() + pseudo_count * len(c)) for c in (wanted, present))
    return np.rint((np.log(p) - np.log(q)) * NAT).astype(np.int64)


def per_row(n: Ngrams, word: np.ndarray, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log weight and number of n-grams of each row.

    Args:
        n: of the rows.
        word: i64[k], log ratio of each word.
        pair: i64[k], of the pair that starts at it; 0 where there is none.

    Returns:
        f64[rows] in nats, i64[rows].
    """
    total = np.concatenate([[0], np.cumsum(word + pair)])[n.row_words]
    words = np.diff(n.row_words)
    return np.diff(total) / NAT, 2 * words - (words > 0)


def log_weights(texts: pl.Series, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nats of each text's n-grams in all, f64[rows], and how many there are, i64[rows].

    Args:
        texts: of the rows.
        ratio: i64[buckets], of `log_ratio`.
    """
    found = [(np.zeros(0), np.zeros(0, np.int64))]
    found += [per_row(n, ratio[n.word], np.where(n.paired, ratio[n.pair], 0)) for n in ngrams(texts, len(ratio))]
    weight, count = (np.concatenate(x) for x in zip(*found, strict=True))
    return weight, count


def held_out_log_weights(texts: pl.Series, present: np.ndarray, pseudo_count: float) -> np.ndarray:
    """f64[rows], nats per n-gram of each wanted text were it not among the wanted; 0 without a word.

    Args:
        texts: all that is wanted.
        present: see `log_ratio`.
        pseudo_count: likewise.
    """
    buckets = len(present)
    wanted = bucket_counts(texts, buckets)
    known = np.log((present + pseudo_count) / (present.sum() + pseudo_count * buckets))
    total = wanted.sum() + pseudo_count * buckets
    found = [np.zeros(0)]
    for n in ngrams(texts, buckets):
        rows = len(n.row_words) - 1
        row = np.repeat(np.arange(rows), np.diff(n.row_words))
        at = np.concatenate([row * buckets + n.word, (row * buckets + n.pair)[n.paired]])
        at, times = np.unique(at, return_counts=True)
        row, bucket = np.divmod(at, buckets)
        count = np.bincount(row, times, minlength=rows)
        others = np.log((wanted[bucket] - times + pseudo_count) / (total - count[row])) - known[bucket]
        found.append(np.bincount(row, times * others, minlength=rows) / np.maximum(count, 1))
    return np.concatenate(found)
