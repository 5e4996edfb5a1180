"""The form of a request: the words that recur over many rows, without what each row is about.

"What are the symptoms of gout?" and "What are the symptoms of scurvy?" are one request about two things. Content
words tell the things apart, and an encoder that weighs rare words highest sorts rows by them. The form keeps a word
only where some run of three words around it recurs in many rows: it is what the requests have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtura.pipeline.embed.words import HASH_BITS, Grams, batches, grams

RUN = 3  # words of a run: two recur by grammar alone ("of the"), four cut short requests to nothing
LEAST_ROWS = 8  # a run of fewer rows is a coincidence or a copy
SHARE = 0.001  # of the rows: in 40,000 rows a request must recur 40 times to be one
STEP = np.uint64(0x9E37_79B9_7F4A_7C15)  # odd; makes a run's hash depend on the order of its words


@dataclass(frozen=True)
class Form:
    """What recurs.

    runs: u64[r], ascending, hashes of the runs that do.
    max_chars: text beyond this is not read.
    """

    runs: np.ndarray
    max_chars: int

    def of(self, texts: Sequence[str]) -> list[str]:
        """The form of each text, words separated by spaces; '' where nothing of it recurs."""
        found: list[str] = []
        for batch in batches(texts, self.max_chars):
            made = grams(batch)
            kept = np.flatnonzero(_covered(made, self.runs))
            words: list[list[str]] = [[] for _ in batch]
            rows, starts, ends = made.row[kept].tolist(), made.starts[kept].tolist(), made.ends[kept].tolist()
            for row, start, end in zip(rows, starts, ends, strict=True):
                words[row].append(made.chars[start:end])
            found.extend(" ".join(w) for w in words)
        return found


def learn(texts: Sequence[str], max_chars: int) -> Form:
    """Find the runs of words that recur.

    Args:
        texts: what is asked, one per row.
        max_chars: text beyond this is not read.
    """
    seen = [_once_a_row(grams(batch)) for batch in batches(texts, max_chars)]
    runs, rows = np.unique(np.concatenate(seen or [np.zeros(0, np.uint64)]), return_counts=True)
    return Form(runs[rows >= max(LEAST_ROWS, SHARE * len(texts))], max_chars)


def _runs(made: Grams) -> tuple[np.ndarray, np.ndarray]:
    """i64[r], u64[r]: first word of every run within a text, and the run's hash; the low 16 bits are zero."""
    words = len(made.starts)
    row, word = made.row[:words], made.hash[:words]
    first = np.flatnonzero(row[RUN - 1 :] == row[: max(words - RUN + 1, 0)])
    run = np.zeros(len(first), np.uint64)
    for place in range(RUN):
        run = (run ^ word[first + place]) * STEP
        run ^= run >> np.uint64(32)
    return first, run & HASH_BITS


def _once_a_row(made: Grams) -> np.ndarray:
    """u64: the runs of each text, once per text."""
    first, run = _runs(made)
    return np.unique(run | made.row[first].astype(np.uint64)) & HASH_BITS


def _covered(made: Grams, runs: np.ndarray) -> np.ndarray:
    """bool[words]: which words lie in a run that recurs."""
    first, run = _runs(made)
    covered = np.zeros(len(made.starts), bool)
    for place in range(RUN):
        covered[first[np.isin(run, runs)] + place] = True
    return covered
