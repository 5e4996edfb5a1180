"""Pack documents into sequences of one length, so that no arithmetic is spent on padding.

A packed sequence holds whole documents side by side. Each document's positions start again at 0 and no token sees
another document: transformers reads both from `position_ids`, where a step other than +1 starts a document. So
neither the loss nor the gradient of a document depends on its neighbours (OPT-IML, Iyer et al. 2022, packs with the
same mask; restarting the positions is ours). Not every architecture listens: `keeps_documents_apart` asks the model
at hand, and one that does not is trained on one document a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mixtura.trainer.encode import Encoded

IGNORE = -100  # the label that cross_entropy leaves out
PROBE = 24  # tokens of each document that `keeps_documents_apart` looks at
ROUND = 16  # a batch's length is rounded up to this: fewer shapes, aligned rows


@dataclass(frozen=True)
class Batch:
    """Sequences ready for a model.

    ids: i64[sequences, length]; positions: i64 alike, from 0 in each document.
    labels: i64 alike: the *next* token where it is trained on, else IGNORE (already shifted).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.ids, self.positions, self.labels)))


def best_fit_decreasing(lengths: np.ndarray, capacity: int, order: np.ndarray) -> list[list[int]]:
    """Put documents, longest first, each into the fullest sequence that still has room.

    Args:
        lengths: i64[n], tokens, each from 1 to capacity.
        capacity: tokens of a sequence.
        order: i64[n], a permutation that decides among equal lengths.

    Returns:
        Document numbers of each sequence; every document is in exactly one.

    Source: Johnson 1973, best-fit decreasing; at most 11/9 of the fewest sequences, plus a constant.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths must be in 1..{capacity}; got {lengths.min()}..{lengths.max()}")
    packs: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room left → sequences
    rooms = 0  # bit r is set where some sequence has r tokens of room: the best fit is one shift away
    for document in order[np.argsort(-lengths[order], kind="stable")].tolist():
        length = int(lengths[document])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            packs[pack].append(document)
        else:
            room, pack = capacity, len(packs)
            packs.append([document])
        left = room - length
        if left:
            by_room.setdefault(left, []).append(pack)
            rooms |= 1 << left
    return packs


def pack(encoded: Encoded, capacity: int, seed: int, *, together: bool = True) -> list[list[int]]:
    """Sequences of document numbers; the seed decides among documents of one length.

    Args:
        encoded: documents of at most `capacity` tokens.
        capacity: tokens of a sequence.
        seed: of the order among equals.
        together: False puts every document into a sequence of its own.
    """
    if not together:
        return [[d] for d in range(len(encoded))]
    order = np.random.default_rng(seed).permutation(len(encoded))
    return best_fit_decreasing(np.diff(encoded.starts), capacity, order)


@torch.no_grad()
def keeps_documents_apart(model: nn.Module, device: torch.device) -> bool:
    """Whether the model reads document borders from `position_ids`, through the very kernel that it trains with.

    Two documents are packed; the first is changed; the second one's logits must not move, and the change must
    be visible in the first (else the question was not asked).
    """
    was_training = model.training
    model.eval()
    positions = torch.arange(PROBE, device=device).repeat(2)[None]
    ids = torch.arange(2 * PROBE, device=device)[None] % 7
    other = ids.clone()
    other[0, :PROBE] = (other[0, :PROBE] + 3) % 7
    first, second = (
        model(input_ids=i, position_ids=positions, use_cache=False).logits[0].float() for i in (ids, other)
    )
    model.train(was_training)
    moved = (first - second).abs().amax(dim=-1)
    # masked tokens have weight exactly 0; the tolerance is for kernels that sum in another order
    return bool(moved[PROBE:].max() <= 1e-4 * moved[:PROBE].max())


def collate(encoded: Encoded, packs: Sequence[Sequence[int]]) -> Batch:
    """Tensors of some packed sequences.

    The unfilled end of a row is one more document, without labels: so no attention mask is needed, and no row of
    the attention matrix is empty.
    """
    longest = max(sum(encoded.length(d) for d in p) for p in packs)
    shape = (len(packs), -(-longest // ROUND) * ROUND)
    ids = np.zeros(shape, np.int64)
    positions = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    for row, documents in enumerate(packs):
        at = 0
        for document in documents:
            tokens, trained = encoded[document]
            end = at + len(tokens)
            ids[row, at:end] = tokens
            positions[row, at:end] = np.arange(len(tokens))
            labels[row, at : end - 1] = np.where(trained[1:], tokens[1:], IGNORE)
            at = end
        positions[row, at:] = np.arange(shape[1] - at)
    return Batch(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(labels))
