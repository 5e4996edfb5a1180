"""Held-out loss: nats per token, and bits per byte, which compares models of different tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mixtura.trainer.encode import Encoded
from mixtura.trainer.packing import IGNORE, Batch, collate


@dataclass(frozen=True)
class HeldOut:
    """Loss over held-out rows.

    loss: nats per trained token; bits_per_byte: of the text behind these tokens (end tokens cost bits, have no bytes).
    """

    loss: float
    bits_per_byte: float
    tokens: int
    bytes: int

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def loss_sum(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy over the trained tokens of a batch: f32 scalar, nats.

    On a GPU the model runs in bfloat16; the loss itself is always float32.
    """
    return F.cross_entropy(_logits(model, batch), batch.labels.flatten(), ignore_index=IGNORE, reduction="sum")


def token_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy by place, f32[sequences, length]; nats; 0 where nothing is trained on."""
    flat = F.cross_entropy(_logits(model, batch), batch.labels.flatten(), ignore_index=IGNORE, reduction="none")
    return flat.view(batch.labels.shape)


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """f32[sequences * length, vocabulary]."""
    device = batch.ids.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        # no attention mask: transformers reads the documents from the positions (see packing)
        logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
    return logits.float().flatten(0, 1)


@torch.no_grad()
def row_losses(
    model: nn.Module, encoded: Encoded, packs: Sequence[Sequence[int]], *, micro_batch: int, device: torch.device
) -> np.ndarray:
    """f64[rows], nats: the summed loss of each row's trained tokens; 0 for a row that was skipped. See `evaluate`."""
    was_training = model.training
    model.eval()
    total = np.zeros(encoded.counts.rows)
    for at in range(0, len(packs), micro_batch):
        some = packs[at : at + micro_batch]
        batch = collate(encoded, some).to(device)
        losses = token_losses(model, batch).double().cpu().numpy()
        for row, documents in enumerate(some):
            ends = np.cumsum([encoded.length(d) for d in documents])
            sums = np.add.reduceat(losses[row], np.concatenate([[0], ends[:-1]]))
            np.add.at(total, encoded.rows[documents], sums)
    model.train(was_training)
    return total


@torch.no_grad()
def evaluate(
    model: nn.Module, encoded: Encoded, packs: Sequence[Sequence[int]], *, micro_batch: int, device: torch.device
) -> HeldOut:
    """Loss of a model over packed held-out rows.

    Args:
        model: put into evaluation mode, and back into the mode it was in.
        encoded: the rows; at least one token must be trained on.
        packs: document numbers of each sequence.
        micro_batch: sequences at once.
        device: where the model is.
    """
    was_training = model.training
    model.eval()
    total = 0.0  # float64: sums of some millions of float32 losses
    for at in range(0, len(packs), micro_batch):
        total += float(loss_sum(model, collate(encoded, packs[at : at + micro_batch]).to(device)))
    model.train(was_training)
    counts = encoded.counts
    return HeldOut(
        loss=total / counts.trained_tokens,
        bits_per_byte=total / math.log(2) / max(counts.trained_bytes, 1),
        tokens=counts.trained_tokens,
        bytes=counts.trained_bytes,
    )
