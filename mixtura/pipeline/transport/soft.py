"""Soft distances of any rows to priced targets, in one pass, and the targets that each row serves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mixtura.errors import InputError
from mixtura.pipeline.threads import one_thread
from mixtura.pipeline.transport.device import score_on
from mixtura.pipeline.transport.kept import largest_shares
from mixtura.pipeline.transport.logits import Logits, log_of_sum
from mixtura.pipeline.transport.tiles import TILE, tensor, tiles

NEAR = 86.0  # bits between prices up to which 2^-126, the least f32, is lost in the rounding of an unpriced sum
BATCH = 16 * TILE  # rows whose sums are turned into distances at once: small arrays cost little a row then
# bits below a row's largest logit from which an exponential counts for nothing; where it is not a normal number of f32,
# it takes twice (exp2) to 20 times (exp) as long
LEAST_BITS = 126.0
BLURRED = 16.0  # of cost: from here on eps times the rounding of f32 would be seen in f, and f64 is used


@dataclass(frozen=True)
class SoftDistances:
    """What each row costs under prices, and why. Arrays of n, in row order.

    Attributes:
        soft: f64, f(x) under the prices.
        soft_unpriced: f64, f(x) under prices of zero.
        target: i64, the target that takes the largest share of the row's mass.
        share: f32, that share, in (0, 1].
        distance: f32, c(x, y) to that target, in [0, 4].
        targets: i32[n, keep], targets that take 1/64 of the row's mass or more, and always the first; largest share
            first, ties by index; -1 where there are no more. None without `keep`, as the next two.
        shares: f32[n, keep], their shares; 0 where there is no target.
        costs: f32[n, keep], c(x, y) to them; 0 where there is no target.
        soft_by_group: f64[n, G], f(x) to each group's targets alone, weights scaled to sum 1; None without groups.
    """

    soft: np.ndarray
    soft_unpriced: np.ndarray
    target: np.ndarray
    share: np.ndarray
    distance: np.ndarray
    targets: np.ndarray | None = None
    shares: np.ndarray | None = None
    costs: np.ndarray | None = None
    soft_by_group: np.ndarray | None = None


def soft_distances(
    x: np.ndarray,
    y: np.ndarray,
    price: np.ndarray,
    *,
    epsilon: float,
    b: np.ndarray | None = None,
    keep: int = 0,
    groups: np.ndarray | None = None,
    device: str = "cpu",
) -> SoftDistances:
    """f(x) under prices, for rows seen or not, in O(M d) memory beside the input.

    Args:
        x: f32[n, d], unit L2 norm.
        y: f32[M, d], unit L2 norm.
        price: f64[M], in units of cost; zeros give the plain soft distance.
        epsilon: in units of cost; must be positive.
        b: f64[M], weights; None is uniform. A target of weight 0 takes no mass.
        keep: how many targets to return of each row.
        groups: i32[M], 0 to G - 1 in order: tasks, one after the other, each with prices of its own. All are scored
            with one product; everything but `soft_by_group` is of all targets together.
        device: cpu, or a torch device: inputs are then rounded to f16, and x is streamed to it.

    Returns:
        A row's numbers have, on the CPU, the same bits whichever rows come with it.

    Raises:
        InputError: the shapes do not belong together, a weight is negative, or epsilon is not positive.
    """
    weights = np.ones(len(y)) if b is None else np.asarray(b, np.float64)
    _check(x, y, price, weights, epsilon, groups)
    logits = Logits(y, np.asarray(price, np.float64), weights / weights.sum(), epsilon, groups)
    if device != "cpu" and epsilon <= BLURRED:
        return SoftDistances(**score_on(device, x, logits, keep))
    scorer = _Scorer(logits, torch.float64 if epsilon > BLURRED else torch.float32, keep)
    found: dict[str, np.ndarray] = {}
    with one_thread():
        # a tile of padding for no rows: their arrays then have the shapes and types of all others
        some = x if len(x) else np.zeros((1, y.shape[1]), np.float32)
        for start in range(0, len(some), BATCH):
            batch = some[start : start + BATCH]
            for rows, tile in tiles(batch, scorer.dtype):
                scorer.score(tile, rows.start)
            for name, part in scorer.finish().items():
                whole = found.setdefault(name, np.empty((len(x), *part.shape[1:]), part.dtype))
                whole[start : start + BATCH] = part[: len(x) - start][: len(batch)]
    return SoftDistances(**found)


class _Scorer:
    """The buffers of a tile and of a batch; what is the same for all rows is in `logits`."""

    def __init__(self, logits: Logits, dtype: torch.dtype, keep: int) -> None:
        self.logits, self.slices, self.dtype, self.keep = logits, logits.slices, dtype, keep
        self.added = torch.from_numpy(logits.added).to(dtype)
        self.scaled = tensor(logits.y).to(dtype).mul_(logits.scale).T.contiguous()
        self.bits = 2.0 * logits.scale + float(np.ptp(logits.added))
        self.without = _Without(logits.change, dtype) if logits.priced else None
        self.tile = torch.empty(TILE, len(logits.y), dtype=dtype)
        table, small = (BATCH, len(self.slices)), self.tile.numpy().dtype
        self.top, self.mass, self.plain = np.zeros(table, small), np.ones(table), np.zeros(table)
        self.target = np.zeros(table, np.int64)
        self.kept = {
            "targets": np.empty((BATCH, keep), np.int32),
            "shares": np.empty((BATCH, keep), np.float32),
            "costs": np.empty((BATCH, keep), np.float32),
        }

    def score(self, tile: torch.Tensor, start: int) -> None:
        """Of TILE rows, what is left of M numbers each goes into the batch's tables, from row `start` of them."""
        rows = slice(start, start + TILE)
        torch.addmm(self.added, tile, self.scaled, out=self.tile)
        z = self.tile.clone() if self.without and not self.without.near else None
        for i, g in enumerate(self.slices):
            self.top[rows, i], self.target[rows, i], self.mass[rows, i] = _log_sum_exp(self.tile[:, g], self.bits)
        if self.keep:
            self._keep(rows)
        if self.without:
            for i, g in enumerate(self.slices):
                far = None if z is None else z[:, g]
                self.plain[rows, i] = self.without.log_mass(self.tile[:, g], self.top[rows, i], far, g)

    def finish(self) -> dict[str, np.ndarray]:
        """The fields of `SoftDistances` for BATCH rows: all in one shape, so that no row's bits depend on others'."""
        found = self.logits.distances(self.top, self.mass, self.target, self.plain)
        return found | self.kept if self.keep else found

    def _keep(self, rows: slice) -> None:
        top = self.top[rows]
        factor = np.exp2(top - log_of_sum(top + np.log2(self.mass[rows]))[:, None])
        _, target = self.logits.best(top, self.target[rows])
        exps = self.tile.numpy()
        place, at, share = largest_shares(exps, factor, self.logits.group, target, self.keep)
        row, column = np.divmod(at, exps.shape[1])
        logit = np.log2(exps.reshape(-1).take(at)) + top[row, self.logits.group.take(column)]
        cost = self.logits.cost(logit, column)
        for name, value, none in (("targets", column, -1), ("shares", share, 0), ("costs", cost, 0)):
            table = self.kept[name][rows]
            table.fill(none)
            table.reshape(-1)[place] = value


