"""Shingles and MinHash signatures: what near-duplicates are compared by.

The shingles of a row are the hashes of every `ngram` pieces in a row of its text (see `tokens`). A text with fewer
pieces has one shingle, all of it: it equals only a text of the same pieces. A row with tools mixes them into every
shingle, so that rows which offer different tools never count as copies of each other, however alike their dialogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # a compiled module without stubs

from mixtura.pipeline.hashing import mix, string_hashes
from mixtura.pipeline.tokens import BASE, Pieces, split

MINHASH_SEED = 1  # of the hash family, not of a run: signatures of all runs must be comparable
SET_BITS = 48  # of a shingle's hash that sets keep, the high ones


@dataclass(frozen=True)
class Shingles:
    """The shingle sets of n rows, one after the other; n is at most 65,536.

    hashes: u64[m], of which the high `SET_BITS` bits are used, within a row distinct and ascending.
    offsets: i64[n + 1], row i owns hashes offsets[i] to offsets[i + 1].
    """

    hashes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def comparable_text(rows: pl.DataFrame) -> pl.Series:
    """All that a row teaches, in one string: its text, or its turns with their tool calls, both answers included.

    Args:
        rows: columns `text`, `messages`, `chosen`, `rejected`.

    Returns:
        String series, in row order, never null.
    """
    turns = [_turns(c) for c in ("messages", "chosen", "rejected")]
    return rows.select(pl.concat_str([pl.col("text").fill_null(""), *turns], separator="\n").alias("comparable"))[
        "comparable"
    ]


def _turns(column: str) -> pl.Expr:
    turn = pl.element().struct
    said = pl.concat_str([turn.field("content"), turn.field("tool_calls")], separator="\n", ignore_nulls=True)
    return pl.col(column).list.eval(said).list.join("\n").fill_null("")


def shingle_bags(rows: pl.DataFrame, ngram: int, pieces: Pieces | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of each row, repeats included: all that MinHash needs.

    Args:
        rows: n rows with columns `text`, `messages`, `chosen`, `rejected`, `tools`.
        ngram: pieces in a shingle.
        pieces: of `comparable_text(rows)`, where the caller has them already.

    Returns:
        i64[m], the row of each shingle, ascending, and u64[m], its hash.
    """
    pieces = split(comparable_text(rows)) if pieces is None else pieces
    owner, _, hashes = pieces.windows(ngram)
    lengths = np.diff(pieces.offsets)
    if (short := (lengths > 0) & (lengths < ngram)).any():
        texts = np.flatnonzero(short)
        whole = [np.array(pieces.of(lengths == k).windows(k)[2]) for k in range(1, ngram)]
        whole_owner = np.concatenate([np.flatnonzero(lengths == k) for k in range(1, ngram)])
        assert len(whole_owner) == len(texts)
        order = np.argsort(np.concatenate((owner, whole_owner)), kind="stable")
        owner = np.concatenate((owner, whole_owner))[order]
        hashes = np.concatenate((hashes, *whole))[order]
    if (with_tools := rows["tools"].is_not_null().to_numpy()).any():
        salt = np.zeros(len(rows), dtype=np.uint64)
        salt[with_tools] = string_hashes(rows["tools"].drop_nulls().str.strip_chars())
        hashes = np.where(with_tools[owner], mix(hashes ^ salt[owner]), hashes)
    return owner, hashes


def shingle_sets(rows: pl.DataFrame, ngram: int) -> Shingles:
    """The shingle set of each row; see `shingle_bags`.

    Source: Broder 1997, On the resemblance and containment of documents. Differs: see the module's docstring for
    short texts and tools.
    """
    owner, hashes = shingle_bags(rows, ngram)
    assert len(rows) <= 1 << 64 - SET_BITS
    # one sort of one number, the row above and the hash below, is four times as fast as a sort by two
    keys = np.unique(owner.astype(np.uint64) << np.uint64(SET_BITS) | hashes >> np.uint64(64 - SET_BITS))
    owner = (keys >> np.uint64(SET_BITS)).astype(np.int64)
    return Shingles(keys << np.uint64(64 - SET_BITS), _offsets(owner, len(rows)))


def _offsets(owner: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=n)))).astype(np.int64)


def band_signatures(owner: np.ndarray, hashes: np.ndarray, n: int, *, bands: int, rows_per_band: int) -> np.ndarray:
    """One hash per LSH band: rows that agree in a band are candidates.

    Two rows of Jaccard similarity s agree in at least one band with probability 1 - (1 - s^rows_per_band)^bands.

    Args:
        owner: i64[m], ascending: the row of each shingle.
        hashes: u64[m], its hash; repeats change nothing.
        n: rows.
        bands: hashes returned.
        rows_per_band: minima behind each of them.

    Returns:
        u64[n, bands]; a row without shingles has zeros, and is nobody's candidate.

    Source: Broder 1997 (MinHash); Indyk and Motwani 1998 (LSH). Differs: rensa's R-MinHash, after Dahlgaard et al.
    2017, Fast similarity sketching: one hash per shingle fills most of the signature.
    """
    offsets = _offsets(owner, n)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), bands * rows_per_band, MINHASH_SEED
    )
    minima = np.array(matrix.to_rows(), dtype=np.uint64).reshape(n, bands, rows_per_band)
    signature = np.broadcast_to(np.arange(bands, dtype=np.uint64), (n, bands))  # no two bands share a bucket
    for k in range(rows_per_band):
        signature = mix(signature * BASE + minima[:, :, k])
    signature[np.diff(offsets) == 0] = 0
    return signature
