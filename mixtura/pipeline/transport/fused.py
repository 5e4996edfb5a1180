"""Streaming log-sum-exp of targets on a GPU, fused with its matrix product: Triton kernels, after FlashAttention.

A logit in bits is z_ij = scale <x_i, y_j> + added_j. Inputs are f16, products and sums f32; no tile of z leaves the
chip. Unit vectors fit f16, which is as fast as bf16 and rounds eight times finer. `row_sums` keeps a running
maximum for each row while target tiles pass by (Milakov and Gimelshein 2018).
`column_sums` is the other half of an iteration; as targets are few, the rows are split among programs, whose partial
sums are added in a fixed order. Import this module only where triton is installed; under TRITON_INTERPRET=1 it runs
on the CPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

SPLITS = 64  # of the rows in `column_sums`: with 80 target tiles for M = 10,000, enough programs for 132 processors


class Blocks(NamedTuple):
    """Shape of a program's tiles. More rows read the targets from the second-level cache less often."""

    rows: int = 128
    targets: int = 128
    width: int = 64
    warps: int = 8
    stages: int = 3

    def launch(self, **more: Any) -> dict[str, Any]:
        """What the kernels take by keyword."""
        tile = {"BLOCK_N": self.rows, "BLOCK_M": self.targets, "BLOCK_D": self.width}
        return more | tile | {"num_warps": self.warps, "num_stages": self.stages}


DEFAULT = Blocks()


@triton.jit
def _logits(
    x, y, added, rows, targets, n, m, width, scale,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile f32[BLOCK_N, BLOCK_M] of z; -inf where there is no target."""
    product = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, width, BLOCK_D):
        at = start + tl.arange(0, BLOCK_D)
        x_tile = tl.load(
            x + rows[:, None] * width + at[None, :], mask=(rows[:, None] < n) & (at[None, :] < width), other=0.0
        )
        y_tile = tl.load(
            y + targets[None, :] * width + at[:, None], mask=(targets[None, :] < m) & (at[:, None] < width), other=0.0
        )
        product = tl.dot(x_tile, y_tile, product)
    bias = tl.load(added + targets, mask=targets < m, other=-float("inf"))
    return product * scale + bias[None, :]


@triton.jit
def _row_sums(
    x, y, added, change, top_out, mass_out, target_out, plain_out, n, m, width, scale,
    UNPRICED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    top = tl.full((BLOCK_N,), -float("inf"), tl.float32)
    mass = tl.zeros((BLOCK_N,), tl.float32)
    target = tl.zeros((BLOCK_N,), tl.int32)
    plain_top = tl.full((BLOCK_N,), -float("inf"), tl.float32)
    plain = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, m, BLOCK_M):
        targets = start + tl.arange(0, BLOCK_M)
        z = _logits(x, y, added, rows, targets, n, m, width, scale, BLOCK_N, BLOCK_M, BLOCK_D)
        best, where = tl.max(z, 1, return_indices=True)
        target = tl.where(best > top, start + where, target)
        higher = tl.maximum(tl.maximum(top, best), -1e30)  # a tile of targets without weight is all -inf
        mass = mass * tl.exp2(top - higher) + tl.sum(tl.exp2(z - higher[:, None]), 1)
        top = higher
        if UNPRICED:
            z += tl.load(change + targets, mask=targets < m, other=0.0)[None, :]
            higher = tl.maximum(tl.maximum(plain_top, tl.max(z, 1)), -1e30)
            plain = plain * tl.exp2(plain_top - higher) + tl.sum(tl.exp2(z - higher[:, None]), 1)
            plain_top = higher
    tl.store(top_out + rows, top, mask=rows < n)
    tl.store(mass_out + rows, mass, mask=rows < n)
    tl.store(target_out + rows, target, mask=rows < n)
    if UNPRICED:
        tl.store(plain_out + rows, plain_top + tl.log2(plain), mask=rows < n)


@triton.jit
def _column_sums(
    x, y, added, log_row, out, n, m, width, scale, blocks_each,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    targets = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for block in range(blocks_each):
        rows = (split * blocks_each + block) * BLOCK_N + tl.arange(0, BLOCK_N)
        z = _logits(x, y, added, rows, targets, n, m, width, scale, BLOCK_N, BLOCK_M, BLOCK_D)
        z += tl.load(log_row + rows, mask=rows < n, other=-float("inf"))[:, None]
        total += tl.sum(tl.exp2(z), 0)
    tl.store(out + split * m + targets, total, mask=targets < m)


def row_sums(
    x: torch.Tensor,
    y: torch.Tensor,
    added: torch.Tensor,
    scale: float,
    change: torch.Tensor | None,
    blocks: Blocks = DEFAULT,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each row, the largest z, the sum of exp2(z - largest), where it is, and log2 sum exp2(z + change).

    Args:
        x: f16[n, d], contiguous.
        y: f16[M, d], contiguous.
        added: f32[M].
        scale: of the inner products.
        change: f32[M], or None: then the last is empty.
        blocks: shape of the tiles.

    Returns:
        f32[n], f32[n], i32[n], f32[n], on the device of x.
    """
    n, (m, width) = len(x), y.shape
    top, mass = (torch.empty(n, dtype=torch.float32, device=x.device) for _ in range(2))
    target = torch.empty(n, dtype=torch.int32, device=x.device)
    plain = torch.empty(n if change is not None else 0, dtype=torch.float32, device=x.device)
    _row_sums[(triton.cdiv(n, blocks.rows),)](
        x, y, added, added if change is None else change, top, mass, target, plain, n, m, width, scale,
        **blocks.launch(UNPRICED=change is not None),
    )  # fmt: skip
    return top, mass, target, plain


def column_sums(
    x: torch.Tensor, y: torch.Tensor, added: torch.Tensor, scale: float, log_row: torch.Tensor, blocks: Blocks = DEFAULT
) -> torch.Tensor:
    """f32[M]: of each target, sum over rows of exp2(z + log_row); arguments as of `row_sums`, log_row f32[n]."""
    n, (m, width) = len(x), y.shape
    tiles = triton.cdiv(n, blocks.rows)
    splits = min(SPLITS, tiles)
    partial = torch.empty(splits, m, dtype=torch.float32, device=x.device)
    _column_sums[(triton.cdiv(m, blocks.targets), splits)](
        x, y, added, log_row, partial, n, m, width, scale, triton.cdiv(tiles, splits),
        **blocks.launch(),
    )  # fmt: skip
    return partial.sum(0)
