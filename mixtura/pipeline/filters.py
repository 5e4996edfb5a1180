"""Why a row is not worth keeping: one reason code per dropped row, the first that applies, with its number.

Every rule looks at one row alone, so the verdict does not depend on the shard it came in.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from mixtura.pipeline.tokens import Pieces, encode
from mixtura.recipe import Clean, Repetition

NGRAMS = (2, 3, 4)


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
    total = words.per_text(words.chars)
    owner_of = np.repeat(np.arange(rows), np.diff(words.offsets))
    last = max(len(owner_of) - n + 1, 0)
    inside = owner_of[:last] == owner_of[n - 1 : n - 1 + last]
    hashes, chars = np.zeros(last, dtype=np.uint64), np.zeros(last, dtype=np.int64)
    for k in range(n):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words.hashes[k : k + last]
        chars += words.chars[k : k + last]
    owner, hashes, chars = owner_of[:last][inside], hashes[inside], chars[inside]
    if not len(owner):
        return np.zeros(rows)
    order = np.lexsort((hashes, owner))
    owner, hashes, chars = owner[order], hashes[order], chars[order]
    new = np.flatnonzero(np.concatenate(([True], (owner[1:] != owner[:-1]) | (hashes[1:] != hashes[:-1]))))
    count = np.diff(np.append(new, len(owner)))
    owner, chars = owner[new][count > 1], chars[new][count > 1]
    count = count[count > 1]
    best = np.lexsort((chars, count, owner))  # the last of each owner is the commonest, then the longest
    is_last = np.append(owner[best][1:] != owner[best][:-1], True)[: len(best)]
    top = best[is_last]
    covered = np.zeros(rows)
    covered[owner[top]] = count[top] * chars[top]
    return np.minimum(_share(covered, total), 1.0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
