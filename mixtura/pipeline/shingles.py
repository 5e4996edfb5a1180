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
from mixtura.pipeline.tokens import Pieces, split

PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: odd, so multiplying loses nothing
MINHASH_SEED = 1  # of the hash family, not of a run: signatures of all runs must be comparable


@dataclass(frozen=True)
class Shingles:
    """The shingle sets of n rows, one after the other.

    hashes: u64[m], within a row distinct and ascending.
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


def shingle_sets(rows: pl.DataFrame, ngram: int, pieces: Pieces | None = None) -> Shingles:
    """The shingle set of each row.

    Args:
        rows: columns `text`, `messages`, `chosen`, `rejected`, `tools`.
        ngram: pieces in a shingle.
        pieces: of `comparable_text(rows)`, where the caller has them already.

    Source: Broder 1997, On the resemblance and containment of documents. Differs: sets, not bags; see the module's
    docstring for short texts and tools.
    """
    pieces = split(comparable_text(rows)) if pieces is None else pieces
    owner, hashes = _windows(pieces, ngram)
    if (salted := rows["tools"].is_not_null().to_numpy()).any():
        salt = np.zeros(len(rows), dtype=np.uint64)
        salt[salted] = string_hashes(rows["tools"].drop_nulls())
        hashes = np.where(salted[owner], mix(hashes ^ salt[owner]), hashes)
    return _distinct(owner, hashes, len(rows))


def _windows(pieces: Pieces, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The row and the hash of every window of `ngram` pieces; of all pieces where there are fewer."""
    lengths = np.diff(pieces.offsets)
    counts = np.where(lengths > 0, np.maximum(lengths - ngram + 1, 1), 0)
    owner = np.repeat(np.arange(len(lengths)), counts)
    first = np.cumsum(counts) - counts
    start = np.arange(len(owner)) - np.repeat(first - pieces.offsets[:-1], counts)
    width = np.minimum(lengths, ngram)[owner]
    hashes = width.astype(np.uint64)
    for k in range(ngram):
        inside = width > k
        piece = pieces.hashes[np.where(inside, start + k, 0)] if len(owner) else hashes
        hashes = np.where(inside, mix(hashes * PRIME + piece), hashes)
    return owner, hashes


def _distinct(owner: np.ndarray, hashes: np.ndarray, n: int) -> Shingles:
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    new = np.ones(len(owner), dtype=bool)
    new[1:] = (owner[1:] != owner[:-1]) | (hashes[1:] != hashes[:-1])
    offsets = np.concatenate(([0], np.cumsum(np.bincount(owner[new], minlength=n)))).astype(np.int64)
    return Shingles(hashes[new], offsets)


def band_signatures(shingles: Shingles, *, bands: int, rows_per_band: int) -> np.ndarray:
    """One hash per LSH band: rows that agree in a band are candidates.

    Two rows of Jaccard similarity s agree in at least one band with probability 1 - (1 - s^rows_per_band)^bands.

    Returns:
        u64[n, bands]; a row without shingles has zeros, and is nobody's candidate.

    Source: Broder 1997 (MinHash); Indyk and Motwani 1998 (LSH). Differs: rensa's R-MinHash, after Dahlgaard et al.
    2017, Fast similarity sketching: one hash per shingle fills most of the signature.
    """
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.offsets.astype(np.uint64), bands * rows_per_band, MINHASH_SEED
    )
    minima = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(shingles), bands, rows_per_band)
    signature = np.broadcast_to(np.arange(bands, dtype=np.uint64), minima.shape[:2])  # bands never share a bucket
    for k in range(rows_per_band):
        signature = mix(signature * PRIME + minima[:, :, k])
    signature[np.diff(shingles.offsets) == 0] = 0
    return signature
