"""The model that a probe trains: loaded, or a small one pre-trained on the reference; warmed up, measured, set back."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mixtura.recipe import Probe, TinyModel, Train
from mixtura.trainer.chat import Chat
from mixtura.trainer.encode import Encoded, encode
from mixtura.trainer.evaluate import row_losses
from mixtura.trainer.loop import Loop, Plan, optimizer_for
from mixtura.trainer.mixture import Row
from mixtura.trainer.model import Loaded, load, prepare_tiny, quiet, save
from mixtura.trainer.packing import keeps_documents_apart, pack

PEAK = 3e-3  # of the pre-training: small models bear, and need, ten times the rate of fine-tuning


def prepare(spec: Probe, reference: Sequence[Row], folder: Path, *, seed: int) -> Path:
    """Pre-train a small model on the reference, and save it; the tokenizer learns from the same rows.

    Args:
        spec: with a TinyModel.
        reference: rows in any order.
        folder: to write, whole or not at all.
        seed: of weights and order.
    """
    assert isinstance(spec.model, TinyModel)
    with tempfile.TemporaryDirectory() as untrained:
        begin = prepare_tiny(_texts(reference), spec.model, Path(untrained) / "model", seed=seed)
        learner = Learner(begin, spec)
    learner.train(learner.encode(reference), spec.pretrain_tokens, rate=PEAK, seed=seed)
    with quiet():
        save(learner.loaded, folder)
    return folder


def _texts(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield from [row.text] if row.text else [t.get("content") or "" for t in row.messages or []]


class Learner:
    """A causal LM that can be set back to where it began.

    Args:
        folder: of the model.
        spec: the probe's settings.

    Raises:
        InputError: see `trainer.model.load`.
    """

    def __init__(self, folder: Path | str, spec: Probe) -> None:
        self.spec = spec
        self.settings = Train(
            sequence_length=spec.sequence_length, batch_tokens=spec.batch_tokens, micro_batch=spec.micro_batch
        )
        with quiet():
            self.loaded: Loaded = load(self.settings, str(folder))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = torch.nn.Module.to(self.loaded.model, self.device)
        self.chat = Chat(self.loaded.tokenizer)
        self.together = keeps_documents_apart(self.model, self.device)
        self.start = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the first weights; of the tokenizer, the token ids of what is encoded tell."""
        known = hashlib.sha256()
        for name, weight in self.start.items():
            known.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            known.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return known.hexdigest()

    def encode(self, rows: Sequence[Row]) -> Encoded:
        """Token ids; of conversations only answers are trained on."""
        return encode(rows, self.chat, length=self.spec.sequence_length, loss="completion")

    def reset(self) -> None:
        """Back to the first weights."""
        self.model.load_state_dict(self.start)

    def train(self, encoded: Encoded, tokens: int, *, rate: float, seed: int) -> None:
        """Steps of `batch_tokens` until `tokens` are seen; rows that hold fewer are seen again.

        Args:
            encoded: what to train on.
            tokens: in all; rounded to whole steps.
            rate: peak of the cosine schedule.
            seed: of the order.
        """
        steps = max(1, round(tokens / self.spec.batch_tokens))
        spec = self.settings.model_copy(update={"steps": steps, "learning_rate": rate})
        packs = pack(encoded, spec.sequence_length, seed, together=self.together)
        plan = Plan.of(spec, len(packs), seed)
        optimizer = optimizer_for(self.model, spec)
        Loop(self.model, optimizer, encoded, packs, plan, spec, self.device).run(0, lambda *_: None, None)

    def losses(self, encoded: Encoded) -> np.ndarray:
        """f64[rows], nats of each row."""
        packs = pack(encoded, self.spec.sequence_length, 0, together=self.together)
        return row_losses(self.model, encoded, packs, micro_batch=self.spec.micro_batch, device=self.device)
