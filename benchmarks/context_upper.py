"""A causal LM cut in two: what the lower layers make of a row is kept, and only the upper layers are fine-tuned.

The lower layers read each row once, however many arms and epochs learn from it; so a model of 135 million parameters
can be tuned some twenty times in an hour of one processor core. For models of Llama's form, whose layers take the
hidden states of the one below and nothing else.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixtura.recipe import Train
from mixtura.trainer.indicator import add_indicator
from mixtura.trainer.loop import learning_rate, optimizer_for
from mixtura.trainer.model import Loaded, load

TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""  # ChatML without a system prompt
BATCH = 8  # rows of an optimiser step


@dataclass(frozen=True)
class Item:
    """A row as tokens: i64[n]; the answer and its end are from `begin` on."""

    tokens: np.ndarray
    begin: int


@dataclass(frozen=True)
class Told:
    """How well a model says a row's own answer. exact: greedy decoding gives it; nats: of its tokens, on average."""

    exact: bool
    nats: float


class CutModel:
    """Lower and upper layers.

    Args:
        folder: of the model.
        indicator: a token of its own, which starts, and stays, at the mean of the others.
        upper: layers that are tuned, the last ones.
        cache: folder that keeps what the lower layers made of a row.
    """

    def __init__(self, folder: Path, indicator: str, upper: int, cache: Path) -> None:
        loaded = load(Train(model=str(folder), sequence_length=256), str(folder))
        self.tokenizer, self.model = loaded.tokenizer, loaded.model.eval()
        self.tokenizer.chat_template = TEMPLATE
        add_indicator(Loaded(self.model, self.tokenizer, loaded.dtype), indicator)
        self.model.requires_grad_(False)
        self.cache = cache / f"below-{upper}"
        self.cache.mkdir(parents=True, exist_ok=True)
        body: Any = self.model.model
        self.body, layers = body, body.layers
        body.layers = layers[: len(layers) - upper]
        body.config.num_hidden_layers = len(body.layers)
        self.norm, self.head = body.norm, self.model.get_output_embeddings()
        body.norm = nn.Identity()
        self._upper = layers[len(layers) - upper :]

    def item(self, question: str, answer: str) -> Item:
        """An exchange through the template."""
        asked = [{"role": "user", "content": question}]
        prompt: Any = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        begin = len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])  # pyright: ignore[reportArgumentType]
        whole: Any = self.tokenizer(f"{prompt}{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
        return Item(np.array(whole, np.int64), begin)

    def upper(self) -> UpperModel:
        """The upper layers as they came, to be tuned."""
        body = copy.copy(self.body)
        body._modules = dict(self.body._modules)
        body.layers, body.norm = copy.deepcopy(self._upper), copy.deepcopy(self.norm)
        body.config = copy.deepcopy(self.body.config)
        body.config.num_hidden_layers = len(body.layers)
        for part in (body.layers, body.norm):
            part.requires_grad_(True)
        return UpperModel(body, self.head)

    @torch.inference_mode()
    def below(self, items: Sequence[Item]) -> list[torch.Tensor]:
        """f32[n, d] of each row: what the lower layers hand up."""
        return [self._below(item) for item in items]

    def _below(self, item: Item) -> torch.Tensor:
        path = self.cache / f"{hashlib.sha256(item.tokens.tobytes()).hexdigest()[:24]}.npy"
        if not path.exists():
            ids = torch.from_numpy(item.tokens)[None]
            np.save(path, self.body(input_ids=ids, use_cache=False).last_hidden_state[0].numpy())
        return torch.from_numpy(np.load(path, allow_pickle=False))


class UpperModel:
    """Layers that take hidden states.

    Args:
        body: of a model, with the upper layers alone; `inputs_embeds` are the states below them.
        head: the frozen output embedding.
    """

    def __init__(self, body: Any, head: Any) -> None:
        self.body, self.head = body, head

    def _answers(self, items: Sequence[Item], below: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """f32[t, vocabulary] and i64[t]: logits and tokens of all answers, one after the other."""
        width = max(len(i.tokens) for i in items)
        states = torch.zeros((len(items), width, below[0].shape[1]))
        for at, state in enumerate(below):
            states[at, : len(state)] = state  # causal: what stands behind a row changes nothing
        out = self.body(inputs_embeds=states, use_cache=False).last_hidden_state
        said = torch.cat([out[at, i.begin - 1 : len(i.tokens) - 1] for at, i in enumerate(items)])
        return self.head(said), torch.cat([torch.from_numpy(i.tokens[i.begin :]) for i in items])

    def tune(
        self, items: Sequence[Item], below: Sequence[torch.Tensor], *, rate: float, epochs: int, seed: int
    ) -> list[float]:
        """Learn the answers; loss of every step, nats a token."""
        optimizer = optimizer_for(self.body, Train(model="", learning_rate=rate))
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(len(items)) for _ in range(epochs)])
        steps = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        losses = []
        for step, members in enumerate(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, len(steps), peak=rate, warmup=0.1)
            logits, tokens = self._answers([items[i] for i in members], [below[i] for i in members])
            loss = nn.functional.cross_entropy(logits, tokens)
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in self.body.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
        return losses

    @torch.inference_mode()
    def told(self, items: Sequence[Item], below: Sequence[torch.Tensor]) -> list[Told]:
        """Of each row."""
        out: list[Told] = []
        for at in range(0, len(items), BATCH):
            some = items[at : at + BATCH]
            logits, tokens = self._answers(some, below[at : at + BATCH])
            nats = nn.functional.cross_entropy(logits, tokens, reduction="none")
            best = (
                logits.argmax(1) == tokens
            )  # along the true answer: all of them are best where greedy decoding says it
            sizes = [len(i.tokens) - i.begin for i in some]
            parts = zip(best.split(sizes), nats.split(sizes), strict=True)
            out += [Told(bool(b.all()), float(n.mean())) for b, n in parts]
        return out
