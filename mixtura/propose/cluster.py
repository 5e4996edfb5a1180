"""The corpus in as many clusters as it has kinds of request.

Two views of each row by one encoder, of the request's form and of the whole request; fine clusters by faiss k-means,
merged by Ward's tree; then k-means once more from each cut, as a merge cannot move a single row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mixtura.errors import InputError
from mixtura.pipeline.hashing import mix
from mixtura.propose import form, kmeans, tree

CONTENT = 0.5  # weight of the whole request beside its form: 0 loses tasks without stock words, 1 splits by topic
FINE = 512  # the most fine clusters; the tree is quadratic in them
FINE_ROWS = 15  # rows of a fine cluster, on average, at least
JUDGED = 5_000  # rows that judge the cuts; 40 cuts of 512 centroids then cost seconds
LLOYD = 10  # rounds of refinement
MAX_CHARS = 2_000  # of a request: the instruction stands in front

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Rung:
    """One number of clusters that was tried."""

    clusters: int
    silhouette: float


@dataclass(frozen=True)
class Clusters:
    """What was found.

    labels: i64[n], each row's cluster, larger clusters first.
    distance: f32[n], to the own centroid, 0 to about 2.
    families: i64[k], a coarser cut of the same tree: which clusters belong together.
    rungs: numbers that were tried, ascending.
    taken: position of the chosen one in `rungs`; refinement may leave a cluster without rows.
    form: of each request.
    """

    labels: np.ndarray
    distance: np.ndarray
    families: np.ndarray
    rungs: tuple[Rung, ...]
    taken: int
    form: list[str]

    @property
    def count(self) -> int:
        """How many clusters."""
        return len(self.families)


def find(requests: Sequence[str], encode: Encode, *, seed: int, most: int, number: int | None = None) -> Clusters:
    """Cluster requests.

    Args:
        requests: what is asked, one per row.
        encode: f32[n, d] of unit norm, zeros where it knows nothing.
        seed: of k-means.
        most: the most clusters that may be chosen.
        number: how many, instead of choosing.

    Raises:
        InputError: fewer rows than clusters.
    """
    if len(requests) < max(2, number or 0):
        raise InputError("corpus", f"must have at least {max(2, number or 0)} rows to cluster", got=len(requests))
    vectors, forms = views(requests, encode)
    fine = kmeans.fine(vectors, max(2, number or 0, min(FINE, len(vectors) // FINE_ROWS)), seed)
    of_row = kmeans.nearest(vectors, fine)
    sizes = np.bincount(of_row, minlength=len(fine)).astype(np.float64)
    order = tree.merges(tree.means_of(vectors, of_row, len(fine)), sizes)
    judge = np.argsort(mix(np.arange(len(vectors), dtype=np.uint64)), kind="stable")[:JUDGED]
    rungs = [number] if number else tree.ladder(min(most, len(fine)))
    cuts = [_judged(vectors, of_row, tree.cut(order, sizes, n), judge) for n in rungs]
    chosen = tree.best([c.silhouette for c in cuts])
    labels, centroids = _refined(vectors, tree.cut(order, sizes, cuts[chosen].clusters)[of_row], LLOYD)
    rank, centroids = _by_size(labels, centroids)
    labels = rank[labels]
    distance = np.sqrt(((vectors - centroids[labels]) ** 2).sum(1)).astype(np.float32)
    return Clusters(labels, distance, _families(centroids, labels), tuple(cuts), chosen, forms)


def views(requests: Sequence[str], encode: Encode) -> tuple[np.ndarray, list[str]]:
    """f32[n, 2d]: form and, at weight `CONTENT`, whole request, side by side; and the forms."""
    cut = [r[:MAX_CHARS] for r in requests]
    forms = form.learn(cut, MAX_CHARS).of(cut)
    return np.concatenate([encode(forms), CONTENT * encode(cut)], axis=1).astype(np.float32), forms


def _judged(vectors: np.ndarray, of_row: np.ndarray, of_fine: np.ndarray, judge: np.ndarray) -> Rung:
    sample = vectors[judge]
    labels, centroids = _refined(sample, of_fine[of_row[judge]], LLOYD)
    return Rung(int(of_fine.max()) + 1, tree.silhouette(sample, labels, len(centroids)))


def _refined(vectors: np.ndarray, labels: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """K-means from given clusters; those that lose every row are left out. i64[n] and f32[k, d]."""
    for _ in range(rounds):
        _, labels = np.unique(labels, return_inverse=True)
        centroids = tree.means_of(vectors, labels, int(labels.max()) + 1)
        moved = kmeans.nearest(vectors, centroids)
        if (moved == labels).all():
            break
        labels = moved
    _, labels = np.unique(labels, return_inverse=True)
    return labels, tree.means_of(vectors, labels, int(labels.max()) + 1)


def _by_size(labels: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i64[k]: each cluster's new number, larger first; and the centroids in that order."""
    first = np.argsort(-np.bincount(labels, minlength=len(centroids)), kind="stable")
    rank = np.empty(len(first), np.int64)
    rank[first] = np.arange(len(first))
    return rank, centroids[first]


def _families(centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """i64[k]: clusters in about the square root of their number of families, by the same rule of merging."""
    sizes = np.bincount(labels, minlength=len(centroids)).astype(np.float64)
    return tree.cut(tree.merges(centroids, sizes), sizes, max(1, round(len(centroids) ** 0.5)))
