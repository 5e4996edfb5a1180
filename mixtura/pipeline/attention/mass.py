"""Attention mass on spans of keys: how much of each query row's softmax falls on the user's tokens, say.

All ways work on chosen rows, a block at a time, so that memory grows with the rows and the keys but never with their
product. `by_rows` is exact in float32 and knows softcaps, sinks and any mask. `by_indicator` lets PyTorch's attention
kernel do the sum: its values are ones where a key is in a span. `by_lse` divides two normalisers, which the kernel
keeps in float32 whatever the model's type. `naive` is the reference: the whole matrix.

Source: Wang et al. 2024, On the Loss of Context Awareness (arXiv:2411.02688), section 3.1; the sums without the matrix
are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 1 << 22  # products of a block of rows: 16 MiB in float32


@dataclass(frozen=True)
class Layer:
    """What one attention layer computes with, of one sequence.

    query: [H, n, d] after the rotary embedding.
    key: [G, n, d]; H is a multiple of G, and query head h reads key head h // (H / G).
    scale: of the products.
    mask: bool (True may be seen) or float (added), [1 or H, n, n]; None is causal.
    softcap: c of c * tanh(products / c), or None.
    sinks: f[H], a product that no key has but that the softmax counts, or None.
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask: torch.Tensor | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether a kernel for plain causal attention computes the same."""
        return self.mask is None and self.softcap is None and self.sinks is None


def indicator(kinds: torch.Tensor, count: int) -> torch.Tensor:
    """f32[n, count]: 1 where a key is of a kind."""
    return (kinds[:, None] == torch.arange(count, device=kinds.device)).float()


def by_rows(layer: Layer, values: torch.Tensor, rows: torch.Tensor, barred: torch.Tensor | None = None) -> torch.Tensor:
    """Attention of some query rows, in float32.

    Args:
        layer: queries and keys.
        values: f[n, e] for all heads, such as an `indicator`, or f[G, n, e].
        rows: i64[r], ascending positions of the queries.
        barred: bool[n], keys that these rows may not see; None bars none.

    Returns:
        f32[H, r, e], zeros for a row that sees no key.
    """
    heads, groups = layer.query.shape[0], layer.key.shape[0]
    out = torch.zeros((heads, len(rows), values.shape[-1]), device=rows.device)
    for at, block, upto in _blocks(heads, rows):
        shares = _shares(layer, block, upto, barred).reshape(groups, -1, upto)
        mixed = shares @ values[..., :upto, :].float()
        out[:, at : at + len(block)] = mixed.reshape(heads, len(block), -1)
    return out


def peaks(layer: Layer, among: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The largest share that each row gives to one key among some, in float32.

    Args:
        layer: any.
        among: bool[n], keys.
        rows: i64[r], ascending.

    Returns:
        f32[H, r], zeros for a row that sees none of them.
    """
    out = torch.zeros((layer.query.shape[0], len(rows)), device=rows.device)
    for at, block, upto in _blocks(layer.query.shape[0], rows):
        if among[:upto].any():
            out[:, at : at + len(block)] = _shares(layer, block, upto)[..., among[:upto]].amax(-1)
    return out


