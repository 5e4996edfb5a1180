"""The training loop: AdamW, linear warm-up and cosine decay, clipped gradients, the whole batch as one mean.

The loss of a step is the sum over its trained tokens divided by their number in the *whole* step, so that neither
the micro-batch nor the way rows are packed changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from mixtura.recipe import Train
from mixtura.trainer.encode import Encoded
from mixtura.trainer.evaluate import loss_sum
from mixtura.trainer.packing import collate

BETAS = (0.9, 0.95)  # Iyer et al. 2022 (OPT-IML), appendix; 0.999 forgets too slowly for a few hundred steps


@dataclass(frozen=True)
class Progress:
    """One finished step, for a progress bar. loss: nats per trained token; tokens: of this step, padding left out."""

    step: int
    steps: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class Plan:
    """Which packed sequences each step sees; a function of the seed and the step alone.

    Every epoch sees every sequence once, in an order of its own; the last step may be smaller.
    """

    sequences: int  # in one epoch
    per_step: int
    total: int  # sequences over all steps
    seed: int

    @classmethod
    def of(cls, spec: Train, sequences: int, seed: int) -> Plan:
        """The plan for `sequences` packed sequences an epoch."""
        per_step = max(1, spec.batch_tokens // spec.sequence_length)
        total = spec.steps * per_step if spec.steps else math.ceil(spec.epochs * sequences)
        return cls(sequences, per_step, total, seed)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return -(-self.total // self.per_step)

    def step(self, step: int) -> list[int]:
        """Sequence numbers of one step, from 0."""
        places = range(step * self.per_step, min((step + 1) * self.per_step, self.total))
        return [int(self._order(p // self.sequences)[p % self.sequences]) for p in places]

    @lru_cache(maxsize=2)  # noqa: B019  (a plan lives as long as its run)
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.sequences)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then half a cosine towards 0 (Loshchilov and Hutter 2017).

    Args:
        step: from 0.
        steps: of the run.
        peak: highest rate, reached at the first step after the warm-up.
        warmup: share of the steps, 0 to 1.
    """
    warm = min(round(warmup * steps), steps - 1)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def optimizer_for(model: nn.Module, spec: Train) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on gains and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=BETAS, fused=True)


@dataclass
class Loop:
    """One run's moving parts.

    encoded, packs: the training rows and their sequences; device: where the model is.
    """

    model: nn.Module
    optimizer: torch.optim.AdamW
    encoded: Encoded
    packs: list[list[int]]
    plan: Plan
    spec: Train
    device: torch.device

    def run(
        self, start: int, after_step: Callable[[int, dict[str, Any]], None], progress: Callable[[Progress], None] | None
    ) -> None:
        """Do the steps from `start` on; `after_step` is told how many are done, and the last one's metrics."""
        self.model.train()
        for step in range(start, self.plan.steps):
            line = self._step(step)
            after_step(step + 1, line)
            if progress is not None:
                progress(Progress(step + 1, self.plan.steps, line["loss"], line["tokens"]))

    def _step(self, step: int) -> dict[str, Any]:
        torch.manual_seed((self.plan.seed + 1) * 1_000_003 + step & (1 << 63) - 1)  # dropout: from seed and step alone
        rate = learning_rate(step, self.plan.steps, peak=self.spec.learning_rate, warmup=self.spec.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        packs = [self.packs[i] for i in self.plan.step(step)]
        line = self._accumulate(packs)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "step": step + 1,
            "loss": line.pop("loss"),
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "tokens": sum(self.encoded.length(d) for p in packs for d in p),
            **line,
        }

    def _accumulate(self, packs: list[list[int]]) -> dict[str, Any]:
        """Add up the gradient of the step's mean loss; returns the loss and what else of the step is told."""
        trained = sum(int(self.encoded[d][1].sum()) for p in packs for d in p)
        total = 0.0
        for micro in self._micro_batches(packs):
            loss = loss_sum(self.model, collate(self.encoded, micro).to(self.device))
            (loss / trained).backward()
            total += float(loss.detach())
        return {"loss": total / trained, "trained_tokens": trained}

    def _micro_batches(self, packs: list[list[int]]) -> Iterator[list[list[int]]]:
        for at in range(0, len(packs), self.spec.micro_batch):
            yield packs[at : at + self.spec.micro_batch]
