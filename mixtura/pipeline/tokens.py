"""Words and tokens of texts, a whole shard at a time: what the filters, the shingles and the budgets count.

A *piece* is a word, one character of a script that is written without spaces, or a run of symbols. Pieces are what
shingles are made of: `1 + 1` and `1 - 1` differ. A *word* is a piece that is not a run of symbols; `tokenizer: words`
counts these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc

from mixtura.errors import InputError
from mixtura.pipeline import hashing
from mixtura.pipeline.hashing import buffers, mix, piece_hashes, string_hashes
from mixtura.recipe.model import digest

# Scripts written without spaces: one character is one word, as in the character n-grams of CJK retrieval.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
WORD = rf"[{UNSPACED}]\p{{M}}*|[\w--[{UNSPACED}]]+"
PIECE = rf"{WORD}|[^\w\s]+"

BASE = np.uint64(hashing.BASE)

SPACE, WORD_BYTE, SYMBOL = 0, 1, 2
_BYTES = [bytes([b]) for b in range(256)]
ASCII_KIND = np.array(
    [SPACE if b.isspace() else WORD_BYTE if b.isalnum() or b == b"_" else SYMBOL for b in _BYTES], dtype=np.uint8
)
ASCII_LOWER = np.frombuffer(b"".join(_BYTES).lower(), dtype=np.uint8)

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Pieces:
    """The lower-cased pieces of n texts, one after the other.

    hashes: u64[m], of each piece's UTF-8 bytes; the same on every machine.
    chars: i32[m], its length.
    word: bool[m], False for a run of symbols.
    offsets: i64[n + 1], text i owns pieces offsets[i] to offsets[i + 1].
    """

    hashes: np.ndarray
    chars: np.ndarray
    word: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def words(self) -> Pieces:
        """The same texts without their symbols."""
        return self._where(self.word, np.concatenate(([0], np.cumsum(self.word)))[self.offsets])

    def of(self, texts: np.ndarray) -> Pieces:
        """Some of the texts. texts: bool[n]."""
        lengths = np.diff(self.offsets)
        return self._where(np.repeat(texts, lengths), np.concatenate(([0], np.cumsum(lengths[texts]))))

    def _where(self, keep: np.ndarray, offsets: np.ndarray) -> Pieces:
        return Pieces(self.hashes[keep], self.chars[keep], self.word[keep], offsets)

    def windows(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every n pieces in a row of one text.

        Returns:
            i64[k] the text, i64[k] the first piece, u64[k] the hash of the n pieces in their order.
        """
        places = max(len(self.hashes) - n + 1, 0)
        hashes = np.full(places, n, dtype=np.uint64)
        for k in range(n):
            hashes = hashes * BASE + self.hashes[k : k + places]
        text = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        first = np.flatnonzero(text[:places] == text[n - 1 : n - 1 + places])
        return text[first], first, mix(hashes[first])

    def per_text(self, values: np.ndarray) -> np.ndarray:
        """Sum of a value per piece over each text.

        Args:
            values: bool or integer[m].

        Returns:
            i64[n].
        """
        total = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
        return total[self.offsets[1:]] - total[self.offsets[:-1]]


def split(texts: pl.Series) -> Pieces:
    """Cut texts into pieces.

    Args:
        texts: strings, none null.
    """
    plain = texts.str.len_bytes() == texts.str.len_chars()
    if plain.all():
        return split_ascii(texts)
    found = split_any(texts.filter(~plain))
    return _interleave(split_ascii(texts.filter(plain)), found, plain.to_numpy())


def split_any(texts: pl.Series) -> Pieces:
    """`split` for text of any script, by the regular expression `PIECE`."""
    found = texts.str.to_lowercase().str.extract_all(PIECE)
    offsets = np.concatenate(([0], np.cumsum(found.list.len().to_numpy(), dtype=np.int64)))
    codes, distinct = encode(found.explode(empty_as_null=False))
    hashes = string_hashes(distinct)
    chars = distinct.str.len_chars().to_numpy().astype(np.int32)
    word = distinct.str.contains(r"^\w").to_numpy()
    return Pieces(hashes[codes], chars[codes], word[codes], offsets)


