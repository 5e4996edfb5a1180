"""Many texts as one row of tokens: nothing is padded, and a text's arithmetic depends on its own tokens alone.

Texts are laid end to end into tiles of a fixed number of tokens. Every layer but attention works token by token, so
its shape is the tile's; attention runs within each text. A model that looks further than that, or counts positions in
a way of its own, is found out by a trial and stays with padded batches.

Source: Krell et al. 2021, Efficient Sequence Packing without Cross-contamination (arXiv:2107.02027); what differs:
tiles are filled with the longest text that still fits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mixtura.pipeline.lengths import length_class

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

ATTENTION = "mixtura_packed"


@dataclass(frozen=True)
class Tile:
    """Texts that are computed together.

    rows: their numbers, longest first, so that equal lengths are neighbours.
    lengths: tokens of each.
    size: tokens of the tile; what the texts leave free is filler.
    """

    rows: list[int]
    lengths: list[int]
    size: int


def tiles(lengths: Sequence[int], tokens: int, window: int) -> Iterator[Tile]:
    """Every row once, the longest that fits first; a row longer than a tile has one of its class's length to itself.

    Args:
        lengths: tokens per row, at least 1.
        tokens: of a tile.
        window: the most tokens that the model reads.
    """
    rows: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows.setdefault(length, []).append(row)
    left = sorted(rows)
    while left:
        size = space = tokens if left[-1] <= tokens else length_class(left[-1], window)
        tile = Tile([], [], size)
        while at := bisect_right(left, space):
            length = left[at - 1]
            take = rows[length][-(space // length if size == tokens else 1) :]
            rows[length] = rows[length][: -len(take)]
            if not rows[length]:
                del left[at - 1]
            tile.rows.extend(take)
            tile.lengths.extend([length] * len(take))
            space -= length * len(take)
            if size > tokens:
                break
        yield tile


class PackedModel:
    """A sentence-transformers model whose network reads tiles.

    Args:
        model: its attention is replaced; `restore` undoes that.
        tokens: of a tile.
        window: the most tokens that the model reads.
    """

    def __init__(self, model: SentenceTransformer, *, tokens: int, window: int) -> None:
        self.model, self.tokens, self.window = model, tokens, window
        self.on_gpu = model.device.type == "cuda"
        network: Any = model[0]
        self._before = network.model.config._attn_implementation
        self._first_position = _first_position(network.model)
        _register()
        network.model.set_attn_implementation(ATTENTION)

    def restore(self) -> None:
        """Give the model the attention that it came with."""
        network: Any = self.model[0]
        network.model.set_attn_implementation(self._before)

    def __call__(self, ids: Sequence[np.ndarray], prompt_length: int | None = None) -> np.ndarray:
        """f32[n, d], in order, as the model makes them.

        Args:
            ids: i64[length] of every text, special tokens included.
            prompt_length: tokens that pooling leaves out, where the model asks for that.
        """
        import torch

        made = list(tiles([len(i) for i in ids], self.tokens, self.window))
        tokens, positions, bounds = (self._sent(a) for a in _laid_out(made, ids, self._first_position))
        found: list[torch.Tensor] = []
        token = bound = 0
        with torch.inference_mode():
            for tile in made:
                here, ends = slice(token, token + tile.size), slice(bound, bound + len(tile.rows) + 1)
                features = {
                    "input_ids": tokens[None, here],
                    "position_ids": positions[None, here],
                    "cu_seq_lens_q": bounds[ends],
                    "max_length_q": tile.lengths[0],
                }
                if prompt_length is not None:
                    features["prompt_length"] = prompt_length
                found.append(self._forward(features, sum(tile.lengths)))
                token, bound = here.stop, ends.stop
            # the only wait for the device: until here it runs behind the loop
            together = torch.cat(found).cpu().numpy()
        vectors = np.empty_like(together)
        vectors[[row for tile in made for row in tile.rows]] = together
        return vectors

    def _forward(self, features: dict[str, Any], used: int) -> torch.Tensor:
        """f32[rows, d]: one tile through network and pooling, its filler cut off in between."""
        network, *rest = self.model
        features = network(features)
        features["token_embeddings"] = features["token_embeddings"][:, :used]
        features["input_ids"] = features["input_ids"][:, :used]
        for module in rest:
            features = _mean(features) if _is_plain_mean(module) else module(features)
        return features["sentence_embedding"].float()

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.model.device, non_blocking=True) if self.on_gpu else tensor


def _laid_out(made: Sequence[Tile], ids: Sequence[np.ndarray], first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i64[t] tokens, i64[t] positions, i32[b] bounds of texts, by tile; filler is token 0 at the first place."""
    size = sum(tile.size for tile in made)
    tokens, positions = np.zeros(size, np.int64), np.full(size, first, np.int64)
    bounds: list[np.ndarray] = []
    at = 0
    for tile in made:
        ends = np.cumsum([0, *tile.lengths], dtype=np.int32)
        used = slice(at, at + int(ends[-1]))
        tokens[used] = np.concatenate([ids[row] for row in tile.rows])
        positions[used] += np.arange(ends[-1]) - np.repeat(ends[:-1], tile.lengths)
        bounds.append(ends)
        at += tile.size
    return tokens, positions, np.concatenate(bounds)


