"""The same sums on a GPU: rows streamed to it through pinned memory, fused kernels where Triton is installed.

Vectors are rounded to f16, of which unit vectors keep 11 bits; products and sums are f32. Without Triton, or where
targets are to be kept or stand in groups, tiles of logits are made and reduced by torch on the device.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mixtura.pipeline.transport.kept import LEAST_SHARE
from mixtura.pipeline.transport.logits import Logits, log_of_sum

CHUNK = 1 << 16  # rows that are copied at once: with d = 384 in f16 50 MB, a millisecond of PCIe 5
TILE_BYTES = 256 << 20  # of f32 logits that torch may make at once


def score_on(device: str, x: np.ndarray, logits: Logits, keep: int, fused: bool | None = None) -> dict[str, np.ndarray]:
    """Fields of `SoftDistances`; `fused` overrides the choice of the kernels, for tests."""
    on = torch.device(device)
    if fused is None:
        fused = has_triton(on)
    y = _to_f16(logits.y).to(on)
    added, change = (torch.from_numpy(v).float().to(on) for v in (logits.added, logits.change))
    parts: list[dict[str, torch.Tensor]] = []
    for chunk in streamed(x, on):
        if fused and not keep and not logits.grouped:
            from mixtura.pipeline.transport.fused import row_sums

            sums = row_sums(chunk, y, added, logits.scale, change if logits.priced else None)
            parts.append(dict(zip(("top", "mass", "target", "plain"), (s[:, None] for s in sums), strict=True)))
        else:
            parts += [_by_torch(tile, y, added, change, logits, keep) for tile in chunk.split(rows_at_once(len(y)))]
    whole = {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]} if parts else {}
    return _fields(whole, logits, keep)


def has_triton(on: torch.device) -> bool:
    """Whether the fused kernels can run there."""
    return on.type == "cuda" and find_spec("triton") is not None


def streamed(x: np.ndarray, on: torch.device) -> Iterator[torch.Tensor]:
    """Rows in f16 on the device, CHUNK at a time: one chunk is copied while the last one is worked on."""
    if on.type != "cuda":
        yield from (_to_f16(x[start : start + CHUNK]).to(on) for start in range(0, len(x), CHUNK))
        return
    pinned = [torch.empty(min(CHUNK, len(x)), x.shape[1], dtype=torch.float16).pin_memory() for _ in range(2)]
    copied = [torch.cuda.Event() for _ in range(2)]
    copying, working = torch.cuda.Stream(on), torch.cuda.current_stream(on)
    for i, start in enumerate(range(0, len(x), CHUNK)):
        rows = x[start : start + CHUNK]
        copied[i % 2].synchronize()  # the buffer's last copy; an event never recorded is over
        pinned[i % 2][: len(rows)].copy_(_shared(rows))  # rounded on all cores: half as much to send
        with torch.cuda.stream(copying):
            chunk = pinned[i % 2][: len(rows)].to(on, non_blocking=True)
            copied[i % 2].record(copying)
        working.wait_event(copied[i % 2])
        chunk.record_stream(working)
        yield chunk


class DevicePlan:
    """See `plan.Plan`: x stays on the device in f16, and an iteration is two passes over it.

    Args:
        x: f32[n, d].
        y: f32[M, d].
        a: f64[n], sums to 1.
        b: f64[M], positive.
        device: a torch device.
        fused: overrides the choice of the kernels, for tests.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, device: str, fused: bool | None = None
    ) -> None:
        on = torch.device(device)
        self.fused = has_triton(on) if fused is None else fused
        self.x, self.y = torch.cat(list(streamed(x, on))), _to_f16(y).to(on)
        self.b = b
        with np.errstate(divide="ignore"):
            self.log_a = torch.from_numpy(np.log2(a)).float().to(on)

    def arriving(self, price: np.ndarray, eps: float) -> np.ndarray:
        """Mass that arrives at each target, f64[M]."""
        bit = eps * math.log(2)
        added = torch.from_numpy((price - 2.0) / bit + np.log2(self.b)).float().to(self.x.device)
        if self.fused:
            from mixtura.pipeline.transport.fused import column_sums, row_sums

            top, mass, _, _ = row_sums(self.x, self.y, added, 2.0 / bit, None)
            total = column_sums(self.x, self.y, added, 2.0 / bit, self.log_a - top - mass.log2())
            return total.double().cpu().numpy()
        total = torch.zeros(len(self.b), dtype=torch.float64, device=self.x.device)
        size = rows_at_once(len(self.b))
        for x, log_a in zip(self.x.split(size), self.log_a.split(size), strict=True):
            z = product(x, self.y).mul_(2.0 / bit).add_(added)
            top = z.amax(1, keepdim=True)
            exps = z.sub_(top).exp2_()
            total += (exps.T @ (log_a.exp2() / exps.sum(1))).double()
        return total.cpu().numpy()