def split_ascii(texts: pl.Series) -> Pieces:
    """`split` for ASCII texts, three times as fast: a piece is a run of bytes of one kind."""
    hashes, chars, word, counts = [], [], [], []
    for raw, rows in buffers(texts):
        kind = ASCII_KIND.take(raw)
        edge = np.ones(len(raw) + 1, dtype=bool)
        edge[1:-1] = kind[1:] != kind[:-1]
        edge[rows] = True  # no piece goes from one text into the next
        at = np.flatnonzero(edge)
        real = kind[at[:-1]] != SPACE
        start, end = at[:-1][real], at[1:][real]
        hashes.append(piece_hashes(ASCII_LOWER.take(raw), start, end))
        chars.append((end - start).astype(np.int32))
        word.append(kind[start] == WORD_BYTE)
        counts.append(np.diff(np.searchsorted(start, rows)))
    if not counts:
        return Pieces(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(1, np.int64))
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    return Pieces(np.concatenate(hashes), np.concatenate(chars), np.concatenate(word), offsets)


def _interleave(one: Pieces, other: Pieces, is_one: np.ndarray) -> Pieces:
    """Texts of both in the order that bool[n] `is_one` tells."""
    size, start = np.empty(len(is_one), np.int64), np.empty(len(is_one), np.int64)
    size[is_one], size[~is_one] = np.diff(one.offsets), np.diff(other.offsets)
    start[is_one], start[~is_one] = one.offsets[:-1], other.offsets[:-1] + len(one.hashes)
    at = ranges(start, size)
    both = [np.concatenate(p)[at] for p in zip(*((x.hashes, x.chars, x.word) for x in (one, other)), strict=True)]
    return Pieces(both[0], both[1], both[2], np.concatenate(([0], np.cumsum(size))))


def ranges(start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`start[0], start[0] + 1, ...` for `size[0]` numbers, then the same for `start[1]`, and so on; i64."""
    return np.arange(size.sum()) + np.repeat(start - (np.cumsum(size) - size), size)


def encode(strings: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Number equal strings alike, in order of first appearance.

    Returns:
        i32[m] numbers, and the distinct strings they stand for.
    """
    coded: Any = pc.call_function("dictionary_encode", [strings.to_arrow(compat_level=pl.CompatLevel.oldest())])
    return coded.indices.to_numpy(), pl.Series(coded.dictionary, dtype=pl.String)


def count_tokens(texts: pl.Series, tokenizer: str) -> pl.Series:
    """Tokens of each text.

    Args:
        texts: strings, none null.
        tokenizer: `words` (letters and digits in a row, or one character of an unspaced script), or the name or
            folder of a Hugging Face tokenizer, which adds no special tokens here.

    Returns:
        i32 series `tokens`, in the order of `texts`.

    Raises:
        InputError: the tokenizer cannot be loaded.
    """
    if tokenizer == "words":
        return texts.str.count_matches(WORD).cast(pl.Int32).alias("tokens")
    if texts.is_empty():
        return pl.Series("tokens", [], dtype=pl.Int32)
    ids: Sequence[Sequence[int]] = _load(tokenizer)(texts.to_list(), add_special_tokens=False, verbose=False).input_ids
    return pl.Series("tokens", [len(i) for i in ids], dtype=pl.Int32)


def tokenizer_identity(tokenizer: str) -> str:
    """What names a tokenizer in an artefact's key: its word, or for a folder the digest of its files.

    The folder's path stays out, so that the same tokenizer elsewhere gives the same key.
    """
    folder = Path(tokenizer)
    if tokenizer == "words" or not folder.is_dir():
        return tokenizer
    files = sorted({f for pattern in TOKENIZER_FILES for f in folder.glob(pattern) if f.is_file()})
    return digest({f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


@cache
def _load(tokenizer: str) -> Any:
    from transformers import AutoTokenizer  # seconds to import, and only this tokenizer needs it

    try:
        return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise InputError(
            "clean.tokenizer",
            "must be 'words', or the name or folder of a tokenizer that transformers can load",
            got=tokenizer,
            next_step=f"It said: {str(e).splitlines()[0] if str(e) else type(e).__name__}",
        ) from e
