"""Arithmetic on one thread, in tiles of one shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

TILE = 512  # rows of a tile: with M = 400 in f32 it is 0.8 MB, within a core's cache


def tiles(x: np.ndarray, dtype: torch.dtype = torch.float32) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows copied into one buffer of TILE rows, the rest zeros: the product then never sees another shape."""
    tile = torch.zeros(TILE, x.shape[1], dtype=dtype)
    for start in range(0, len(x), TILE):
        rows = slice(start, min(start + TILE, len(x)))
        tile.numpy()[: rows.stop - start] = x[rows]  # by numpy: rows read from Parquet are read-only, torch objects
        tile[rows.stop - start :] = 0
        yield rows, tile


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy: torch refuses arrays that are read-only, as those from Parquet are."""
    return torch.from_numpy(np.array(array))
