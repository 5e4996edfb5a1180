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
from mixtura.pipeline.hashing import mix, string_hashes
from mixtura.recipe import digest

# Scripts written without spaces: one character is one word, as in the character n-grams of CJK retrieval.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
WORD = rf"[{UNSPACED}]\p{{M}}*|[\w--[{UNSPACED}]]+"
PIECE = rf"{WORD}|[^\w\s]+"

BASE = np.uint64(hashing.BASE)

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
    found = texts.str.to_lowercase().str.extract_all(PIECE)
    offsets = np.concatenate(([0], np.cumsum(found.list.len().to_numpy(), dtype=np.int64)))
    codes, distinct = encode(found.explode(empty_as_null=False))
    hashes = string_hashes(distinct)
    chars = distinct.str.len_chars().to_numpy().astype(np.int32)
    word = distinct.str.contains(r"^\w").to_numpy()
    return Pieces(hashes[codes], chars[codes], word[codes], offsets)


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
