"""What a run measures before its first step and after its last: every held-out split, rows and pairs alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from mixtura.recipe import Train
from mixtura.store import seal
from mixtura.trainer.encode import Encoded
from mixtura.trainer.evaluate import evaluate
from mixtura.trainer.preference import evaluate_pairs, for_pairs, log_probabilities


@dataclass(frozen=True)
class Split:
    """Rows or pairs of one split, encoded and packed."""

    encoded: Encoded
    packs: list[list[int]]
    pairs: bool


class Judge:
    """Measures one model on one device.

    Args:
        model: as it is trained; its weights are read at each call.
        data: every split, `train` too.
        spec: the trainer's settings.
        device: where the model is.
        together: whether documents may share a sequence.
    """

    def __init__(
        self, model: nn.Module, data: dict[str, Split], spec: Train, device: torch.device, *, together: bool
    ) -> None:
        self._model, self._data, self._spec, self._device, self._together = model, data, spec, device, together

    def measure(self, reference: dict[str, np.ndarray]) -> dict[str, Any]:
        """Facts of each held-out split that has tokens to measure; `reference` is of the start model, by split."""
        return {
            name: self._measure(split, reference.get(name))
            for name, split in self._data.items()
            if name != "train" and split.encoded.counts.trained_tokens
        }

    def reference(self, path: Path) -> dict[str, np.ndarray]:
        """f32[documents] of each split of pairs: log-probabilities of its answers under the start model, in nats.

        They are read where an earlier, killed run left them; zeros where the loss has no reference.
        """
        pairs = {n: s for n, s in self._data.items() if s.pairs}
        if self._spec.preference.loss == "simpo":
            return {n: np.zeros(len(s.encoded), np.float32) for n, s in pairs.items()}
        if pairs and not path.exists():
            draft = path.with_name(f".{path.name}")
            save_file({n: self._log_probabilities(s) for n, s in pairs.items()}, draft)
            seal(draft)
            draft.replace(path)
        return load_file(path) if pairs else {}

    def _measure(self, split: Split, reference: np.ndarray | None) -> dict[str, Any]:
        if reference is None:
            micro = self._spec.micro_batch
            return evaluate(self._model, split.encoded, split.packs, micro_batch=micro, device=self._device).facts()
        log_p = self._log_probabilities(split)
        return evaluate_pairs(self._spec.preference, split.encoded, log_p, reference).facts()

    def _log_probabilities(self, split: Split) -> np.ndarray:
        micro = for_pairs(self._spec).micro_batch
        return log_probabilities(
            self._model, split.encoded, split.packs, together=self._together, micro=micro, device=self._device
        )
