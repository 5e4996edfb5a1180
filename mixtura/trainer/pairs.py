"""Preference pairs as documents: both answers of a pair stand side by side, each with the prompt before it.

A pair is never split between two steps, and the packing machinery of documents serves pairs unchanged. A pair whose
answer does not fit is left out and counted: an answer cut short would be taught as a complete one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mixtura.trainer.chat import Chat, Refused, Turns
from mixtura.trainer.encode import Counts, Encoded, flat
from mixtura.trainer.mixture import Pair
from mixtura.trainer.packing import best_fit_decreasing

SIDES = 2  # documents of a pair: 2 i is the chosen answer of pair i, 2 i + 1 the rejected one


def encode_pairs(pairs: Iterable[Pair], chat: Chat, *, length: int) -> Encoded:
    """Encode pairs in order; two documents each, both or none.

    Args:
        pairs: prompts with two answers.
        chat: the tokenizer and its template.
        length: tokens of a document (prompt and one answer), at least 2; a longer pair is skipped.

    Returns:
        Documents 2 i and 2 i + 1 are pair i; `rows` numbers the pairs as they came, and `counts.rows` counts them.
    """
    counts, documents, origin = Counts(), [], []
    for pair in pairs:
        counts.rows += 1
        try:
            both = [chat.answer(pair.prompt, answer, pair.tools) for answer in (pair.chosen, pair.rejected)]
        except Refused as e:
            counts.skipped[e.reason] += 1
            continue
        if reason := _unfit(both, length):
            counts.skipped[reason] += 1
            continue
        counts.encoded += 1
        for turns in both:
            turns.trained[:1] = False  # nothing comes before the first token
        counts.trained_bytes += sum(t.bytes_of(t.trained) for t in both)
        documents += [(t.tokens, t.trained) for t in both]
        origin += [counts.rows - 1] * SIDES
    return flat(documents, origin, counts)


def _unfit(both: Sequence[Turns], length: int) -> str | None:
    if max(len(t.tokens) for t in both) > length:
        return "pair-beyond-sequence-length"
    if not all(t.trained[1:].any() for t in both):
        return "no-answer"
    return "equal-answers" if np.array_equal(both[0].tokens, both[1].tokens) else None


def pack_pairs(encoded: Encoded, length: int, seed: int) -> list[list[int]]:
    """Sequences of whole pairs, as document numbers; each holds up to `2 * length` tokens.

    Args:
        encoded: from `encode_pairs` with this length.
        length: tokens of one document at most.
        seed: decides among pairs of one length.
    """
    sizes = np.diff(encoded.starts).reshape(-1, SIDES).sum(1)
    order = np.random.default_rng(seed).permutation(len(sizes))
    packs = best_fit_decreasing(sizes, SIDES * length, order)
    return [[SIDES * pair + side for pair in pack for side in range(SIDES)] for pack in packs]


def sequences(packs: Sequence[Sequence[int]], *, together: bool) -> list[Sequence[int]]:
    """The rows of a batch: packs as they are, or a row per document for a model that does not keep them apart."""
    return list(packs) if together else [[d] for pack in packs for d in pack]


def answer_tokens(encoded: Encoded) -> np.ndarray:
    """f32[documents]: trained tokens of each."""
    return np.add.reduceat(encoded.trained, encoded.starts[:-1], dtype=np.float32)
