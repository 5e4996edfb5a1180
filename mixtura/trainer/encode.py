"""Rows to token ids, with a mark on every token that is trained on.

A document is `start, its tokens, end`; every token after the start is trained on. A longer one than a sequence is
cut into pieces that overlap by one token, so that each token is still predicted exactly once. A conversation is
rendered by the chat template; trained on are the answers (`completion`) or everything (`all`). A longer one than a
sequence loses its end, and is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np

from mixtura.errors import CountError
from mixtura.trainer.chat import Chat, Refused
from mixtura.trainer.mixture import Row

BATCH = 512  # documents that one call of the tokenizer encodes, on all cores


@dataclass
class Counts:
    """The books of one split: `rows = encoded + sum(skipped)`."""

    rows: int = 0
    encoded: int = 0
    truncated: int = 0  # conversations that lost their end
    tokens: int = 0
    trained_tokens: int = 0
    trained_bytes: int = 0  # UTF-8 bytes of the text behind the trained tokens; special tokens have none
    skipped: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, Any]:
        """As JSON.

        Raises:
            CountError: a row was lost.
        """
        if self.rows != self.encoded + self.skipped.total():
            raise CountError(f"rows must equal encoded + skipped; got {self}")
        return vars(self) | {"skipped": dict(sorted(self.skipped.items()))}


@dataclass(frozen=True)
class Encoded:
    """Documents as flat arrays.

    tokens: i32[total]; trained: bool[total], True where the token is a target; starts: i64[documents + 1].
    rows: i64[documents], the row, from 0, that each document is a piece of.
    """

    tokens: np.ndarray
    trained: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    counts: Counts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, document: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self.starts[document], self.starts[document + 1])
        return self.tokens[part], self.trained[part]

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays."""
        known = hashlib.sha256()
        for array in (self.tokens, self.trained, self.starts, self.rows):
            known.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        return known.hexdigest()

    def length(self, document: int) -> int:
        """Tokens of one document."""
        return int(self.starts[document + 1] - self.starts[document])


Piece = tuple[np.ndarray, np.ndarray]


def encode(rows: Iterable[Row], chat: Chat, *, length: int, loss: Literal["completion", "all"]) -> Encoded:
    """Encode rows in order.

    Args:
        rows: documents and conversations, mixed as they come.
        chat: the tokenizer and its template.
        length: tokens of a sequence, at least 2; no piece is longer.
        loss: which tokens of a conversation are trained on; of a document all are.
    """
    counts = Counts()
    pieces: list[Piece] = []
    origin: list[int] = []
    queue = iter(rows)
    while batch := list(islice(queue, BATCH)):
        documents = _documents([r.text for r in batch if r.text and not r.messages], chat)
        for row in batch:
            counts.rows += 1
            if row.messages:
                made = _conversation(row, chat, length, loss, counts)
            elif row.text:
                made = _cut(next(documents), length)
                counts.trained_bytes += len(row.text.encode("utf-8", "surrogatepass"))
            else:
                counts.skipped["empty"] += 1
                continue
            counts.encoded += bool(made)
            pieces += made
            origin += [counts.rows - 1] * len(made)
    return flat(pieces, origin, counts)


def flat(pieces: Sequence[Piece], origin: Sequence[int], counts: Counts) -> Encoded:
    """Documents one after the other; their tokens are counted here.

    Args:
        pieces: i32[n] tokens and bool[n] marks of each document.
        origin: the row of each.
        counts: of their rows.
    """
    tokens = np.concatenate([p[0] for p in pieces]) if pieces else np.zeros(0, np.int32)
    trained = np.concatenate([p[1] for p in pieces]) if pieces else np.zeros(0, bool)
    starts = np.concatenate([[0], np.cumsum([len(p[0]) for p in pieces], dtype=np.int64)]).astype(np.int64)
    counts.tokens, counts.trained_tokens = len(tokens), int(trained.sum())
    return Encoded(tokens, trained, starts, np.array(origin, np.int64), counts)


def _documents(texts: list[str], chat: Chat) -> Iterator[np.ndarray]:
    if not texts:
        return
    # a document that spells out a special token means its characters, not the token
    made = chat.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    for ids in made["input_ids"]:
        yield np.array([chat.start, *ids, chat.end], np.int32)


def _cut(tokens: np.ndarray, length: int) -> list[Piece]:
    """Pieces of at most `length` tokens; each begins with the last token of the one before, as untrained context."""
    pieces = []
    for start in range(0, len(tokens) - 1, length - 1):
        piece = tokens[start : start + length]
        trained = np.ones(len(piece), bool)
        trained[0] = False
        pieces.append((piece, trained))
    return pieces


def _conversation(row: Row, chat: Chat, length: int, loss: str, counts: Counts) -> list[Piece]:
    try:
        turns = chat.encode(row, answers_only=loss == "completion")
    except Refused as e:
        counts.skipped[e.reason] += 1
        return []
    pieces, shortened, trained_bytes = [], False, 0
    for turn in turns:
        shortened |= len(turn.tokens) > length
        trained = turn.trained[:length].copy()
        trained[:1] = False  # nothing comes before the first token
        if trained.any():
            pieces.append((turn.tokens[:length], trained))
            trained_bytes += turn.bytes_of(trained)
    if not pieces:
        counts.skipped["answer-beyond-sequence-length" if shortened else "no-answer"] += 1
    else:
        counts.truncated += shortened
        counts.trained_bytes += trained_bytes
    return pieces
