"""Choices by hash: keyed by row id and seed, so that they do not depend on how the rows were cut or ordered."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl


def keys(ids: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """Uniform 64-bit keys of rows.

    Args:
        ids: 32 hex digits each (`rows.content_id`).
        seed: the recipe's seed.
        purpose: a word; two purposes give independent keys from one seed.

    Returns:
        u64[n], in the order of ids; equal ids have equal keys.
    """
    salt = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest())
    raw = ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64, strict=True).to_numpy()
    return _mix64(raw ^ np.uint64(salt))


def group_keys(groups: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """As `keys`, for names of any kind: u64[n]."""
    distinct = groups.unique()
    salt = f"{seed}/{purpose}/"
    hashed = [
        int.from_bytes(hashlib.blake2b((salt + g).encode("utf-8", "surrogatepass"), digest_size=8).digest())
        for g in distinct
    ]
    table = pl.DataFrame({"group": distinct, "key": pl.Series(hashed, dtype=pl.UInt64)})
    return pl.DataFrame({"group": groups}).join(table, on="group", how="left", maintain_order="left")["key"].to_numpy()


def unit(key: np.ndarray) -> np.ndarray:
    """Keys as numbers in [0, 1): f64[n]."""
    return (key >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix64(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
