"""The few targets that take most of a row's mass, out of a tile of shares, without sorting M of them."""

from __future__ import annotations

import numpy as np

from mixtura.pipeline.transport.tiles import TILE

LEAST_SHARE = 1 / 64  # of a row's mass, from which a target is kept: 64 targets at most have it
MOST_TARGETS = 1 << 24  # a sort key is 9 bits of row, 31 of share, 24 of target
_ONE = 0x7F800000  # above the bits of any f32 share


def keep_largest(
    exps: np.ndarray, least: np.ndarray, factor: np.ndarray, target: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to k targets of each row, largest share first, ties by index; `target` always the first.

    Args:
        exps: f[TILE, M], shares but for a factor.
        least: f[TILE, 1] or [TILE, M], from which a target is kept.
        factor: like `least`; what makes a share of an element of exps.
        target: i64[TILE], where the largest share is.
        k: 1 or more.

    Returns:
        targets i32[TILE, k], -1 where there are no more, and their shares f32[TILE, k], 0 there.
    """
    mask = exps >= least
    mask[np.arange(TILE), target] = True
    row, column = np.divmod(np.flatnonzero(mask), exps.shape[1])
    share = (exps[row, column] * np.broadcast_to(factor, exps.shape)[row, column]).astype(np.float32)
    lower = np.where(column == target[row], 0, _ONE - share.view(np.int32)).astype(np.uint64)
    # unique whole numbers: one vectorised sort in place of a stable one by three keys
    order = np.sort((row.astype(np.uint64) << 55) | (lower << 24) | column.astype(np.uint64))
    row, column = (order >> 55).astype(np.intp), (order & (MOST_TARGETS - 1)).astype(np.intp)
    first = np.cumsum(np.bincount(row, minlength=TILE)) - np.bincount(row, minlength=TILE)
    nth = np.arange(len(row)) - first[row]
    row, column, nth = (part[nth < k] for part in (row, column, nth))
    targets, shares = np.full((TILE, k), -1, np.int32), np.zeros((TILE, k), np.float32)
    targets[row, nth] = column
    shares[row, nth] = exps[row, column] * np.broadcast_to(factor, exps.shape)[row, column]
    return targets, shares