def _is_plain_mean(module: Any) -> bool:
    return getattr(module, "pooling_mode", None) in ("mean", ("mean",)) and getattr(module, "include_prompt", False)


def _mean(features: dict[str, Any]) -> dict[str, Any]:
    """Mean of each text's tokens, added up in order: the library's way adds in any order on a GPU."""
    import torch

    lengths = features["cu_seq_lens_q"].diff().long()
    flat = features["token_embeddings"][0].float()
    features["sentence_embedding"] = torch.segment_reduce(flat, "mean", lengths=lengths, axis=0, unsafe=True)
    return features


def _first_position(network: Any) -> int:
    """RoBERTa and its kin count positions from the padding token's number on."""
    for module in network.modules():
        if isinstance(getattr(module, "padding_idx", None), int) and hasattr(module, "position_embeddings"):
            return module.padding_idx + 1
    return 0


def _register() -> None:
    """Make the attention known to transformers, with its mask: without one a model would be given full masks."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each text of a tile.

    Args:
        module: the layer; it says whether attention is causal.
        query: [1, heads, tokens, d].
        key: [1, key heads, tokens, d].
        value: as `key`.
        attention_mask: None.
        scaling: of the products; None is 1/sqrt(d).
        cu_seq_lens_q: i32[texts + 1], where texts begin and end.
        max_length_q: the longest text's tokens.
        sliding_window: tokens that a layer sees around each; refused unless None.

    Returns:
        [1, tokens, heads, d]; what it holds for filler means nothing, and on a GPU nothing is written there.

    Raises:
        NotImplementedError: the layer sees a window only, or has a mask.
    """
    if sliding_window is not None or attention_mask is not None:
        raise NotImplementedError("packed attention reads whole texts")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    causal, grouped = bool(getattr(module, "is_causal", False)), q.shape[1] != k.shape[1]
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        window = (-1, 0) if causal else (-1, -1)
        made: Any = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=window, enable_gqa=grouped,
        )  # fmt: skip
    else:
        made = _attention_by_length(q, k, v, cu_seq_lens_q.tolist(), scaling, causal, grouped)
    return made[None], None


def _attention_by_length(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: list[int],
    scaling: float | None,
    causal: bool,
    grouped: bool,
) -> torch.Tensor:
    """[tokens, heads, d]: one call for each run of texts of one length, zeros for filler."""
    from torch.nn.functional import scaled_dot_product_attention

    made, start = q.new_zeros(q.shape), 0
    for length, run in groupby(b - a for a, b in pairwise(bounds)):
        end = start + length * sum(1 for _ in run)
        qs, ks, vs = (t[start:end].unflatten(0, (-1, length)).transpose(1, 2) for t in (q, k, v))
        seen = scaled_dot_product_attention(qs, ks, vs, is_causal=causal, scale=scaling, enable_gqa=grouped)
        made[start:end] = seen.transpose(1, 2).flatten(0, 1)
        start = end
    return made
