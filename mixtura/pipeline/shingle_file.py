"""Shingle sets on disk: exact similarities of pairs, and the rare shingles by which similar sets find each other."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from mixtura.pipeline.shingles import Shingles
from mixtura.pipeline.tokens import ranges

VERIFY = 1 << 21  # shingles compared at once: 16 MiB, twice over
COLUMNS = (1 << 63) - 1  # a column per 63-bit hash
COUNTERS = 22  # bits of a shingle's hash that count how common it is


class ShingleFile:
    """Shingle sets of the nodes that may have a duplicate, on disk: most rows have none, and sets outweigh text.

    Args:
        path: a new scratch file.
        n: nodes.
    """

    def __init__(self, path: Path, n: int) -> None:
        self.path, self.rare_path = path, path.with_name(f"{path.name}.rare")
        self.start = np.zeros(n, dtype=np.int64)
        self.size = np.zeros(n, dtype=np.int64)
        self._file = path.open("wb")
        self._end = 0
        self._rare: np.memmap | None = None
        self._map: np.ndarray = np.zeros(0, dtype=np.uint64)

    def add(self, nodes: np.ndarray, sets: Shingles) -> None:
        """Append the sets of i64[k] nodes, each sorted by hash."""
        self.start[nodes] = self._end + sets.offsets[:-1]
        self.size[nodes] = np.diff(sets.offsets)
        sets.hashes.tofile(self._file)
        self._end += len(sets.hashes)

    def finish(self) -> None:
        """No more sets; from now on they can be read."""
        self._file.close()
        if self._end:
            self._map = np.memmap(self.path, dtype=np.uint64, mode="r")

    def forget(self) -> None:
        """Give the pages that were read back to the system."""
        for pages in (self._map, self._rare):
            if isinstance(pages, np.memmap):
                pages._mmap.madvise(mmap.MADV_DONTNEED)  # pyright: ignore[reportAttributeAccessIssue]

    def remove(self) -> None:
        """Delete the scratch files."""
        self.path.unlink(missing_ok=True)
        self.rare_path.unlink(missing_ok=True)

    def jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Exact Jaccard similarity of pairs of nodes, up to hash collisions within a pair.

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
            last = max(int(np.searchsorted(work, done + VERIFY)), first + 1)
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
        rare_first = self._rare_first()
        size = self.size[nodes]
        size = size - np.ceil(t * size - 1e-9).astype(np.int64) + (size > 0)
        return np.repeat(nodes, size), rare_first[ranges(self.start[nodes], size)]

    def _rare_first(self) -> np.ndarray:
        """A copy of the sets with each sorted by how common its shingles are; counters that collide cost time only."""
        if self._rare is not None:
            return self._rare
        nodes = np.flatnonzero(self.size)
        nodes = nodes[np.argsort(self.start[nodes])]
        cuts = np.searchsorted(np.cumsum(self.size[nodes]), np.arange(VERIFY, self._end, VERIFY))
        parts = [(self.start[p[0]], self.size[p]) for p in np.split(nodes, cuts) if len(p)]
        common = np.zeros(1 << COUNTERS, dtype=np.uint32)
        for first, size in parts:
            np.add.at(common, _counter(self._map[first : first + size.sum()]), 1)
        self._rare = np.memmap(self.rare_path, dtype=np.uint64, mode="w+", shape=max(self._end, 1))
        for first, size in parts:
            hashes = np.array(self._map[first : first + size.sum()])
            owner = np.repeat(np.arange(len(size)), size)
            self._rare[first : first + len(hashes)] = hashes[np.lexsort((hashes, common[_counter(hashes)], owner))]
        return self._rare

    def _jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # sets are sorted, so scipy's product of sparse rows merges them in compiled code: 2 ns a shingle
        shared = csr_array(self._rows(a).multiply(self._rows(b)))
        common = np.diff(shared.indptr)
        union = self.size[a] + self.size[b] - common
        return np.divide(common, union, out=np.zeros(len(a)), where=union > 0)

    def _rows(self, nodes: np.ndarray) -> csr_array:
        size = self.size[nodes]
        columns = (self._map[ranges(self.start[nodes], size)] >> np.uint64(1)).astype(np.int64)
        row_start = np.concatenate(([0], np.cumsum(size)))
        return csr_array((np.ones(len(columns), dtype=np.int8), columns, row_start), shape=(len(nodes), COLUMNS))


def _counter(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - COUNTERS)).astype(np.int64)
