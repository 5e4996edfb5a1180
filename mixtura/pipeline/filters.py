"""Why a row is not worth keeping: one reason code per dropped row, the first that applies, with its number.

Every rule looks at one row alone, so the verdict does not depend on the shard it came in.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from mixtura.pipeline.tokens import Pieces, encode
from mixtura.recipe import Clean, Repetition

NGRAMS = (2, 3, 4)
CHARS_BITS = 12


class Verdicts:
    """Reasons of n rows, filled rule by rule; a row keeps its first reason.

    reason, detail: object[n], None where the row is still kept.
    """

    def __init__(self, n: int) -> None:
        self.reason = np.full(n, None, dtype=object)
        self.detail = np.full(n, None, dtype=object)

    @property
    def kept(self) -> np.ndarray:
        """bool[n], rows without a reason."""
        return self.reason == np.array(None)

    def drop(self, hit: np.ndarray, reason: str, said: str, value: np.ndarray) -> None:
        """Give a reason to rows that have none yet.

        Args:
            hit: bool[n].
            reason: the code.
            said: template of the detail; `{}` takes the row's value.
            value: [n], the number that decided.
        """
        for i in np.flatnonzero(hit & self.kept):
            self.reason[i] = reason
            self.detail[i] = said.format(value[i])


def judge_length(verdicts: Verdicts, chars: np.ndarray, unanswered: np.ndarray, clean: Clean) -> None:
    """Rules on characters, before any text is cut into words.

    Args:
        verdicts: filled in place.
        chars: i64[n], characters of the plain text, surrounding white space not counted.
        unanswered: bool[n], a conversation whose every assistant turn is empty.
        clean: the limits.
    """
    verdicts.drop(chars == 0, "empty", "no text", chars)
    verdicts.drop(unanswered, "no-answer", "every assistant turn is empty", chars)
    verdicts.drop(chars < clean.min_chars, "too-short", f"{{}} characters, fewer than {clean.min_chars}", chars)
    verdicts.drop(chars > clean.max_chars, "too-long", f"{{}} characters, more than {clean.max_chars}", chars)


def judge_tokens(verdicts: Verdicts, tokens: np.ndarray, clean: Clean) -> None:
    """Rules on tokens.

    Args:
        verdicts: filled in place.
        tokens: i64[n].
        clean: the limits.
    """
    verdicts.drop(tokens < clean.min_tokens, "too-few-tokens", f"{{}} tokens, fewer than {clean.min_tokens}", tokens)
    verdicts.drop(tokens > clean.max_tokens, "too-many-tokens", f"{{}} tokens, more than {clean.max_tokens}", tokens)


def judge_repetition(verdicts: Verdicts, at: np.ndarray, texts: pl.Series, words: Pieces, rules: Repetition) -> None:
    """Gopher's repetition rules.

    Args:
        verdicts: filled in place.
        at: i64[k], the rows to judge.
        texts: plain text of these k rows.
        words: of the same texts.
        rules: the limits.

    Source: Rae et al. 2021, Scaling Language Models (Gopher), table A1. Differs: an n-gram must occur twice to count,
    or every short row would be its own commonest n-gram; shares are of the words' characters, without spaces;
    overlapping occurrences count once, by capping the share at 1; paragraphs and 5- to 10-grams are left out.
    """
    shares = {"duplicate_lines": "of lines repeat an earlier one", "duplicate_line_chars": "of characters repeat"}
    values = dict(zip(shares, duplicate_lines(texts), strict=True))
    for n in NGRAMS:
        shares[f"top_{n}gram"] = f"of characters in one {n}-gram"
        values[f"top_{n}gram"] = top_ngram_share(words, n)
    for rule, said in shares.items():
        limit = getattr(rules, rule)
        share = np.zeros(len(verdicts.reason))
        share[at] = values[rule]
        verdicts.drop(share > limit, f"repetitive:{rule}", f"{{:.3f}} {said}, more than {limit}", share)


def duplicate_lines(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Shares of lines, and of characters, that stand in a line which repeats an earlier one of the same text.

    Lines are compared without surrounding white space; empty ones do not count.

    Returns:
        f64[n] and f64[n]; 0 for a text without lines.
    """
    rows = np.flatnonzero(texts.str.contains("\n", literal=True).to_numpy())  # one line repeats nothing
    lines = texts.gather(rows).str.split("\n")
    owner = np.repeat(rows, lines.list.len().to_numpy())
    flat = lines.explode(empty_as_null=False).str.strip_chars()
    chars = flat.str.len_chars().to_numpy().astype(np.int64)
    owner, flat, chars = owner[chars > 0], flat.filter(chars > 0), chars[chars > 0]
    codes, _ = encode(flat)
    keys = owner.astype(np.int64) << 32 | codes
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return tuple(
        _share(np.bincount(owner, again * w, len(texts)), np.bincount(owner, w, len(texts)))
        for w in (np.ones(len(keys)), chars)
    )  # pyright: ignore[reportReturnType]  # a generator of exactly two


def top_ngram_share(words: Pieces, n: int) -> np.ndarray:
    """Share of the words' characters that stand in the commonest n-gram; of equally common ones the longest.

    Returns:
        f64[number of texts], 0 where no n-gram occurs twice.
    """
    rows = len(words)
    text, first, hashes = words.windows(n)
    ends = np.concatenate(([0], np.cumsum(words.chars, dtype=np.int64)))
    chars = ends[first + n] - ends[first]
    # One sort of one number: text, hash, length. 12 bits of length do for n-grams (a longer one counts as 4,095
    # characters), and 41 bits of hash, or more, within one text.
    text_bits = np.uint64(max(rows - 1, 1).bit_length())
    hash_bits = np.uint64(64 - CHARS_BITS) - text_bits
    keys = text.astype(np.uint64) << np.uint64(64) - text_bits
    keys |= hashes >> np.uint64(64) - hash_bits << np.uint64(CHARS_BITS)
    keys |= np.minimum(chars, (1 << CHARS_BITS) - 1).astype(np.uint64)
    keys.sort()
    new = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)])
    count = np.diff(np.append(new, len(keys)))
    keys, count = keys[new][count > 1], count[count > 1]
    text = (keys >> np.uint64(64) - text_bits).astype(np.int64)
    chars = (keys & np.uint64((1 << CHARS_BITS) - 1)).astype(np.int64)
    best = np.zeros(rows, dtype=np.int64)  # count above, characters below: the maximum is the commonest, then longest
    np.maximum.at(best, text, count << CHARS_BITS | chars)
    covered = (best >> CHARS_BITS) * (best & (1 << CHARS_BITS) - 1)
    return np.minimum(_share(covered, words.per_text(words.chars)), 1.0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
