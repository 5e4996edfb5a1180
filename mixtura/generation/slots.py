"""A key-value cache of fixed shape, in which each row stands at its own length.

Every row of a batch is a slot of `width` places; token i of a row is kept at place i, whatever its neighbours hold. So
no row is padded, a finished row's slot is taken by the next row while others go on, and each step has one shape: on a
CPU a row's numbers are equal bit for bit whichever rows share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from mixtura.errors import InputError

Layers = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer, [1, heads, tokens, width of a head]

KINDS = {"full_attention", "sliding_attention"}


class Slots:
    """Slots of one batch.

    Args:
        model: the model.
        rows: slots.
        width: places of each, the longest row it can hold.
        like: the layers of some prompt: number, heads and type are taken from it.
    """

    def __init__(self, model: PreTrainedModel, *, rows: int, width: int, like: Layers) -> None:
        self.model, self.rows, self.width = model, rows, width
        self.device = like[0][0].device
        self.used = torch.zeros(rows, dtype=torch.int64, device=self.device)  # tokens in each slot
        self.layers = [_SlotLayer(self.used, rows, width, k, v) for k, v in like]
        self._places = torch.arange(width, device=self.device)
        self._windows = _windows(model)
        self._least = torch.finfo(like[0][0].dtype).min

    def place(self, slot: int, prompt: Layers) -> None:
        """Let a slot hold a prompt; what it held before is overwritten or never looked at."""
        length = prompt[0][0].shape[2]
        for layer, (keys, values) in zip(self.layers, prompt, strict=True):
            layer.keys[slot, :, :length] = keys[0]
            layer.values[slot, :, :length] = values[0]
        self.used[slot] = length

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to each slot and read on.

        Args:
            tokens: i64[rows].

        Returns:
            [rows, vocabulary], logits of the token that follows.
        """
        masks = {kind: self._mask(window) for kind, window in self._windows.items()}
        out: Any = self.model(
            input_ids=tokens[:, None],
            position_ids=self.used[:, None],
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=Cache(layers=list(self.layers)),
            use_cache=True,
        )
        self.used.add_(1).clamp_(max=self.width - 1)  # an idle slot stays at its last place
        return out.logits[:, -1]

    def _mask(self, window: int | None) -> torch.Tensor:
        """[rows, 1, 1, width]: 0 where a slot's new token may look, the least number elsewhere."""
        at = self.used[:, None]
        seen = self._places <= at
        if window is not None:
            seen &= self._places > at - window
        return torch.where(seen, 0.0, self._least).to(self.layers[0].keys.dtype)[:, None, None]


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, width, width of a head]; a new token goes where its slot ends."""

    def __init__(self, used: torch.Tensor, rows: int, width: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys: Any = keys.new_zeros((rows, keys.shape[1], width, keys.shape[3]))
        self.values: Any = values.new_zeros((rows, values.shape[1], width, values.shape[3]))
        self.is_initialized = True
        self._used, self._rows, self._width = used, torch.arange(rows, device=keys.device), width

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[self._rows, :, self._used] = key_states[:, :, 0]
        self.values[self._rows, :, self._used] = value_states[:, :, 0]
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the layer is made whole."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._width, 0

    def get_seq_length(self) -> int:
        return self._width - 1

    def get_max_length(self) -> int:
        return self._width


def read(model: PreTrainedModel, past: Layers, ids: Sequence[int], *, keep: int) -> tuple[Layers, torch.Tensor]:
    """Read one row's tokens after `past`.

    Args:
        model: the model.
        past: keys and values of what comes before; [] for nothing. They are not changed.
        ids: at least one token.
        keep: logits of the last so many tokens.

    Returns:
        Keys and values of everything, and [keep, vocabulary].
    """
    cache = DynamicCache()
    for at, (keys, values) in enumerate(past):
        cache.update(keys, values, at)
    begin = past[0][0].shape[2] if past else 0
    places = torch.arange(begin, begin + len(ids), device=model.device)[None]
    out: Any = model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers], out.logits[0]


def check_layers(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose layers keep something else than keys and values of each token.

    Raises:
        InputError: it has such layers.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or KINDS)
    if odd := sorted(kinds - KINDS):
        step = "Serve it (vLLM, SGLang) and give the server's URL"
        raise InputError(
            f"model {name!r}", f"must have layers of {sorted(KINDS)} to be sampled here", got=odd, next_step=step
        )


def _windows(model: PreTrainedModel) -> dict[str, int | None]:
    """Kind of layer → tokens that it looks back over, None for all; several where the model mixes kinds."""
    config: Any = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:  # such a model takes one mask per kind
        return {k: window if k == "sliding_attention" else None for k in sorted(set(kinds))}
    return {"full_attention": window if getattr(config, "use_sliding_window", True) else None}
