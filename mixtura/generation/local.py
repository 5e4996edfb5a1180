"""A transformers model on this machine, sampled many rows at a time.

A prompt is read once for all its samples, and what it shares with others (system turn, tools) once for them all; then
the samples of many asks go on together (`decoding`), a finished one making room for the next. Each draw has its own
random numbers, keyed by seed, ask and sample. On a CPU (f32, one thread) an ask gets the same replies whatever its
company; on a GPU (bf16) rounding may differ between batches, and with it a draw at the edge between two tokens.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixtura.generation.contract import Ask, Likelihood, Reply
from mixtura.generation.decoding import Decoding, Draw, chances
from mixtura.generation.prompts import Prompt, Prompts, Unaskable
from mixtura.generation.slots import Layers, check_layers, read
from mixtura.pipeline.lengths import length_class
from mixtura.pipeline.lm import LIBRARIES, CausalLM, Located
from mixtura.pipeline.threads import one_thread
from mixtura.store import code_version

KEPT = 16  # beginnings read last that are kept for the next ask; those that share one come one after the other


@dataclass(frozen=True)
class _Put:
    """An ask as tokens.

    limit: tokens of an answer; width: the slots it needs.
    """

    row: int
    prompt: Prompt
    limit: int
    width: int


class LocalModel:
    """A generator and judge on this machine.

    Args:
        lm: an opened causal LM; its window is the longest prompt and answer together.
        located: where it was found; its identity is the generator's.

    Raises:
        InputError: it has no chat template, or layers that cannot be kept token by token.
    """

    def __init__(self, lm: CausalLM, located: Located) -> None:
        check_layers(lm.model, lm.folder)
        self.lm, self.prompts, self.stops = lm, Prompts(lm.tokenizer, lm.folder), _stops(lm)
        self.vocabulary = min(len(lm.tokenizer), lm.vocabulary)
        self._identity = located.identity | {"window": lm.window, "code": code_version(__name__, LIBRARIES)}
        self._kept: OrderedDict[tuple[tuple[int, ...], ...], tuple[Layers, torch.Tensor]] = OrderedDict()

    @property
    def identity(self) -> dict[str, Any]:
        """The model by its contents, and what decides its numbers."""
        return self._identity

    def replies(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        """As `Generator.replies`. An ask that the window or the template does not take is `refused`."""
        made = dict(self.stream(asks, samples=samples, max_tokens=max_tokens, temperature=temperature, seed=seed))
        return [made[i] for i in range(len(asks))]

    def stream(
        self, asks: Sequence[Ask], *, samples: int, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[int, list[Reply]]]:
        """As `Streams.stream`: the longest prompts first, so that memory that runs out does so at once."""
        if temperature == 0 and samples > 1:
            for row, once in self.stream(asks, samples=1, max_tokens=max_tokens, temperature=0, seed=seed):
                yield row, once * samples
            return
        widths: dict[int, list[_Put]] = {}
        for row, ask in enumerate(asks):
            put = self._put(row, ask, max_tokens)
            if isinstance(put, Reply):
                yield row, [put] * samples
            else:
                widths.setdefault(put.width, []).append(put)
        for width in sorted(widths, reverse=True):
            puts = sorted(widths[width], key=lambda p: (p.prompt.shared, p.prompt.own, p.prompt.begun))
            waiting = deque(
                (p.prompt, Draw(p.row, s, p.limit, chances(asks[p.row], s, p.limit, seed)))
                for p in puts
                for s in range(samples)
            )
            yield from self._together(waiting, width, temperature, {p.row: p.prompt.last for p in puts}, samples)

    def likelihoods(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        """As `Judge.likelihoods`, at temperature 1."""
        return [self._likelihood(a, b, alone=False) for a, b in zip(asks, answers, strict=True)]

    def alone(self, asks: Sequence[Ask], answers: Sequence[Mapping[str, Any]]) -> list[Likelihood | None]:
        """How likely each answer is where nothing was asked, after the start token alone.

        Source: Li et al. 2024, From Quantity to Quality, section 2.2: the denominator of IFD.
        """
        return [self._likelihood(a, b, alone=True) for a, b in zip(asks, answers, strict=True)]

    def _put(self, row: int, ask: Ask, max_tokens: int) -> _Put | Reply:
        try:
            prompt = self.prompts.prompt(ask)
        except Unaskable as e:
            return _refused(f"the chat template refuses it: {e}")
        limit = min(max_tokens, self.lm.window - len(prompt))
        if limit < 1 or not len(prompt):
            return _refused(f"a prompt of {len(prompt)} tokens leaves no room in a window of {self.lm.window}")
        return _Put(row, prompt, limit, length_class(len(prompt) + limit, self.lm.window))

    def _together(
        self, waiting: deque[tuple[Prompt, Draw]], width: int, temperature: float, last: dict[int, int], samples: int
    ) -> Iterator[tuple[int, list[Reply]]]:
        """Draws whose slots have one width, each ask's replies once its last draw is finished."""
        decoding = Decoding(
            self.lm.model, vocabulary=self.vocabulary, stops=self.stops, temperature=temperature, width=width,
            wanted=len(waiting),
        )  # fmt: skip
        done: dict[int, list[Draw]] = {}
        while waiting or decoding.busy:
            for draw in self._advance(decoding, waiting):
                of_row = done.setdefault(draw.row, [])
                of_row.append(draw)
                if len(of_row) == samples:
                    ordered = sorted(done.pop(draw.row), key=lambda d: d.sample)
                    yield draw.row, [self._reply(d, last[draw.row]) for d in ordered]

    def _advance(self, decoding: Decoding, waiting: deque[tuple[Prompt, Draw]]) -> list[Draw]:
        """Fill free slots, take a step, and hand over what is finished."""
        finished = []
        with torch.inference_mode(), one_thread():
            while waiting and decoding.has_room:
                prompt, draw = waiting.popleft()
                if decoding.add(draw, *self._beginning(prompt.parts)):
                    finished.append(draw)
            if decoding.busy:
                finished += decoding.step()
        return finished

    def _beginning(self, parts: list[tuple[int, ...]]) -> tuple[Layers, torch.Tensor]:
        """Keys and values of a prompt, and the logits after it; read part by part, whatever is kept of it."""
        layers: Layers = []
        logits = torch.empty(0)
        for n, part in enumerate(parts, 1):
            key = tuple(parts[:n])
            if key not in self._kept:
                self._kept[key] = read(self.lm.model, layers, part, keep=1)
            self._kept.move_to_end(key)
            layers, logits = self._kept[key]
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return layers, logits

    def _reply(self, draw: Draw, last: int) -> Reply:
        written = draw.ids[:-1] if draw.stopped else draw.ids
        pieces = self.prompts.pieces(last, written, draw.log_probabilities)
        return Reply(
            "".join(p.text for p in pieces),
            len(draw.ids),
            sum(draw.log_probabilities),
            "stop" if draw.stopped else "length",
            pieces,
        )

    def _likelihood(self, ask: Ask, answer: Mapping[str, Any], *, alone: bool) -> Likelihood | None:
        try:
            prompt = self.prompts.answered(ask, answer, self.stops)
        except Unaskable:
            return None
        start = (self.lm.start,) if self.lm.start is not None else ()
        before = [start] if alone else [p for p in (prompt.shared, prompt.own) if p]
        answered = prompt.begun
        if not before[-1:] or not before[-1] or not answered or sum(map(len, before)) + len(answered) > self.lm.window:
            return None
        with torch.inference_mode(), one_thread():
            layers, first = self._beginning(before)
            _, rest = read(self.lm.model, layers, answered, keep=len(answered))
            logits = torch.cat([first[-1:], rest[:-1]])[:, : self.vocabulary].float()
            ids = torch.tensor(answered, device=logits.device)[:, None]
            total = torch.log_softmax(logits, -1).gather(1, ids).double().sum()
        return Likelihood(float(total), len(answered))


def _refused(reason: str) -> Reply:
    return Reply("", 0, None, "refused", reason=reason)


def _stops(lm: CausalLM) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's end token, and those of the model's generation settings."""
    named: Any = getattr(lm.model.generation_config, "eos_token_id", None)
    ends: Any = lm.tokenizer.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(i for i in (*several, ends) if isinstance(i, int))
