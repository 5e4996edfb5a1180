"""Preference training: DPO and SimPO on pairs of a chosen and a rejected answer.

What the start model thinks of each answer (DPO's reference) is computed once, before the first step, and kept on disk:
no second model is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mixtura.recipe import Preference, Train
from mixtura.trainer.encode import Encoded
from mixtura.trainer.evaluate import token_losses
from mixtura.trainer.loop import Loop
from mixtura.trainer.packing import Batch, collate
from mixtura.trainer.pairs import SIDES, answer_tokens, sequences


def document_log_probabilities(
    model: nn.Module, encoded: Encoded, rows: Sequence[Sequence[int]], device: torch.device
) -> torch.Tensor:
    """Log p(answer | prompt) of every document of a batch: f32[documents], nats, in the order of the rows."""
    batch: Batch = collate(encoded, rows).to(device)
    losses = token_losses(model, batch)
    count = sum(len(r) for r in rows)
    owner = np.full(losses.shape, count, np.int64)  # the padding belongs to a document of its own, without labels
    number = 0
    for row, documents in enumerate(rows):
        lengths = [encoded.length(d) for d in documents]
        owner[row, : sum(lengths)] = np.repeat(np.arange(number, number + len(documents)), lengths)
        number += len(documents)
    sums = losses.new_zeros(count + 1).index_add(0, torch.from_numpy(owner).to(device).flatten(), losses.flatten())
    return -sums[:count]


def margins(spec: Preference, log_p: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """How much more the policy rewards the chosen answers: f32[pairs].

    DPO: beta ((log p_w - log ref_w) - (log p_l - log ref_l)). SimPO: beta (log p_w / |y_w| - log p_l / |y_l|).

    Args:
        spec: the loss and its beta.
        log_p: f32[2 pairs], nats, chosen and rejected in turn, under the policy.
        reference: alike, under the start model; SimPO does not read it.
        tokens: f32[2 pairs], trained tokens of each answer; DPO does not read it.

    Source: Rafailov et al. 2023, equation 7; Meng et al. 2024, equation 6, whose gamma is in `pair_losses`.
    """
    rewards = log_p / tokens if spec.loss == "simpo" else log_p - reference
    chosen, rejected = rewards.view(-1, SIDES).unbind(1)
    return spec.strength * (chosen - rejected)


def pair_losses(spec: Preference, margin: torch.Tensor) -> torch.Tensor:
    """-log sigmoid of the margins: f32[pairs], nats; SimPO first takes its gamma off."""
    return -F.logsigmoid(margin - (spec.gamma if spec.loss == "simpo" else 0.0))


@dataclass(frozen=True)
class HeldOutPairs:
    """A model on held-out pairs.

    loss: nats per pair. accuracy: share of pairs whose chosen answer has the higher reward; a tie, which all are to DPO
    before the first step, counts half. margin: mean difference of rewards.
    """

    loss: float
    accuracy: float
    margin: float
    pairs: int
    tokens: int

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@torch.no_grad()
def log_probabilities(
    model: nn.Module,
    encoded: Encoded,
    packs: Sequence[Sequence[int]],
    *,
    together: bool,
    micro: int,
    device: torch.device,
) -> np.ndarray:
    """f32[documents], nats: log p(answer | prompt) of every document, in evaluation mode."""
    was_training = model.training
    model.eval()
    found = np.zeros(len(encoded), np.float32)
    for at in range(0, len(packs), micro):
        some = packs[at : at + micro]
        rows = sequences(some, together=together)
        found[[d for p in some for d in p]] = document_log_probabilities(model, encoded, rows, device).cpu().numpy()
    model.train(was_training)
    return found


def evaluate_pairs(spec: Preference, encoded: Encoded, log_p: np.ndarray, reference: np.ndarray) -> HeldOutPairs:
    """What `log_probabilities` of a model mean.

    Args:
        spec: the loss.
        encoded: the pairs; at least one.
        log_p: f32[documents], under the model.
        reference: alike, under the start model.
    """
    tokens = torch.from_numpy(answer_tokens(encoded))
    margin = margins(spec, torch.from_numpy(log_p), torch.from_numpy(reference), tokens)
    right = (margin > 0).double() + 0.5 * (margin == 0).double()
    return HeldOutPairs(
        loss=float(pair_losses(spec, margin.double()).mean()),
        accuracy=float(right.mean()),
        margin=float(margin.double().mean()),
        pairs=len(margin),
        tokens=encoded.counts.trained_tokens,
    )


def for_pairs(spec: Train) -> Train:
    """The trainer's settings where a sequence holds both answers of a pair."""
    return spec.model_copy(
        update={
            "learning_rate": spec.preference.learning_rate,
            "sequence_length": SIDES * spec.sequence_length,
            "micro_batch": max(1, spec.micro_batch // SIDES),
        }
    )


@dataclass
class PairLoop(Loop):
    """The training loop over pairs: the step's loss is the mean over its pairs.

    reference: f32[documents], nats, see `log_probabilities`; together: whether documents share a sequence.
    """

    preference: Preference
    reference: np.ndarray
    together: bool

    def _accumulate(self, packs: list[list[int]]) -> dict[str, Any]:
        spec, tokens = self.preference, answer_tokens(self.encoded)
        documents = [d for p in packs for d in p]
        pairs, chosen_tokens = len(documents) // SIDES, float(tokens[documents[::SIDES]].sum())
        told = dict.fromkeys(("loss", "accuracy", "margin", "chosen_loss"), 0.0)
        for micro in self._micro_batches(packs):
            mine = [d for p in micro for d in p]
            log_p = document_log_probabilities(
                self.model, self.encoded, sequences(micro, together=self.together), self.device
            )
            known = [torch.from_numpy(a[mine]).to(self.device) for a in (self.reference, tokens)]
            margin = margins(spec, log_p, *known)
            # Pang et al. 2024 and Xu et al. 2024 (CPO) add the chosen answers' own loss: here per token of the step
            own = -log_p[::SIDES].sum() / chosen_tokens
            loss = pair_losses(spec, margin).sum() / pairs + spec.nll * own
            loss.backward()
            told["loss"] += float(loss.detach())
            told["accuracy"] += float((margin > 0).sum() + 0.5 * (margin == 0).sum()) / pairs
            told["margin"] += float(margin.detach().sum()) / pairs
            told["chosen_loss"] += float(own.detach())
        return {**told, "pairs": pairs, "trained_tokens": int(tokens[documents].sum())}
