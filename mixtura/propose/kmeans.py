"""Fine clusters by faiss k-means: many more than there are tasks, for `tree` to merge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

ITERATIONS = 20
ROWS_PER_CENTROID = 64  # faiss learns from a sample of this many rows for each cluster; more move centroids little


def fine(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Centroids of many small clusters.

    Args:
        vectors: f32[n, d], finite.
        clusters: how many; at most n.
        seed: of the first centroids and of the sample.

    Returns:
        f32[k, d], those that some row is nearest to, at most `clusters`.
    """
    import faiss

    vectors = np.ascontiguousarray(vectors, np.float32)
    with _one_thread(faiss):
        means: Any = faiss.Kmeans(
            vectors.shape[1],
            min(clusters, len(vectors)),
            niter=ITERATIONS,
            seed=seed % (1 << 31),
            min_points_per_centroid=1,
            max_points_per_centroid=ROWS_PER_CENTROID,
        )
        means.train(vectors)
    used = np.unique(nearest(vectors, means.centroids))
    return np.ascontiguousarray(means.centroids[used], np.float32)


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """i64[n]: the nearest centroid of each row, by L2; a row's answer does not depend on the others.

    Args:
        vectors: f32[n, d].
        centroids: f32[k, d].
    """
    import faiss

    index: Any = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    with _one_thread(faiss):
        return index.search(np.ascontiguousarray(vectors, np.float32), 1)[1][:, 0]


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Sums in one order, whatever the machine's cores."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
