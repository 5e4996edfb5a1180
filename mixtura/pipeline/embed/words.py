"""Words of any script as hashes: the analyser of the fitted encoder, vectorised over many texts at once.

scikit-learn's analyser makes a Python string per word and pair of words. Here a whole batch of texts is one array of
code points, and words, pairs and their hashes are array operations: about twenty times as fast.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

BATCH_CHARS = 1 << 18  # the arrays of a batch then fit into the second-level cache
BATCH_ROWS = 1 << 16  # a row's number fits into the 16 bits that hashes leave free
HASH_BITS = np.uint64(0xFFFF_FFFF_FFFF_0000)

MULTIPLIER = 0x9E37_79B9_7F4A_7C15  # odd, so it has an inverse modulo 2^64
PAIR = np.uint64(0xC2B2_AE3D_27D4_EB4F)
MIX = np.uint64(0xFF51_AFD7_ED55_8CCD)  # MurmurHash3's finaliser, first half
SHIFT = np.uint64(33)

SEPARATOR, WORD, ALONE, SIGN = 0, 1, 2, 3
ASSIGNED = 0x3_2400  # beyond this, Unicode has no letters
UNSPACED = (  # scripts written without spaces: each character stands alone, and pairs of characters are the words
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # radicals, kana, Bopomofo
    (0x3400, 0x9FFF),  # ideographs
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x2_0000, 0x3_23AF),
)


@dataclass(frozen=True)
class Grams:
    """Words and pairs of neighbouring words of a batch of texts: all words first, then all pairs.

    rows: how many texts the batch holds.
    row: i64[g], the text in the batch.
    hash: u64[g], 48 bits; the low 16 are zero.
    first: i64[g], the gram's (first) word.
    chars: the batch's lower-case text.
    starts, ends: i64[w], the words' places in `chars`.
    """

    rows: int
    row: np.ndarray
    hash: np.ndarray
    first: np.ndarray
    chars: str
    starts: np.ndarray
    ends: np.ndarray

    def spelled(self, gram: int) -> str:
        """A gram as text; the words of a pair are separated by a space."""
        first = int(self.first[gram])
        last = first + (gram >= len(self.starts))
        return " ".join(self.chars[self.starts[w] : self.ends[w]] for w in range(first, last + 1))


def batches(texts: Sequence[str], max_chars: int) -> Iterator[list[str]]:
    """Texts in order, cut at `max_chars`, in lists that suit `grams`."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text[:max_chars])
        size += len(batch[-1]) + 1
        if size >= BATCH_CHARS or len(batch) >= BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def grams(texts: Sequence[str]) -> Grams:
    """Words and pairs of neighbouring words, of at most `BATCH_ROWS` texts.

    A word is a run of letters, digits and marks, in lower case, or a run of punctuation and symbols: what code, sums
    and dialogue are made of as much as of words. Without them a word problem is nearer to the news than to another.

    A word's hash is a polynomial in its code points modulo 2^64, taken out of prefix sums over the whole batch, so
    it does not depend on where the word stands.
    """
    lowered = [text.lower() for text in texts]
    chars = "\n".join(lowered)
    points = np.frombuffer(chars.encode("utf-32-le", "surrogatepass"), np.uint32)
    starts, ends = _words(points)
    powers, inverses = _powers(1 << max(len(points), 1).bit_length())
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(points * powers[: len(points)], out=sums[1:])
    word = _mixed((sums[ends] - sums[starts]) * inverses[starts])
    row_ends = np.cumsum([len(text) + 1 for text in lowered])
    row = np.repeat(np.arange(len(texts)), np.diff(np.searchsorted(starts, row_ends), prepend=0))
    pair = np.flatnonzero(row[1:] == row[:-1])
    hashes = np.concatenate([word, _mixed(word[pair] * PAIR + word[pair + 1])]) & HASH_BITS
    first = np.concatenate([np.arange(len(word)), pair])
    return Grams(len(texts), row[first], hashes, first, chars, starts, ends)


def hash_of(spelled: Sequence[str]) -> np.ndarray:
    """u64[n]: hashes of grams as `Grams.spelled` writes them."""
    found = np.zeros(len(spelled), np.uint64)
    for start in range(0, len(spelled), BATCH_ROWS):
        made = grams(spelled[start : start + BATCH_ROWS])
        found[start + made.row] = made.hash  # pairs come last, so a pair overwrites its words
    return found


def _words(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i64[w], i64[w]: where words start and end."""
    table = _classes()
    kind = np.zeros(len(points) + 2, np.uint8)
    kind[1:-1] = table[np.minimum(points, len(table) - 1)]
    borders = (kind[1:] != kind[:-1]) | (kind[1:] == ALONE)
    starts = np.flatnonzero(borders & (kind[1:] != SEPARATOR))
    ends = np.flatnonzero(borders & (kind[:-1] != SEPARATOR))
    return starts, ends


def _mixed(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> SHIFT)) * MIX
    return hashes ^ (hashes >> SHIFT)


@cache
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """u64[n] each: powers 0..n-1 of the multiplier and of its inverse, modulo 2^64."""
    made = []
    for base in (MULTIPLIER, pow(MULTIPLIER, -1, 1 << 64)):
        factors = np.full(n, base, np.uint64)
        factors[0] = 1
        made.append(np.multiply.accumulate(factors))
    return made[0], made[1]


@cache
def _classes() -> np.ndarray:
    """u8 per code point: separator, inside a word, a word of its own, or a sign; the last stands for all above it."""
    table = np.zeros(ASSIGNED + 1, np.uint8)
    for point in range(ASSIGNED):
        category = unicodedata.category(chr(point))
        if category[0] in "LNM" or category == "Pc":  # marks too: without them Devanagari words fall apart
            table[point] = WORD
        elif category[0] in "PS":
            table[point] = SIGN
    for low, high in UNSPACED:
        block = table[low : high + 1]
        block[block == WORD] = ALONE
    return table
