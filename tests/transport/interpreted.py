"""Run by test_device.py under TRITON_INTERPRET=1: the fused kernels on the CPU, against float64 and torch's tiles."""

from __future__ import annotations

import math

import numpy as np
import torch

from mixtura.pipeline.transport.device import DevicePlan, score_on
from mixtura.pipeline.transport.fused import Blocks, column_sums, row_sums
from mixtura.pipeline.transport.logits import Logits

SMALL = Blocks(rows=32, targets=32, width=32)
SHAPES = [(1, 1, 1), (70, 40, 40), (130, 33, 96), (64, 64, 32)]  # tiles that fit, and that overhang on every side


def drawn(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors f32 that f16 holds exactly, and prices f64[m]."""
    rng = np.random.default_rng(0)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rng.normal(size=(k, d)) for k in (n, m)))
    return x.astype(np.float16).astype(np.float32), y.astype(np.float16).astype(np.float32), rng.normal(size=m)


def check_sums(n: int, m: int, d: int) -> None:
    """Both kernels against the formula in float64; a third of the targets has no weight."""
    x, y, price = drawn(n, m, d)
    added = np.where(np.arange(m) % 3 == 1, -np.inf, price * 9)
    change = -price * 9
    z = 14.0 * x.astype(np.float64) @ y.astype(np.float64).T + added
    x_, y_ = (torch.from_numpy(v).half() for v in (x, y))
    added_ = torch.from_numpy(added).float()
    top, mass, target, plain = row_sums(x_, y_, added_, 14.0, torch.from_numpy(change).float(), SMALL)
    log = torch.logsumexp(torch.from_numpy(z * math.log(2)), 1) / math.log(2)
    plain_log = torch.logsumexp(torch.from_numpy((z + change) * math.log(2)), 1) / math.log(2)
    torch.testing.assert_close(top.double(), torch.from_numpy(z.max(1)), atol=2e-5, rtol=0)
    torch.testing.assert_close(top.double() + mass.double().log2(), log, atol=2e-5, rtol=0)
    torch.testing.assert_close(plain.double(), plain_log, atol=2e-5, rtol=0)
    np.testing.assert_array_equal(target.numpy(), z.argmax(1))
    log_row = torch.linspace(-3, 1, n)
    columns = column_sums(x_, y_, added_, 14.0, log_row, SMALL)
    exact = np.exp2(z + log_row.double().numpy()[:, None]).sum(0)
    np.testing.assert_allclose(columns.numpy(), exact, rtol=1e-4)


def check_engine() -> None:
    """Scores and what arrives at the targets, by the kernels and by torch's tiles."""
    x, y, price = drawn(300, 50, 24)
    b = np.random.default_rng(1).dirichlet(np.ones(50))
    for prices in (price * 0.1, price * 0):
        logits = Logits(y, prices, b, 0.1, None)
        one, other = (score_on("cpu", x, logits, 0, fused=f) for f in (True, False))
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], atol=2e-5, err_msg=name)
    a = np.r_[np.zeros(10), np.full(290, 1 / 290)]
    one, other = (DevicePlan(x, y, a, b, "cpu", f).arriving(price * 0.1, 0.1) for f in (True, False))
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_allclose(one.sum(), 1, rtol=1e-5)


if __name__ == "__main__":
    for shape in SHAPES:
        check_sums(*shape)
    check_engine()
    print(len(SHAPES) + 1, "checks held")  # noqa: T201
