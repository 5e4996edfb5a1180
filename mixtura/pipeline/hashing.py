"""Hashes of strings and of pieces of text, a whole shard at a time: the same on every machine and in every version.

A piece is hashed by its polynomial modulo 2^64, read off a running sum, so a million words cost a few passes over
their bytes and no Python string is made. The sums are of integers, hence exact: a piece's hash does not depend on
where in the buffer it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import polars as pl

BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
CHUNK = 1 << 19  # bytes hashed at a time: running sum and powers stay in the cache


def mix(h: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of u64[n] in moves every bit out."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def piece_hashes(buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hash of `buffer[start:end]` for every piece.

    Args:
        buffer: u8[n], text as UTF-8.
        starts: i64[k], first byte of each piece.
        ends: i64[k], one past its last byte.

    Returns:
        u64[k], mixed: any bits of it may be used.
    """
    powers, inverses = _powers(1 << max(12, len(buffer).bit_length()))
    sums = np.zeros(len(buffer) + 1, np.uint64)
    np.cumsum((buffer.astype(np.uint64) + np.uint64(1)) * powers[: len(buffer)], out=sums[1:])  # +1: NUL counts too
    return mix((sums[ends] - sums[starts]) * inverses[starts])


def string_hashes(strings: pl.Series) -> np.ndarray:
    """u64[n], a hash of each string; a null is an empty one."""
    parts = [piece_hashes(b, offsets[:-1], offsets[1:]) for b, offsets in buffers(strings)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def keys(names: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """u64[n], uniform, one key per name: it does not depend on order, shard or neighbours.

    Args:
        names: row ids, or names of groups; equal names have equal keys.
        seed: another seed gives independent keys.
        purpose: a word; another word gives independent keys.
    """
    salt = string_hashes(pl.Series([f"{purpose} {seed}"]))
    return mix(string_hashes(names) ^ salt)


def unit_noise(names: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """`keys` as f64[n] in the open interval (0, 1)."""
    bits = keys(names, seed, purpose) >> np.uint64(12)  # 52 bits: with the half below, never 0 nor 1
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def buffers(strings: pl.Series) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a string column into byte buffers of about `CHUNK`, whole rows each.

    Yields:
        u8[n] bytes and i64[rows + 1] offsets into them.
    """
    arrow = strings.fill_null("").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, where, what = arrow.buffers()
    offsets = np.frombuffer(where, np.int64)[arrow.offset : arrow.offset + len(arrow) + 1]
    data = np.frombuffer(what, np.uint8) if what is not None else np.zeros(0, np.uint8)
    row = 0
    while row < len(arrow):
        end = max(row + 1, int(np.searchsorted(offsets, offsets[row] + CHUNK, side="right")) - 1)
        yield data[offsets[row] : offsets[end]], offsets[row : end + 1] - offsets[row]
        row = end


@lru_cache(maxsize=4)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^k and BASE^-k modulo 2^64, u64[n] each."""
    return tuple(np.cumprod(np.r_[np.uint64(1), np.full(n - 1, b, np.uint64)]) for b in (BASE, pow(BASE, -1, 1 << 64)))
