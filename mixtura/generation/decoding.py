"""Draws under way: many samples advance by a token per step, each by its own random numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from mixtura.generation.contract import Ask
from mixtura.generation.slots import Layers, Slots

CPU_ROWS = 16  # slots of a batch: enough to keep a core busy, and few enough that the last draws do not wait long
GPU_ROWS = 256
CACHE_BYTES = {"cpu": 1 << 29, "mps": 2 << 30, "cuda": 8 << 30}  # keys and values of one batch


@dataclass
class Draw:
    """One sample of one ask.

    row: number of the ask; sample: number among its samples; limit: tokens at most.
    chances: f64[limit], uniform in [0, 1): the random number of each token.
    """

    row: int
    sample: int
    limit: int
    chances: np.ndarray
    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    stopped: bool = False

    def take(self, token: int, log_probability: float, stops: frozenset[int]) -> bool:
        """Append a token; whether the draw is finished by it."""
        self.ids.append(token)
        self.log_probabilities.append(log_probability)
        self.stopped = token in stops
        return self.stopped or len(self.ids) == self.limit


def chances(ask: Ask, sample: int, limit: int, seed: int) -> np.ndarray:
    """f64[limit], the random numbers of one sample: a longer limit extends a shorter one."""
    key = np.frombuffer(bytes.fromhex(ask.digest)[:24], np.uint32).tolist()
    return np.random.default_rng([*key, sample, seed]).random(limit)


class Decoding:
    """A batch of draws in slots of one width.

    Args:
        model: the model.
        vocabulary: tokens that may be drawn; rows of the logits beyond it are padding.
        stops: tokens that end an answer.
        temperature: 0 takes the likeliest token.
        width: places of a slot.
        wanted: draws that will come; on a GPU no more slots than that are made.
    """

    def __init__(
        self, model: PreTrainedModel, *, vocabulary: int, stops: frozenset[int], temperature: float, width: int,
        wanted: int,
    ) -> None:  # fmt: skip
        self.model, self.vocabulary, self.stops, self.temperature = model, vocabulary, stops, temperature
        self.width, self.wanted = width, wanted
        self.busy: dict[int, Draw] = {}
        self._slots: Slots | None = None
        self._free: deque[int] = deque()
        self._last = np.zeros(0, np.int64)

    @property
    def has_room(self) -> bool:
        """Whether another draw can be added."""
        return self._slots is None or bool(self._free)

    def add(self, draw: Draw, prompt: Layers, logits: torch.Tensor) -> bool:
        """Take the first token of a draw, [1, vocabulary] its logits; whether it is finished by it."""
        if self._slots is None:
            rows = _rows(prompt, self.width, self.wanted)
            self._slots = Slots(self.model, rows=rows, width=self.width, like=prompt)
            self._free.extend(range(rows))
            self._last = np.zeros(rows, np.int64)
        ids, log_probabilities = self._choose(logits, draw.chances[:1])
        if draw.take(int(ids[0]), float(log_probabilities[0]), self.stops):
            return True
        slot = self._free.popleft()
        self._slots.place(slot, prompt)
        self.busy[slot], self._last[slot] = draw, ids[0]
        return False

    def step(self) -> list[Draw]:
        """Take one token of every busy draw; those that are finished leave their slots."""
        assert self._slots is not None
        at = np.zeros(len(self._last))
        for slot, draw in self.busy.items():
            at[slot] = draw.chances[len(draw.ids)]
        logits = self._slots.step(torch.from_numpy(self._last).to(self.model.device))
        self._last, log_probabilities = self._choose(logits, at)
        finished = [
            s for s, d in self.busy.items() if d.take(int(self._last[s]), float(log_probabilities[s]), self.stops)
        ]
        self._free.extend(finished)
        return [self.busy.pop(slot) for slot in finished]

    def _choose(self, logits: torch.Tensor, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """i64[n] tokens and f64[n] their log p at temperature 1: the token at which the cumulated p passes `chance`."""
        known = logits[:, : self.vocabulary].float()
        if self.temperature == 0:
            ids = known.argmax(-1)
        else:
            passed = torch.softmax(known / self.temperature, -1).double().cumsum(-1)
            mark = torch.from_numpy(chance).to(passed.device)[:, None] * passed[:, -1:]
            ids = torch.searchsorted(passed, mark, right=True)[:, 0].clamp_(max=known.shape[1] - 1)
        of_ids = torch.log_softmax(known, -1).gather(1, ids[:, None])[:, 0]
        return ids.cpu().numpy(), of_ids.double().cpu().numpy()


def _rows(prompt: Layers, width: int, wanted: int) -> int:
    """Slots of a batch: on a CPU by the model and the width alone, so that a row's arithmetic is always the same."""
    device = prompt[0][0].device.type
    place = sum(k[0, :, 0].nbytes + v[0, :, 0].nbytes for k, v in prompt)
    fit = max(1, CACHE_BYTES[device] // (place * width))
    return min(fit, CPU_ROWS) if device == "cpu" else min(fit, GPU_ROWS, wanted)
