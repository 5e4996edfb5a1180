"""Batches of rows of like length, each of one shape, so that a row's arithmetic depends on its own length alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CPU_TOKENS = 512  # a larger batch is no faster on a core, and filling it up costs more
SHORTEST = 16  # tokens of the first class of length


def batch_size(device: str, batch_tokens: int) -> int:
    """Tokens in a batch on this device, padding included."""
    return min(batch_tokens, CPU_TOKENS) if device == "cpu" else batch_tokens


def length_class(length: int, window: int) -> int:
    """Tokens to which a row of `length` is padded: multiples of 16 up to 64, then four classes per doubling.

    Padding then wastes at most a fifth, 6 % on average, and a model of 512 tokens sees 16 shapes.
    """
    step = max(SHORTEST, 1 << max(0, (length - 1).bit_length() - 3))
    return min(-(-length // step) * step, max(window, length))


def length_batches(lengths: np.ndarray, batch_tokens: int, window: int) -> Iterator[tuple[list[int], int]]:
    """(rows, padded length) of every batch, longest first, so that memory that runs out does so at once.

    Args:
        lengths: i64[n], tokens per row, at least 1.
        batch_tokens: tokens in a batch, padding included; a longer row is a batch of its own.
        window: the most tokens that the model reads.
    """
    classes = np.array([length_class(int(n), window) for n in lengths], np.int64)
    for length in np.unique(classes)[::-1].tolist():
        rows = np.flatnonzero(classes == length).tolist()
        size = max(1, batch_tokens // length)
        for i in range(0, len(rows), size):
            yield rows[i : i + size], length