class _Without:
    """A tile's sums had there been no prices, from what it is under prices.

    Args:
        change: f64[M], bits; what turns a logit under prices into one without.
        dtype: of the logits.
    """

    def __init__(self, change: np.ndarray, dtype: torch.dtype) -> None:
        self.most = float(change.max())
        self.near = float(np.ptp(change)) < NEAR
        self.change = torch.from_numpy(change).to(dtype)
        self.factor = torch.from_numpy(np.exp2(change - self.most)).to(dtype)

    def log_mass(self, exps: torch.Tensor, top: np.ndarray, logits: torch.Tensor | None, group: slice) -> np.ndarray:
        """f64[TILE], log2 sum exp2 of a group; `exps` is exp2(logits - top), `logits`, if given, hold themselves.

        Both are spent.
        """
        if logits is None:  # weigh the exponentials again: none that matters has underflowed
            mass, shift = exps.mul_(self.factor[group]).sum(1).numpy().astype(np.float64), self.most
        else:
            (top, _, mass), shift = _log_sum_exp(logits.add_(self.change[group]), math.inf), 0.0
        return top.astype(np.float64) + np.log2(mass) + shift


def _log_sum_exp(logits: torch.Tensor, bits: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row maxima, where they are i64, and sums f64 of exp2(logit - maximum), which takes the place of the logits.

    In place, as a tile and its copy would not stay in the cache; numpy's argmax is 10 times torch's. `bits` is a bound
    on how far apart logits may be.
    """
    table = logits.numpy()
    target = table.argmax(1)
    top = table[np.arange(TILE), target]
    logits.sub_(torch.from_numpy(top)[:, None])
    if bits > LEAST_BITS:
        logits.clamp_(min=-LEAST_BITS)
    logits.exp2_()
    return top, target, logits.sum(1).numpy().astype(np.float64)


def _check(
    x: np.ndarray, y: np.ndarray, price: np.ndarray, b: np.ndarray, epsilon: float, groups: np.ndarray | None
) -> None:
    if not len(y):
        raise InputError("transport", "needs at least one target")
    if x.shape[1:] != y.shape[1:]:
        raise InputError(
            "rows",
            f"must have vectors as wide as the targets', {y.shape[1]}",
            got=x.shape[1],
            next_step="Embed both with one encoder",
        )
    if not 0 < epsilon < np.inf:
        raise InputError("epsilon", "must be a positive number", got=epsilon)
    for name, given in (("prices", price), ("weights b", b)):
        if given.shape != (len(y),) or not np.isfinite(given).all():
            raise InputError(name, f"must be {len(y)} finite numbers, one for each target", got=given)
    if (b < 0).any() or not b.sum() > 0:
        raise InputError("weights b", "must be 0 or more, not all 0", got=b)
    if groups is not None:
        sizes = np.bincount(groups, b)
        if len(groups) != len(y) or (np.diff(groups) < 0).any() or not (sizes > 0).all():
            raise InputError("groups", "must be 0, 1, ... in order, each with weight", got=groups)