def by_indicator(layer: Layer, spans: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mass on each span by the attention kernel, whose values are the spans' indicators.

    On a GPU in one call over all rows, where the fast kernels want neither mask nor fewer rows than keys; in bfloat16
    the kernel rounds its sums, by 3e-3 at most. Elsewhere in blocks of the rows.

    Args:
        layer: queries and keys of plain causal attention.
        spans: f32[n, s], s at most the width of a head.
        rows: i64[r], ascending.

    Returns:
        f32[H, r, s].
    """
    width, count = layer.query.shape[-1], spans.shape[1]
    values = torch.nn.functional.pad(spans.to(layer.key.dtype), (0, width - count)).expand(layer.key.shape[0], -1, -1)
    if layer.query.is_cuda:
        every = _kernel(layer, layer.query, layer.key, values, None)
        return every[:, rows, :count].float()
    out = torch.empty((layer.query.shape[0], len(rows), count), device=rows.device)
    for at, block, upto in _blocks(layer.query.shape[0], rows):
        seen = torch.arange(upto, device=rows.device) <= block[:, None]
        mixed = _kernel(layer, layer.query[:, block], layer.key[:, :upto], values[:, :upto], seen)
        out[:, at : at + len(block)] = mixed[..., :count].float()
    return out


def by_lse(layer: Layer, spans: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mass on each span as the ratio of two softmax denominators, whose logarithms the CPU's kernel returns in float32.

    Arguments and result as for `by_indicator`; one call of the kernel for each span, on the span's keys alone.

    Raises:
        NotImplementedError: the tensors are not on a CPU; the other kernels' denominators are not public.
    """
    if layer.query.device.type != "cpu":
        raise NotImplementedError("the log-sum-exp is taken from the kernel for CPUs")
    out = torch.zeros((layer.query.shape[0], len(rows), spans.shape[1]))
    places = torch.arange(len(spans))
    for at, block, upto in _blocks(layer.query.shape[0], rows):
        whole = _denominator(layer, block, places[:upto])
        for span in range(spans.shape[1]):
            keys = places[:upto][spans[:upto, span] > 0]
            if len(keys):
                out[:, at : at + len(block), span] = (_denominator(layer, block, keys) - whole).exp()
    return out


def naive(layer: Layer, spans: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The same from the whole matrix of all rows and keys, for comparison: n x n memory for each head.

    Arguments and result as for `by_indicator`, of any layer.
    """
    heads, n = layer.query.shape[:2]
    key = layer.key.float().repeat_interleave(heads // layer.key.shape[0], 0)
    products = torch.einsum("hid,hjd->hij", layer.query.float(), key) * layer.scale
    if layer.softcap is not None:
        products = torch.tanh(products / layer.softcap) * layer.softcap
    products = _masked(layer, products, torch.arange(n, device=rows.device), n)
    return torch.einsum("hij,js->his", _softmax(products, layer.sinks), spans)[:, rows]


def uniform(layer: Layer, spans: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """What the mass would be if each row looked at all the keys it may see alike.

    Returns:
        f32[r, s]: the share of the visible keys that is in the span.
    """
    if layer.mask is None:
        return spans.cumsum(0)[rows] / (rows[:, None] + 1)
    out = torch.zeros((len(rows), spans.shape[1]), device=rows.device)
    for at, block, upto in _blocks(1, rows):
        seen = torch.zeros((1, len(block), upto), device=rows.device)
        seen = torch.isfinite(_masked(layer, seen, block, upto)).float()[0]
        out[at : at + len(block)] = (seen @ spans[:upto]) / seen.sum(1, keepdim=True).clamp(min=1)
    return out


WAYS = {"rows": by_rows, "indicator": by_indicator, "lse": by_lse, "naive": naive}


def _blocks(heads: int, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, int]]:
    """(place, positions, keys that the last of them may see) of each block of rows."""
    longest = int(rows[-1]) + 1 if len(rows) else 1
    size = max(1, BLOCK // (heads * longest))
    for at in range(0, len(rows), size):
        block = rows[at : at + size]
        yield at, block, int(block[-1]) + 1


def _shares(layer: Layer, block: torch.Tensor, upto: int, barred: torch.Tensor | None = None) -> torch.Tensor:
    """f32[H, b, upto]: the softmax of a block of rows."""
    heads, groups = layer.query.shape[0], layer.key.shape[0]
    query = layer.query[:, block].float().reshape(groups, -1, layer.query.shape[-1])
    products = (query @ layer.key[:, :upto].float().transpose(1, 2)) * layer.scale
    products = products.reshape(heads, len(block), upto)
    if layer.softcap is not None:
        products = torch.tanh(products / layer.softcap) * layer.softcap
    products = _masked(layer, products, block, upto)
    if barred is not None:
        products = products.masked_fill(barred[:upto], -torch.inf)
    return _softmax(products, layer.sinks)


def _masked(layer: Layer, products: torch.Tensor, block: torch.Tensor, upto: int) -> torch.Tensor:
    if layer.mask is None:
        unseen = torch.arange(upto, device=block.device) > block[:, None]
        return products.masked_fill(unseen, -torch.inf)
    mask = layer.mask[:, block, :upto]
    if mask.dtype == torch.bool:
        return products.masked_fill(~mask, -torch.inf)
    lowest = torch.finfo(mask.dtype).min  # how models write "not at all"
    return (products + mask).masked_fill(mask <= lowest, -torch.inf)


def _softmax(products: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension, in float32; zeros where nothing may be seen."""
    if sinks is not None:
        sink = sinks.float()[:, None, None].expand(*products.shape[:2], 1)
        return torch.cat([products, sink], -1).softmax(-1)[..., :-1]
    return products.softmax(-1).nan_to_num(0.0)


def _kernel(
    layer: Layer, query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """[H, r, d]; causal without `seen`, which is bool[r, n]."""
    return scaled_dot_product_attention(
        query[None],
        key[None],
        values[None],
        attn_mask=seen,
        is_causal=seen is None,
        scale=layer.scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )[0]


def _denominator(layer: Layer, rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """f32[H, r]: the log of the softmax denominator over some keys; -inf where a row sees none of them."""
    unseen = keys > rows[:, None]
    bias = torch.zeros(unseen.shape, dtype=layer.query.dtype).masked_fill(unseen, -torch.inf)
    repeat = layer.query.shape[0] // layer.key.shape[0]
    key = layer.key[:, keys].repeat_interleave(repeat, 0)[None]
    _, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        layer.query[None, :, rows], key, key, attn_mask=bias[None, None], scale=layer.scale
    )
    return lse[0].masked_fill(unseen.all(1), -torch.inf)
