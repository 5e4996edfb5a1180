"""Near-duplicate components: buckets of equal band hashes propose pairs, the exact Jaccard of shingle sets decides.

Nodes are numbered in the order in which a row would survive, so the survivor of a component is its smallest node and
nothing depends on how rows came. Memory holds one band at a time; shingle sets lie in a scratch file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mixtura.pipeline.shingle_file import ShingleFile
from mixtura.pipeline.tokens import ranges

WHOLE = 256  # nodes of a bucket up to which every pair is compared; a larger one is crowded
PER_NODE = 32  # comparisons per node of a band's crowded buckets, at most: cost stays linear in rows


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
        if not len(a):
            return
        a, b = self.find(a), self.find(b)
        names, at = np.unique(np.concatenate((a, b)), return_inverse=True)
        edges = coo_array((np.ones(len(a), dtype=bool), (at[: len(a)], at[len(a) :])), shape=(len(names), len(names)))
        _, component = connected_components(edges, directed=False)
        smallest = np.full(component.max(initial=-1) + 1, len(self.parent))
        np.minimum.at(smallest, component, names)
        self.parent[names] = smallest[component]


@dataclass
class Found:
    """Components, pairs compared, and pairs of crowded buckets left `unverified` by the limit (once per bucket).

    decided: per band done, u32[n]: the bucket of each node in which all pairs were compared; 0 where there was none.
        A pair that met in such a bucket is not compared again: rows of one template meet in many bands.
    """

    forest: Forest
    compared: int = 0
    unverified: int = 0
    decided: list[np.ndarray] = field(default_factory=list)

    def new(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """bool[k]: pairs that no earlier band decided."""
        fresh = np.ones(len(a), dtype=bool)
        for bucket in self.decided:
            mine = bucket[a]
            fresh &= (mine != bucket[b]) | (mine == 0)
        return fresh


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
            crowded = end - start > WHOLE
            _compare(members, start[~crowded], end[~crowded], sets, t, found)
            found.decided.append(_numbered(len(sets.size), members, start[~crowded], end[~crowded]))
            if crowded.any():
                _part_crowd(members, start[crowded], end[crowded], sets, t, found)
        sets.forget()
    return found


def _part_crowd(
    members: np.ndarray, start: np.ndarray, end: np.ndarray, sets: ShingleFile, t: float, found: Found
) -> None:
    """Buckets too large for all pairs: boilerplate, or rows of one template.

    Two rounds join what is all alike. Where more than one component is left, nodes are put together again by the rare
    shingles that two of them must share if they are near-duplicates.
    """
    limit = found.compared + PER_NODE * int((end - start).sum())
    _compare(members, start, end, sets, t, found, rounds=2)
    roots = found.forest.find(members)
    mixed = [(s, e) for s, e in zip(start, end, strict=True) if (roots[s:e] != roots[s]).any()]
    if not mixed:
        return
    crowd = np.unique(np.concatenate([members[s:e] for s, e in mixed]))
    owner, rare = sets.prefixes(crowd, t)
    for again, first, last in _buckets(rare, owner):
        _compare(again, first, last, sets, t, found, limit=limit)


def _buckets(hashes: np.ndarray, nodes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Nodes sorted by hash, and where each bucket of two or more starts and ends; nothing where there is none."""
    order = np.argsort(hashes, kind="stable")  # stable: within a bucket nodes ascend
    ordered = hashes[order]
    start = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)])
    end = np.append(start[1:], len(ordered))[: len(start)]
    real = (end - start > 1) & (ordered[start] != 0)
    if real.any():
        size = (end - start)[real]
        yield nodes[order[ranges(start[real], size)]], np.cumsum(size) - size, np.cumsum(size)


def _compare(
    members: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    sets: ShingleFile,
    t: float,
    found: Found,
    *,
    rounds: int = WHOLE,
    limit: int | None = None,
) -> None:
    """Compare round by round: in round r the r-th node of each bucket with all after it, unless joined already.

    Args:
        members: i64[m], nodes, ascending within a bucket.
        start: i64[k], first member of each bucket.
        end: i64[k], one past its last.
        sets: shingle sets.
        t: the threshold.
        found: updated.
        rounds: at most so many.
        limit: with it, stop once `found.compared` is there, and count what was left.
    """
    done = 0
    while done < rounds and (limit is None or found.compared < limit):
        open_ = end - start > done + 1
        start, end = start[open_], end[open_]
        if not len(start):
            return
        size = end - start - done - 1
        a, b = np.repeat(members[start + done], size), members[ranges(start + done + 1, size)]
        small, large = np.minimum(sets.size[a], sets.size[b]), np.maximum(sets.size[a], sets.size[b])
        ask = (found.forest.find(a) != found.forest.find(b)) & (small >= t * large)
        ask[ask] = found.new(a[ask], b[ask])
        a, b = np.divmod(np.unique(a[ask] * len(sets.size) + b[ask]), len(sets.size))
        if limit is not None and len(a) > limit - found.compared:
            found.unverified += len(a) - (limit - found.compared)
            a, b = a[: limit - found.compared], b[: limit - found.compared]
        found.compared += len(a)
        same = sets.jaccard(a, b) >= t
        found.forest.join(a[same], b[same])
        done += 1
    if limit is not None:
        found.unverified += _apart(found.forest.find(members), start + done, np.maximum(end, start + done))


def _numbered(n: int, members: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """u32[n]: the number of each node's bucket, from 1; 0 where it is in none."""
    size = end - start
    number = np.zeros(n, dtype=np.uint32)
    number[members[ranges(start, size)]] = np.repeat(np.arange(1, len(size) + 1, dtype=np.uint32), size)
    return number


def _apart(roots: np.ndarray, start: np.ndarray, end: np.ndarray) -> int:
    """Pairs of different components within buckets."""
    size = end - start
    bucket = np.repeat(np.arange(len(size)), size)
    root = roots[ranges(start, size)]
    _, joined = np.unique(np.stack((bucket, root)), axis=1, return_counts=True)
    return int((size * (size - 1) // 2).sum() - (joined * (joined - 1) // 2).sum())