def _by_torch(
    x: torch.Tensor, y: torch.Tensor, added: torch.Tensor, change: torch.Tensor, logits: Logits, keep: int
) -> dict[str, torch.Tensor]:
    """The sums of a few rows by a tile of logits, and the k largest of these."""
    z = product(x, y).mul_(logits.scale).add_(added)
    groups = [z[:, g] for g in logits.slices]
    best = [group.max(1) for group in groups]
    found = {
        "top": torch.stack([b.values for b in best], 1),
        "mass": torch.stack(
            [(group - b.values[:, None]).exp2().sum(1) for group, b in zip(groups, best, strict=True)], 1
        ),
        "target": torch.stack([b.indices for b in best], 1),
    }
    if keep:
        found["logit"], found["kept"] = z.topk(min(keep, len(y)), 1)
    if logits.priced:
        z += change
        sums = [torch.logsumexp(z[:, g] * math.log(2), 1) / math.log(2) for g in logits.slices]
        found["plain"] = torch.stack(sums, 1)
    return found


def _fields(whole: dict[str, np.ndarray], logits: Logits, keep: int) -> dict[str, np.ndarray]:
    groups = len(logits.slices)
    top, mass, target = (whole.get(k, np.empty((0, groups))) for k in ("top", "mass", "target"))
    top, mass, target = top.astype(np.float64), mass.astype(np.float64), target.astype(np.int64)
    plain = whole["plain"].astype(np.float64) if logits.priced and whole else np.empty((0, groups))
    found = logits.distances(top, mass, target, plain)
    if not keep:
        return found
    logit, kept = (whole.get(k, np.empty((0, min(keep, len(logits.y))))) for k in ("logit", "kept"))
    share = np.exp2(logit.astype(np.float64) - log_of_sum(top + np.log2(mass))[:, None]).astype(np.float32)
    order = np.lexsort((kept, -share), axis=1)  # topk leaves the order of equal ones open
    kept, share, logit = (np.take_along_axis(v, order, 1) for v in (kept.astype(np.int64), share, logit))
    there = share >= LEAST_SHARE
    there[:, 0] = True
    kept, logit = (np.where(there, v, v[:, :1]) for v in (kept, logit))  # a target without weight has no cost
    pad = ((0, 0), (0, keep - kept.shape[1]))
    return found | {
        "targets": np.pad(np.where(there, kept, -1), pad, constant_values=-1).astype(np.int32),
        "shares": np.pad(np.where(there, share, 0), pad).astype(np.float32),
        "costs": np.pad(np.where(there, logits.cost(logit, kept), 0), pad).astype(np.float32),
    }


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """f32[n, M] of f16 inputs; a GPU's product of f16 would round the result to f16 as well."""
    if x.device.type == "cuda":
        return torch.mm(x, y.T, out_dtype=torch.float32)
    return x.float() @ y.float().T


def rows_at_once(targets: int) -> int:
    """Rows whose logits fit in TILE_BYTES."""
    return max(1, TILE_BYTES // (4 * targets))


def _to_f16(array: np.ndarray) -> torch.Tensor:
    return _shared(array).to(torch.float16)


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's memory; it is only read, so that the array may be read-only as those of Parquet are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found: Any = torch.from_numpy(np.ascontiguousarray(array))
    return found
