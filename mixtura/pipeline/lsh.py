"""Near-duplicate components: buckets of equal band hashes propose pairs, the exact Jaccard of shingle sets decides.

Nodes are numbered in the order in which a row would survive, so the survivor of a component is its smallest node and
nothing depends on how rows came. Memory holds one band at a time; shingle sets lie in a scratch file.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixtura.pipeline.shingles import Shingles

WHOLE = 64  # rows of a bucket up to which every pair is compared
VERIFY = 1 << 22  # shingles compared at once: 32 MiB, twice
PAIR_BITS = 24


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
            self._map = np.memmap(self.path, dtype=np.uint64, mode="r")

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

    def _jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nodes = np.concatenate((a, b))
        size = self.size[nodes]
        ends = np.cumsum(size)
        pair = np.repeat(np.tile(np.arange(len(a)), 2), size)
        at = np.arange(len(pair)) + np.repeat(self.start[nodes] - (ends - size), size)
        # pair in the high bits, hash in the low ones: after one sort, shared shingles stand beside each other
        keys = np.sort(pair.astype(np.uint64) << np.uint64(64 - PAIR_BITS) | self._map[at] >> np.uint64(PAIR_BITS))
        shared = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(64 - PAIR_BITS)
        common = np.bincount(shared.astype(np.int64), minlength=len(a))
        union = self.size[a] + self.size[b] - common
        return np.divide(common, union, out=np.zeros(len(a)), where=union > 0)


class Forest:
    """Components under merging; the root of each is its smallest node."""

    def __init__(self, n: int) -> None:
        self.parent = np.arange(n)

    def find(self, nodes: np.ndarray) -> np.ndarray:
        """i64[k], the root of each of i64[k] nodes."""
        roots = self.parent[nodes]
        while not np.array_equal(up := self.parent[roots], roots):
            roots = up
        self.parent[nodes] = roots
        return roots

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Merge the components of each pair."""
        a, b = self.find(a), self.find(b)
        names, at = np.unique(np.concatenate((a, b)), return_inverse=True)
        edges = coo_array((np.ones(len(a), dtype=bool), (at[: len(a)], at[len(a) :])), shape=(len(names), len(names)))
        _, component = connected_components(edges, directed=False)
        smallest = np.full(component.max(initial=-1) + 1, len(self.parent))
        np.minimum.at(smallest, component, names)
        self.parent[names] = smallest[component]


@dataclass
class Found:
    """Components, pairs compared, and pairs of crowded buckets that the limit left `unverified`."""

    forest: Forest
    compared: int = 0
    unverified: int = 0


def candidates(n: int, bands: int, band: Callable[[int], np.ndarray]) -> np.ndarray:
    """bool[n]: nodes that share a bucket with another in any band.

    Args:
        n: nodes.
        bands: number of bands.
        band: gives u64[n], the nodes' hashes in one band; 0 means no bucket.
    """
    some = np.zeros(n, dtype=bool)
    for b in range(bands):
        for members, start, end in _buckets(band(b), np.arange(n)):
            some[members[start[0] : end[-1]]] = True
    return some


def components(nodes: np.ndarray, bands: int, band: Callable[[int], np.ndarray], sets: ShingleFile, t: float) -> Found:
    """Connected components of the pairs that share a bucket and have Jaccard similarity of at least `t`.

    Args:
        nodes: i64[k], ascending: the candidates.
        bands: number of bands.
        band: see `candidates`.
        sets: shingle sets of the candidates.
        t: the threshold.
    """
    found = Found(Forest(len(sets.size)))
    for b in range(bands):
        for members, start, end in _buckets(band(b)[nodes], nodes):
            _compare(members, start, end, sets, t, found)
        sets.forget()
    return found


def _buckets(hashes: np.ndarray, nodes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Nodes sorted by hash, and where each bucket of two or more starts and ends; nothing where there is none."""
    order = np.argsort(hashes, kind="stable")  # stable: within a bucket nodes ascend
    ordered = hashes[order]
    start = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)])
    end = np.append(start[1:], len(ordered))[: len(start)]
    real = (end - start > 1) & (ordered[start] != 0)
    if real.any():
        size = (end - start)[real]
        inside = np.repeat(start[real] - (np.cumsum(size) - size), size) + np.arange(size.sum())
        yield nodes[order[inside]], np.cumsum(size) - size, np.cumsum(size)


def _compare(
    members: np.ndarray, start: np.ndarray, end: np.ndarray, sets: ShingleFile, t: float, found: Found
) -> None:
    """Compare round by round: in round r the r-th node of each bucket against all after it, unless joined already."""
    for r in range(WHOLE):
        open_ = end - start > r + 1
        if not open_.any():
            return
        start, end = start[open_], end[open_]
        size = end - start - r - 1
        a = np.repeat(members[start + r], size)
        b = members[np.repeat(start + r + 1 - (np.cumsum(size) - size), size) + np.arange(size.sum())]
        apart = found.forest.find(a) != found.forest.find(b)
        a, b = a[apart], b[apart]
        small, large = np.minimum(sets.size[a], sets.size[b]), np.maximum(sets.size[a], sets.size[b])
        possible = small >= t * large
        a, b = a[possible], b[possible]
        if len(a):
            found.compared += len(a)
            same = sets.jaccard(a, b) >= t
            found.forest.join(a[same], b[same])
    left = end - start - WHOLE
    found.unverified += int((left * (left - 1) // 2)[left > 0].sum())
