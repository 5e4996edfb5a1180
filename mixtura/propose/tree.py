"""From many fine clusters to as many as there are tasks: Ward's merges, and a stated criterion for where to stop.

K-means with as many centroids as there are tasks splits a large task and joins two small ones, because its centroids
never cross the space between. Fine clusters are pure; Ward's rule then merges the pair whose union adds least to the
variance within clusters (Ward 1963, eq. 1), and every number of clusters is one cut of one tree.

The cut: for each number on a ladder, and after k-means from that cut, the mean simplified silhouette of the rows,
(b - a) / max(a, b) with a the distance to a row's own centroid and b to the nearest other (Hruschka et al. 2006;
Rousseeuw's silhouette with centroids for members). Taken is the smallest number that reaches `CLOSE` of the best:
copies and near-copies make ever finer clusters ever tighter, and a person who edits a task pool is served by few tasks
rather than by many.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

CLOSE = 0.97
FEWEST = 2
STEPS = 1.12  # ratio of neighbouring rungs of the ladder: 2, 3, ..., 12, 14, 15, 17, 19, ...


def merges(centroids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ward's merges of weighted centroids, cheapest first; ties go to the lower positions.

    Args:
        centroids: f64[m, d], means.
        sizes: f64[m], rows in each, positive.

    Returns:
        i64[m - 1, 2]: the position that stays and the one that joins it, stays < joins.
    """
    means, weights, m = centroids.astype(np.float64), sizes.astype(np.float64), len(sizes)
    cost = np.array([_cost(means, weights, i) for i in range(m)]).reshape(m, m)
    done = np.zeros((max(m - 1, 0), 2), np.int64)
    for step in range(m - 1):
        stay, join = sorted(divmod(int(cost.argmin()), m))
        done[step] = stay, join
        total = weights[stay] + weights[join]
        means[stay] = (means[stay] * weights[stay] + means[join] * weights[join]) / total
        weights[stay], weights[join] = total, 0
        cost[join] = cost[:, join] = np.inf
        cost[stay] = cost[:, stay] = _cost(means, weights, stay)
    return done


def cut(order: np.ndarray, sizes: np.ndarray, clusters: int) -> np.ndarray:
    """i64[m]: the cluster of each fine cluster once only `clusters` are left, larger clusters first.

    Args:
        order: from `merges`.
        sizes: as given to it.
        clusters: 1 to m.
    """
    parent = np.arange(len(sizes))
    for stay, join in order[: len(sizes) - clusters]:
        parent[parent == join] = stay
    roots, label = np.unique(parent, return_inverse=True)
    rows = np.bincount(label, weights=sizes, minlength=len(roots))
    rank = np.empty(len(roots), np.int64)
    rank[np.argsort(-rows, kind="stable")] = np.arange(len(roots))
    return rank[label]


def best(silhouettes: list[float]) -> int:
    """Which rung is taken: the first, hence smallest, whose silhouette reaches `CLOSE` of the best one's."""
    highest = max(silhouettes)
    return next(i for i, s in enumerate(silhouettes) if s >= min(CLOSE * highest, highest))


def ladder(most: int) -> list[int]:
    """Numbers of clusters that are tried, ascending, `most` among them."""
    rungs, at = [], float(min(FEWEST, most))
    while at < most:
        rungs.append(int(at))
        at = max(at * STEPS, int(at) + 1)
    return [*rungs, most]


def silhouette(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    """Mean simplified silhouette of rows, -1 to 1; 0 where there is one cluster only.

    Args:
        vectors: f32[n, d].
        labels: i64[n], 0 to clusters - 1; a cluster without rows is left out.
        clusters: how many.
    """
    rows = np.bincount(labels, minlength=clusters)
    means = means_of(vectors, labels, clusters)[rows > 0]
    if len(means) < 2:
        return 0.0
    own_place = (np.cumsum(rows > 0) - 1)[labels]
    square = (vectors**2).sum(1)[:, None] + (means**2).sum(1)[None] - 2 * vectors @ means.T
    distance = np.sqrt(np.maximum(square, 0))
    at = np.arange(len(vectors))
    own = distance[at, own_place]
    distance[at, own_place] = np.inf
    other = distance.min(1)
    return float(((other - own) / np.maximum(np.maximum(other, own), 1e-12)).mean())


def means_of(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """f32[clusters, d]: mean of each cluster's rows; zeros where it has none."""
    rows = np.bincount(labels, minlength=clusters)
    member = csr_array((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))), (clusters, len(labels)))
    return (member @ vectors / np.maximum(rows, 1)[:, None]).astype(np.float32)


def _cost(means: np.ndarray, weights: np.ndarray, i: int) -> np.ndarray:
    """f64[m]: what joining i with each other adds to the variance within; infinite for itself and for what is gone."""
    gap = ((means - means[i]) ** 2).sum(1)
    cost = gap * weights * weights[i] / np.maximum(weights + weights[i], 1e-300)
    cost[(weights == 0) | (np.arange(len(weights)) == i)] = np.inf
    return cost
