"""Bring readings through a causal LM in batches: masses of one layer's attention, and the losses of answers.

Batches are those of `pipeline.lm`: padded on the right to a class of length, of one shape, without a mask; so an
answer's numbers do not depend on its company, bit for bit on a CPU. For masses the run ends at the probed layer, and
only an answer's rows are looked at; no language-model head is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch

from mixtura.errors import InputError
from mixtura.pipeline.attention import mass
from mixtura.pipeline.attention.account import account
from mixtura.pipeline.attention.conversation import Answer, Reading
from mixtura.pipeline.attention.mass import Layer
from mixtura.pipeline.attention.options import KINDS, USER, Way
from mixtura.pipeline.attention.watch import Reached, watching
from mixtura.pipeline.lengths import length_batches
from mixtura.pipeline.lm import LOGITS, CausalLM
from mixtura.pipeline.threads import one_thread

DEPTH = 15 / 22  # the layer that Wang et al. 2024 probe, of all layers
Head = tuple[int, int]  # layer, head


class AttentionReader:
    """A causal LM whose attention is read.

    Args:
        model: from `lm.open_model`.
        layer: whose attention counts, from 0; None takes the one at the paper's depth, or the nearest below it that
            sees the whole past.
        averaged: layers whose columns are averaged: `layer` and those below it that see as much; fewer where there are
            fewer.
        way: how masses are summed, see `mass`; auto takes the kernel where it computes the same, else `rows`.

    Raises:
        InputError: the model's attention cannot be read, or it has no such layer.
    """

    def __init__(self, model: CausalLM, *, layer: int | None = None, averaged: int = 1, way: Way = "auto") -> None:
        self.lm, self.way = model, way
        self.layers = self._attending()
        self.layer = self._default_layer() if layer is None else layer
        if self.layer not in self.layers:
            name = type(model.model).__name__
            raise InputError(
                "option layer",
                f"must be a layer of {name} with attention: {_ranges(sorted(self.layers))}",
                got=self.layer,
                next_step="Leave it out for the layer at the paper's depth",
            )
        alike = [i for i in sorted(self.layers) if i <= self.layer and self.layers[i] == self.layers[self.layer]]
        self.read_layers = tuple(alike[-averaged:])

    def accounts(self, readings: Sequence[Reading]) -> list[dict[int, dict[str, float]]]:
        """`account` of every answer of each reading, by its turn: the mean over the layers that are read."""
        return [
            {turn: {k: sum(one[k] for one in each) / len(each) for k in each[0]} for turn, each in found.items()}
            for found in self.accounts_by_layer(readings)
        ]

    def accounts_by_layer(self, readings: Sequence[Reading]) -> list[dict[int, list[dict[str, float]]]]:
        """Turn → `account` in each of `read_layers`, of every answer of each reading."""
        found: list[dict[int, list[dict[str, float]]]] = [{a.turn: [] for a in r.answers} for r in readings]

        def note(reading: int, _: int, layer: Layer) -> None:
            answers = readings[reading].answers
            masses, even, peaks = (x.cpu() for x in self._looks(layer, readings[reading], answers))
            at = 0
            for answer in answers:
                part = slice(at, at + len(answer))
                found[reading][answer.turn].append(account(masses[:, part], even[part], peaks[:, part]))
                at += len(answer)

        self._watch(readings, _Look(note, self.read_layers))
        return found

    def strongest_heads(self, readings: Sequence[Reading], share: float) -> list[Head]:
        """The heads of all layers that look most at the user's tokens, by the mean over answers.

        Args:
            readings: with an answer each at least.
            share: of all heads, rounded up.

        Returns:
            (layer, head), the strongest first.
        """
        seen: dict[tuple[int, int], np.ndarray] = {}

        def note(reading: int, index: int, layer: Layer) -> None:
            masses = self._masses(layer, readings[reading])
            seen[index, reading] = masses[..., USER].double().mean(1).cpu().numpy()

        self._watch(readings, _Look(note))
        totals = {i: np.sum([seen[at] for at in sorted(seen) if at[0] == i], axis=0) for i, _ in sorted(seen)}
        ranked = sorted(((-float(m), i, h) for i, t in totals.items() for h, m in enumerate(t)))
        return [(i, h) for _, i, h in ranked[: int(np.ceil(share * len(ranked)))]]

    def losses(self, readings: Sequence[Reading], barred: Sequence[Head] = ()) -> list[dict[int, float]]:
        """Each answer's summed token loss in nats, by its turn.

        Args:
            readings: conversations.
            barred: heads through which no token outside the user's text may see the user's tokens.
        """
        found: list[dict[int, float]] = [{} for _ in readings]
        bar = _Bar(barred)
        limit = max(1, LOGITS // self.lm.vocabulary)

        def lose(members: list[int], ids: torch.Tensor) -> None:
            bar.kinds = [readings[m].kinds for m in members]
            logits, first = self._logits(ids, readings, members, bar if barred else None)
            for at, member in enumerate(members):
                for answer in readings[member].answers:
                    found[member][answer.turn] = _loss(logits[at], ids[at], answer, first)

        for members, ids in self._batches(readings, min(self.lm.batch_tokens, limit)):
            self._run(lose, members, ids)
        return found

    def _logits(
        self, ids: torch.Tensor, readings: Sequence[Reading], members: list[int], bar: _Bar | None
    ) -> tuple[torch.Tensor, int]:
        """f[b, n, vocabulary] from position `first` on; a row alone needs no logits before its first answer."""
        first, options = 0, {}
        if len(ids) == 1:
            first = readings[members[0]].answers[0].begin - 1
            options = {"logits_to_keep": ids.shape[1] - first}
        if bar is None:
            return self.lm.model(input_ids=ids, **options).logits, first
        with watching(self.lm.model, bar):
            return self.lm.model(input_ids=ids, **options).logits, first

    def _looks(
        self, layer: Layer, reading: Reading, answers: Sequence[Answer]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the answers' rows: masses f32[H, r, s], even masses f32[r, s], and peaks on users' tokens f32[H, r]."""
        layer, spans, rows = self._rows(layer, reading, answers)
        masses = mass.WAYS[self._way_for(layer)](layer, spans, rows)
        return masses, mass.uniform(layer, spans, rows), mass.peaks(layer, spans[:, USER] > 0, rows)

    def _masses(self, layer: Layer, reading: Reading) -> torch.Tensor:
        """f32[H, r, s], of the rows of all answers, one after the other."""
        layer, spans, rows = self._rows(layer, reading, reading.answers)
        return mass.WAYS[self._way_for(layer)](layer, spans, rows)

    def _rows(
        self, layer: Layer, reading: Reading, answers: Sequence[Answer]
    ) -> tuple[Layer, torch.Tensor, torch.Tensor]:
        """The layer without padding, the kinds' indicators f32[n, s], and the answers' rows i64[r]."""
        device, n = layer.query.device, len(reading.kinds)
        spans = mass.indicator(torch.from_numpy(reading.kinds).to(device), len(KINDS))
        rows = torch.cat([torch.arange(a.begin, a.end) for a in answers]).to(device)
        mask = None if layer.mask is None else layer.mask[:, :n, :n]
        return Layer(layer.query[:, :n], layer.key[:, :n], layer.scale, mask, layer.softcap, layer.sinks), spans, rows

    def _way_for(self, layer: Layer) -> str:
        fits = layer.plain and len(KINDS) <= layer.query.shape[-1]
        if self.way == "auto":
            return "indicator" if fits else "rows"
        if self.way in ("indicator", "lse") and not fits:
            need = "must be auto, rows or naive where a layer has a window, a softcap or sinks"
            raise InputError("option way", need, got=self.way)
        return self.way

    def _watch(self, readings: Sequence[Reading], look: _Look) -> None:
        def show(members: list[int], ids: torch.Tensor) -> None:
            look.members = members
            with suppress(Reached):
                self.lm.model.base_model(input_ids=ids)

        with watching(self.lm.model, look):
            for members, ids in self._batches(readings, self.lm.batch_tokens):
                self._run(show, members, ids)

    def _run(self, work: Callable[[list[int], torch.Tensor], None], members: list[int], ids: torch.Tensor) -> None:
        """One batch; in halves where the device has not the memory for it, down to a row alone.

        Raises:
            InputError: there is not the memory for one row.
        """
        try:
            with torch.inference_mode(), one_thread():
                work(members, ids)
            return
        except torch.OutOfMemoryError as e:
            if len(ids) == 1:
                got, step = f"too little memory for one row of {ids.shape[1]}", "Lower it, or take a smaller model"
                raise InputError("option max_tokens", "must fit the device", got=got, next_step=step) from e
        half = (len(ids) + 1) // 2
        for some, rows in ((members[:half], ids[:half]), (members[half:], ids[half:])):
            if some:
                self._run(work, some, rows)

    def _batches(self, readings: Sequence[Reading], batch_tokens: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(readings, ids i64[b, n]) of those with an answer; beyond them, b is filled with copies."""
        kept = [i for i, r in enumerate(readings) if r.answers]
        lengths = np.array([len(readings[i].tokens) for i in kept], np.int64)
        for rows, length in length_batches(lengths, batch_tokens, self.lm.window):
            members = [kept[r] for r in rows]
            ids = np.zeros((max(len(members), batch_tokens // length, 1), length), np.int64)
            for at in range(len(ids)):
                tokens = readings[members[min(at, len(members) - 1)]].tokens
                ids[at, : len(tokens)] = tokens
            yield members, torch.from_numpy(ids).to(self.lm.device)

    def _attending(self) -> dict[int, bool]:
        """The layers that attend, and whether each sees the whole past."""
        seen: list[int] = []
        look = _Look(lambda _, index, __: seen.append(index))
        look.members = [0]
        model = self.lm.model
        try:
            with watching(model, look), torch.inference_mode(), one_thread():
                model.base_model(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=self.lm.device))
        except ValueError:
            seen = []
        if not seen or min(seen) < 0:
            raise InputError(
                f"model {self.lm.folder!r}",
                "must attend through transformers' attention interface, so that its attention can be read",
                got=type(model).__name__,
                next_step="Name another causal LM; Llama, Qwen, Gemma, Mistral and GPT-2 shapes do",
            )
        types = getattr(model.config.get_text_config(), "layer_types", None) or []
        return {i: i >= len(types) or types[i] == "full_attention" for i in seen}

    def _default_layer(self) -> int:
        wanted = int((max(self.layers) + 1) * DEPTH)
        below = [i for i in sorted(self.layers) if i <= wanted] or [min(self.layers)]
        return next((i for i in reversed(below) if self.layers[i]), below[-1])


class _Look:
    """Show each sequence's layer to `note(reading, index, layer)`; of `only` some layers, and no further than these."""

    def __init__(self, note: Callable[[int, int, Layer], None], only: Sequence[int] = ()) -> None:
        self.note, self.only = note, frozenset(only)
        self.members: list[int] = []

    def see(self, index: int, layers: list[Layer]) -> None:
        """Of the batch's members; copies that fill it up are passed over."""
        if not self.only or index in self.only:
            for member, layer in zip(self.members, layers, strict=False):
                self.note(member, index, layer)
        if self.only and index == max(self.only):
            raise Reached

    def change(self, index: int, layers: list[Layer], values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return output


class _Bar:
    """Give some heads the output that they would have if the user's tokens were not there."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads: dict[int, list[int]] = {}
        for index, head in heads:
            self.heads.setdefault(index, []).append(head)
        self.kinds: list[np.ndarray] = []

    def see(self, index: int, layers: list[Layer]) -> None:
        """Nothing to see."""

    def change(self, index: int, layers: list[Layer], values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Rows outside the user's text, through the barred heads of this layer."""
        if index not in self.heads:
            return output
        output = output.clone()
        heads = torch.tensor(self.heads[index], device=output.device)
        for b, kinds in enumerate(self.kinds):
            layer, n = layers[b], len(kinds)
            user = torch.from_numpy(kinds == USER).to(output.device)
            rows = torch.nonzero(~user)[:, 0]
            groups = heads // (layer.query.shape[0] // layer.key.shape[0])
            mask = layer.mask if layer.mask is None or len(layer.mask) == 1 else layer.mask[heads]
            sinks = None if layer.sinks is None else layer.sinks[heads]
            alone = Layer(layer.query[heads], layer.key[groups], layer.scale, mask, layer.softcap, sinks)
            barred = torch.nn.functional.pad(user, (0, layer.key.shape[1] - n))
            mixed = mass.by_rows(alone, values[b, groups], rows, barred)
            output[b, rows[:, None], heads] = mixed.transpose(0, 1).to(output.dtype)
        return output


def _loss(logits: torch.Tensor, ids: torch.Tensor, answer: Answer, first: int) -> float:
    """Nats of one answer's tokens, each given all before it; logits f[n, vocabulary] from position `first` on."""
    said = logits[answer.begin - 1 - first : answer.end - 1 - first].float()
    each = torch.nn.functional.cross_entropy(said, ids[answer.begin : answer.end], reduction="none")
    return float(each.double().sum())


def _ranges(numbers: list[int]) -> str:
    """0 to 29, or a list where there are gaps."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
