"""Look into the attention of a transformers model while it runs, or change it.

An attention function of our own is registered under a name, with transformers' mask beside it (a name without a mask
would drop padding and windows silently). It attends as PyTorch does, and asks the `Watch` of the moment whether it
wants to see the layer first, or to put other outputs in its place. A watch may end the run by `Reached`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mixtura.pipeline.attention.mass import Layer, by_rows

NAME = "mixtura_watched"


class Reached(Exception):
    """The last layer that anyone wants to see has been seen: later ones need not run."""


class Watch(Protocol):
    """What the attention function asks at each layer; `layers` is of one entry per sequence of the batch."""

    def see(self, index: int, layers: list[Layer]) -> None:
        """Before layer `index` attends. May raise `Reached`."""
        ...

    def change(self, index: int, layers: list[Layer], values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """After layer `index`: values [b, G, n, d], output [b, n, H, d]; returns what takes the output's place."""
        ...


_WATCH: ContextVar[Watch | None] = ContextVar("mixtura_watch", default=None)


@contextmanager
def watching(model: PreTrainedModel, watch: Watch) -> Iterator[None]:
    """Inside, the model's runs on this thread are watched; its own attention returns after it.

    Raises:
        ValueError: the model has no attention that can be replaced.
    """
    before = model.config._attn_implementation or "eager"
    token = _WATCH.set(watch)
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise ValueError(f"the attention of {type(model).__name__} cannot be replaced")
        yield
    finally:
        _WATCH.reset(token)
        model.set_attn_implementation(before)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query [b, H, n, d], key and value [b, G, n, d]; returns [b, n, H, d]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    masks = [
        None if attention_mask is None else attention_mask[min(b, len(attention_mask) - 1)] for b in range(len(query))
    ]
    layers = [Layer(q, k, scale, m, softcap, s_aux) for q, k, m in zip(query, key, masks, strict=True)]
    watch, index = _WATCH.get(), int(getattr(module, "layer_idx", -1))
    if watch is not None:
        watch.see(index, layers)
    if softcap is None and s_aux is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=0.0, scaling=scaling, **kwargs
        )
    else:  # no kernel of PyTorch's knows these
        every = torch.arange(query.shape[2], device=query.device)
        mixed = torch.stack([by_rows(layer, v, every) for layer, v in zip(layers, value, strict=True)])
        output = mixed.transpose(1, 2).to(query.dtype)
    if watch is not None:
        output = watch.change(index, layers, value, output)
    return output, None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
