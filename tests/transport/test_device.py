"""The engine's other devices: torch's tiles on the CPU, the fused kernels in Triton's interpreter, and a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import around, unit

from mixtura.pipeline.transport import device, median_cost, soft_distances, solve_prices
from mixtura.pipeline.transport.logits import Logits

F16 = 2e-3  # rounding to 11 bits moves an inner product of unit vectors by up to 2^-10; costs are twice that


def clusters(n: int = 2_000, m: int = 60, d: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """f32 rows and targets around 6 centres, one of which is rare among the rows."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(6, d)))
    rows = np.vstack([around(c, k, 0.8, rng) for c, k in zip(centres, [n // 5] * 5 + [n // 50], strict=True)])
    return rows, np.vstack([around(c, m // 6, 0.8, rng) for c in centres])


def test_kernels_under_the_interpreter():
    pytest.importorskip("triton")
    script = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", script],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5 checks held\n"


@pytest.mark.parametrize("keep", [0, 4, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_tiles_of_torch_are_the_cpu(monkeypatch, keep, grouped):
    """Vectors that f16 holds exactly, in several chunks and tiles: only f32's rounding is left between the two."""
    monkeypatch.setattr(device, "CHUNK", 700)
    monkeypatch.setattr(device, "TILE_BYTES", 4 * 60 * 300)
    x, y = (v.astype(np.float16).astype(np.float32) for v in clusters())
    price = np.random.default_rng(1).normal(size=60) * 0.1
    b = np.random.default_rng(2).dirichlet(np.ones(60))
    b[3] = 0
    b /= b.sum()
    groups = np.repeat(np.arange(2), 30) if grouped else None
    cpu = soft_distances(x, y, price, epsilon=0.1, b=b, keep=keep, groups=groups)
    found = device.score_on("cpu", x, Logits(y, price, b, 0.1, groups), keep)
    fields = {k: v for k, v in vars(cpu).items() if v is not None}
    assert found.keys() == fields.keys()
    for name, value in fields.items():
        assert found[name].dtype == value.dtype, name
        if name in ("target", "targets"):
            assert (found[name] == value).mean() > 0.999, "all but ties within rounding"
        else:
            np.testing.assert_allclose(found[name], value, atol=3e-5 if name != "shares" else 1e-2, err_msg=name)


def test_no_rows_give_no_rows():
    _, y = clusters()
    none = np.zeros((0, y.shape[1]), np.float32)
    logits = Logits(y, np.ones(len(y)), np.full(len(y), 1 / len(y)), 0.1, None)
    cpu = soft_distances(none, y, np.ones(len(y)), epsilon=0.1, keep=3)
    for name, value in device.score_on("cpu", none, logits, 3).items():
        assert value.shape == getattr(cpu, name).shape


def test_prices_in_half_precision_pick_as_the_cpu_does():
    x, y = clusters()
    epsilon = 0.1 * median_cost(x, y)
    price = solve_prices(x, y, epsilon=epsilon, tolerance=1e-5).price
    plan = device.DevicePlan(x, y, np.full(len(x), 1 / len(x)), np.full(60, 1 / 60), "cpu")
    assert np.abs(plan.arriving(price, epsilon) - 1 / 60).sum() < F16 / epsilon
    exact = soft_distances(x, y, price, epsilon=epsilon).soft
    rounded = device.score_on("cpu", x, Logits(y, price, np.full(60, 1 / 60), epsilon, None), 0)["soft"]
    np.testing.assert_allclose(rounded, exact, atol=F16)
    best = [set(np.argsort(f)[:100].tolist()) for f in (exact, rounded)]
    assert len(best[0] & best[1]) >= 98


@pytest.mark.gpu
def test_a_gpu_picks_as_the_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x, y = clusters(100_000, 600, 384)
    epsilon = 0.1 * median_cost(x, y)
    best = []
    for on in ("cpu", "cuda"):
        price = solve_prices(x[::5], y, epsilon=epsilon, tolerance=1e-4, device=on).price
        soft = soft_distances(x, y, price, epsilon=epsilon, device=on).soft
        best.append(set(np.argsort(soft)[:1000].tolist()))
    assert len(best[0] & best[1]) >= 990
