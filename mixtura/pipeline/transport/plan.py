"""The transport plan under given prices: how a reference's mass is shared among the targets.

Under prices g each row sends its mass by shares p_ij = softmax_j((g_j - c_ij) / eps + log b_j): f_i is then the exact
soft minimum, and the plan's row sums are a. What arrives at the targets, sum_i a_i p_ij, is all that the iteration over
g needs to know, so the n x M side stays behind `arriving`: held in memory where it is small, else made tile by tile.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from mixtura.pipeline.transport.tiles import TILE, tensor, tiles

FAR = 20.0  # nats that prices may drift from the held shares before these are made anew; f32 keeps 87
BLOCK = 64  # rows that stay in a core's second-level cache between the two products of an iteration


class Plan(Protocol):
    """What `solve_prices` iterates on."""

    def arriving(self, price: np.ndarray, eps: float) -> np.ndarray:
        """Mass that arrives at each target, f64[M], of 1 in all; where next to none does it may round to 0."""
        ...


class HeldPlan:
    """Shares held in memory, 2 n M numbers: an iteration is two products of matrix and vector.

    The shares are those of the prices at which they were last made; prices that have moved since then come in as
    scalings of the columns (Schmitzer 2019, section 3.1), so exponentials are taken only when eps falls or prices
    have drifted far.

    Args:
        x: [n, d], its dtype is that of the arithmetic.
        y: [M, d].
        a: f64[n], sums to 1.
        b: f64[M], positive.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        x_ = tensor(x)
        self.cost = 2.0 - 2.0 * (x_ @ tensor(y).to(x_.dtype).T)
        self.shares = torch.empty_like(self.cost)
        self.a, self.log_b = tensor(a).to(x_.dtype), np.log(b)
        self.made: tuple[np.ndarray, float] | None = None  # prices and eps of the shares

    def arriving(self, price: np.ndarray, eps: float) -> np.ndarray:
        """See `Plan`."""
        if self.made is None or self.made[1] != eps or np.abs(price - self.made[0]).max() > FAR * eps:
            bias = tensor(price + eps * self.log_b).to(self.cost.dtype)
            torch.sub(bias, self.cost, out=self.shares).div_(eps)
            for block in self.shares.split(TILE):
                to_shares(block)
            self.made = (price.copy(), eps)
        scale = tensor(np.exp((price - self.made[0]) / eps)).to(self.cost.dtype)
        total = torch.zeros_like(scale)
        for shares, a in zip(self.shares.split(BLOCK), self.a.split(BLOCK), strict=True):
            total.addmv_(shares.T, a / (shares @ scale))
        return (scale * total).double().numpy()


class StreamedPlan:
    """Shares made anew in tiles at every iteration, in O(M (d + TILE)) memory; arguments as for `HeldPlan`."""

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        self.x, self.a, self.log_b = x, a, np.log(b)
        self.y = tensor(y).to(torch.from_numpy(x[:0].copy()).dtype)
        self.shares = torch.empty(TILE, len(y), dtype=self.y.dtype)

    def arriving(self, price: np.ndarray, eps: float) -> np.ndarray:
        """See `Plan`."""
        bias = tensor((price - 2.0) / eps + self.log_b).to(self.y.dtype)
        scaled = (self.y * (2.0 / eps)).T.contiguous()
        total = np.zeros(len(price))
        for rows, tile in tiles(self.x, self.y.dtype):
            shares = to_shares(torch.addmm(bias, tile, scaled, out=self.shares))
            a = torch.zeros(TILE, dtype=shares.dtype)  # padding has no weight
            a[: rows.stop - rows.start] = tensor(self.a[rows]).to(a.dtype)
            total += (shares.T @ a).double().numpy()
        return total


def to_shares(logits: torch.Tensor) -> torch.Tensor:
    """Softmax along rows, in place."""
    logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return logits.div_(logits.sum(1, keepdim=True))
