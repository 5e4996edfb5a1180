"""The few targets that take most of a row's mass, out of a tile of shares, without sorting M of them."""

from __future__ import annotations

import numpy as np

from mixtura.pipeline.transport.tiles import TILE

LEAST_SHARE = 1 / 64  # of a row's mass, from which a target is kept: 64 targets at most have it
_TWO = 0x40000000  # the bits of 2.0 in f32; less those of a share of 1/64 to 1, this takes 26 bits


def largest_shares(
    exps: np.ndarray, factor: np.ndarray, group: np.ndarray, target: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to k elements of each row, largest share first, ties by index; `target` always the first.

    Args:
        exps: f[TILE, M], contiguous; shares but for a factor.
        factor: f64[TILE, G], what makes shares of them.
        group: i64[M], which factor.
        target: i64[TILE], where the largest share is.
        k: 1 or more.

    Returns:
        Flat, as i64, i64 and f32: the place of each in a table [TILE, k], its position in exps, and its share.
    """
    at, row, column = _candidates(exps, factor, group, target)
    share = exps.reshape(-1).take(at) * factor.reshape(-1).take(row * factor.shape[1] + group.take(column))
    share = share.astype(np.float32)
    first = column == target.take(row)
    kept = np.flatnonzero(first | (share >= LEAST_SHARE))
    at, row, share, first = at.take(kept), row.take(kept), share.take(kept), first.take(kept)
    # unique whole numbers that end in a position: one vectorised sort in place of a stable one by two keys
    lower = np.where(first, 0, _TWO - share.view(np.int32)).astype(np.int64)
    order = np.sort((row << 52) | (lower << 24) | np.arange(len(row))) & ((1 << 24) - 1)
    counts = np.bincount(row, minlength=TILE)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    within = np.flatnonzero(nth < k)
    order = order.take(within)
    return row.take(within) * k + nth.take(within), at.take(order), share.take(order)  # no row has moved


def _candidates(
    exps: np.ndarray, factor: np.ndarray, group: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat positions, rows and columns of all elements that may be kept, `target` among them; i64, ascending."""
    # one bound for the whole tile compares three times as fast as one for each row, and seldom lets many more by
    mask = exps >= exps.dtype.type(LEAST_SHARE / factor.max())
    if np.count_nonzero(mask) > TILE / LEAST_SHARE:
        with np.errstate(divide="ignore", over="ignore"):  # the bound of a group too far to matter is infinite
            mask = exps >= (LEAST_SHARE / factor).astype(exps.dtype)[:, group]
    mask.reshape(-1)[np.arange(TILE) * exps.shape[1] + target] = True
    bits = np.packbits(mask.reshape(-1))
    some = np.flatnonzero(bits.view(np.bool_))  # bytes with any: an eighth as many to walk
    which = np.flatnonzero(np.unpackbits(bits[some]).view(np.bool_))
    at = some.take(which >> 3) * 8 + (which & 7)
    row, column = np.divmod(at, exps.shape[1])
    return at, row, column
