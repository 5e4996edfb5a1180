"""Shingle sets on disk: exact similarities of pairs, and the rare shingles by which similar sets find each other."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from mixtura.pipeline.shingles import Shingles
from mixtura.pipeline.tokens import ranges

VERIFY = 1 << 22  # shingles compared at once: 32 MiB, and as much again to sort them
PAIR_BITS = 24
COUNTERS = 22  # bits of a shingle's hash that count how common it is


class ShingleFile:
    """Shingle sets of the nodes that may have a duplicate, on disk: most rows have none, and sets outweigh text.

    Args:
        path: a new scratch file.
        n: nodes.
    """

    def __init__(self, path: Path, n: int) -> None:
        self.path = path
        self.start = np.zeros(n, dtype=np.int64)
        self.size = np.zeros(n, dtype=np.int64)
        self._file = path.open("wb")
        self._end = 0
        self._rare_first = False
        self._map: np.ndarray = np.zeros(0, dtype=np.uint64)

    def add(self, nodes: np.ndarray, sets: Shingles) -> None:
        """Append the sets of i64[k] nodes."""
        self.start[nodes] = self._end + sets.offsets[:-1]
        self.size[nodes] = np.diff(sets.offsets)
        sets.hashes.tofile(self._file)
        self._end += len(sets.hashes)

    def finish(self) -> None:
        """No more sets; from now on they can be read."""
        self._file.close()
        if self._end:
            self._map = np.memmap(self.path, dtype=np.uint64, mode="r+")

    def forget(self) -> None:
        """Give the pages that were read back to the system."""
        if isinstance(self._map, np.memmap):
            self._map._mmap.madvise(mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue]

    def jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Exact Jaccard similarity of pairs of nodes, up to 40-bit hash collisions within a pair.

        Args:
            a: i64[k].
            b: i64[k].

        Returns:
            f64[k]; 0 where both sets are empty.
        """
        out = np.zeros(len(a))
        work = np.cumsum(self.size[a] + self.size[b])
        first = 0
        while first < len(a):
            done = work[first - 1] if first else 0
            last = min(max(int(np.searchsorted(work, done + VERIFY)), first + 1), first + (1 << PAIR_BITS))
            out[first:last] = self._jaccard(a[first:last], b[first:last])
            first = last
        return out

    def prefixes(self, nodes: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The rarest shingles of each node, so many that two nodes of Jaccard `t` must share one of them.

        If J(a, b) >= t then a and b share at least ceil(t |a|) shingles; hence of any |a| - ceil(t |a|) + 1 shingles
        that come first in one order common to all sets, one is shared. Rare shingles first makes few false pairs.

        Args:
            nodes: i64[k].
            t: the threshold.

        Returns:
            i64[m] the node and u64[m] the shingle, node by node.

        Source: Chaudhuri, Ganti, Kaushik 2006, A primitive operator for similarity joins; Bayardo, Ma, Srikant 2007.
        """
        self._put_rare_first()
        size = self.size[nodes]
        size = size - np.ceil(t * size - 1e-9).astype(np.int64) + (size > 0)
        return np.repeat(nodes, size), self._map[ranges(self.start[nodes], size)]

    def _put_rare_first(self) -> None:
        """Sort each set by how common its shingles are, once. Counters that collide cost time, never a pair."""
        if self._rare_first:
            return
        nodes = np.flatnonzero(self.size)
        nodes = nodes[np.argsort(self.start[nodes])]
        cuts = np.searchsorted(np.cumsum(self.size[nodes]), np.arange(VERIFY, self._end, VERIFY))
        parts = [(self.start[p[0]], self.size[p]) for p in np.split(nodes, cuts) if len(p)]
        common = np.zeros(1 << COUNTERS, dtype=np.uint32)
        for first, size in parts:
            np.add.at(common, _counter(self._map[first : first + size.sum()]), 1)
        for first, size in parts:
            hashes = self._map[first : first + size.sum()]
            owner = np.repeat(np.arange(len(size)), size)
            hashes[:] = hashes[np.lexsort((hashes, common[_counter(hashes)], owner))]
        self._rare_first = True

    def _jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nodes = np.concatenate((a, b))
        size = self.size[nodes]
        pair = np.repeat(np.tile(np.arange(len(a)), 2), size)
        hashes = self._map[ranges(self.start[nodes], size)]
        # pair in the high bits, hash in the low ones: after one sort, shared shingles stand beside each other
        keys = np.sort(pair.astype(np.uint64) << np.uint64(64 - PAIR_BITS) | hashes >> np.uint64(PAIR_BITS))
        shared = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(64 - PAIR_BITS)
        common = np.bincount(shared.astype(np.int64), minlength=len(a))
        union = self.size[a] + self.size[b] - common
        return np.divide(common, union, out=np.zeros(len(a)), where=union > 0)


def _counter(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - COUNTERS)).astype(np.int64)
