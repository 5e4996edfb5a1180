"""Exact nearest neighbours by inner product, with the same answer on CPU and GPU, for one query or many.

faiss proposes candidates in f32, whose last bits depend on the batch and the card. They are scored again in f64, one
pair at a time, and ordered by score, then by position: equal vectors come in the order in which they were added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

SPARE = 16  # candidates beyond k: a near-tie at the border is then almost always inside
GPU_MOST = 2_048  # the most candidates that faiss gives per query on a GPU
TILE_VALUES = 1 << 21  # f64 values scored at once, 16 MiB
ROUNDING = float(np.finfo(np.float32).eps)


class Index:
    """Vectors that can be searched; fixed once built.

    Args:
        vectors: f32[n, d], finite; unit norm makes the inner product the cosine. Kept, not copied.
        device: `auto` takes a GPU where faiss has one.

    Raises:
        ValueError: vectors are not a finite matrix, or `cuda` is asked of a faiss without a GPU.
    """

    def __init__(self, vectors: np.ndarray, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        self.vectors = _matrix(vectors)
        self._longest = float(np.sqrt((self.vectors.astype(np.float64) ** 2).sum(axis=1).max(initial=0)))
        self._faiss, self.device = _flat(self.vectors, device)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best vectors of each query.

        Args:
            queries: f32[m, d], finite.
            k: neighbours, at least 1; all n where it is more.

        Returns:
            scores f32[m, min(k, n)], inner products, best first; and positions i64 of the same shape, in the order
            of `vectors`. Equal scores: lower position first. A row does not depend on the other queries.

        Raises:
            ValueError: queries are not finite or of another width, or k is below 1.
        """
        queries = _matrix(queries)
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries must have {self.vectors.shape[1]} dimensions; got {queries.shape[1]}")
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        k = min(k, len(self))
        if not k or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        positions, sure = self._candidates(queries, k)
        scores = np.empty((len(queries), k), np.float32)
        best = np.empty((len(queries), k), np.int64)
        step = max(1, TILE_VALUES // positions[0].size // queries.shape[1])
        for i in range(0, len(queries), step):
            tile = slice(i, i + step)
            scores[tile], best[tile] = _first(_score(queries[tile], self.vectors[positions[tile]]), positions[tile], k)
        for i in np.flatnonzero(~sure):
            scores[i], best[i] = self._search_all(queries[i], k)
        return scores, best

    def save(self, path: Path) -> None:
        """Write the vectors as safetensors; building is a copy, so nothing else is worth keeping."""
        save_file({"vectors": self.vectors}, path)

    @classmethod
    def load(cls, path: Path, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> Index:
        """Read what `save` wrote, on any device."""
        return cls(load_file(path)["vectors"], device=device)

    def _candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions i64[m, c], c >= k; and bool[m], whether the k best are certainly among them."""
        n, d = self.vectors.shape
        count = min(n, k + SPARE)
        if self.device == "cuda" and count > GPU_MOST:
            return np.zeros((len(queries), k), np.int64), np.zeros(len(queries), bool)
        rough, positions = self._faiss.search(queries, count)
        # |computed - true| <= d eps |q| |x|: whoever is left out scores below the k-th by more than both errors
        norms = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1))
        error = d * ROUNDING * norms * self._longest
        sure = (count == n) | (rough[:, k - 1] - rough[:, -1] > 2 * error)
        return positions, sure

    def _search_all(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """One query against every vector: for ties wider than the candidates."""
        step = max(1, TILE_VALUES // len(query))
        parts = [_score(query[None], self.vectors[None, i : i + step])[0] for i in range(0, len(self), step)]
        scores, best = _first(np.concatenate(parts)[None], np.arange(len(self))[None], k)
        return scores[0], best[0]


def _score(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """f32[m, c]: inner products of f32[m, d] with f32[m, c, d] (or [1, c, d]), each summed by itself in f64."""
    return (queries[:, None].astype(np.float64) * vectors).sum(axis=-1).astype(np.float32)


def _first(scores: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest of each row; of equal ones, the lower position first."""
    order = np.lexsort((positions, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, -1), np.take_along_axis(positions, order, -1)


def _matrix(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"vectors must be a finite matrix; got shape {values.shape}")
    return values


def _flat(vectors: np.ndarray, device: str) -> tuple[Any, str]:
    """A faiss flat index with the vectors in it, and the device that holds it."""
    import faiss

    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if device == "cuda" and not gpus:
        raise ValueError("device 'cuda' must be one that faiss sees; got 0 GPUs")
    if device != "cpu" and gpus:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(vectors)
    return index, "cuda" if device != "cpu" and gpus else "cpu"
