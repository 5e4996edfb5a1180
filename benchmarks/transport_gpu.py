"""The transport engine on a GPU: the scoring pass against the card's bf16 matrix rate, and against others.

    python -m benchmarks.transport_gpu [--rows 10000000] [--targets 10000] [--width 384]

`matrix_rate_share`: of the rate of torch's bf16 product of 8,192 x 8,192 x 8,192, what the pass over resident vectors
reaches, by its best tile shape (`blocks` says which); `streamed_s`: the pass over vectors in the host's memory, from
f32 arrays to f64 scores; `chunked_torch_s`: resident, a product and torch.logsumexp of each chunk. `flash-sinkhorn` and
GeomLoss, where installed, solve one whole problem of `--solve-rows` beside ours. `top1pct_overlap` is of picks on both
devices. Without a GPU, tiny sizes on the CPU try the code: TRITON_INTERPRET=1 python -m benchmarks.transport_gpu
--rows 600 --targets 60 --width 32. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.transport_peers import geomloss_tensorized
from mixtura.pipeline.transport import device, median_cost, soft_distances, solve_prices
from mixtura.pipeline.transport.logits import Logits

ON = "cuda" if torch.cuda.is_available() else "cpu"
BLOCKS = [(128, 128, 64, 8, 3), (128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 128, 8, 2), (64, 256, 64, 4, 4)]


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Best wall seconds of a few runs, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _wait() -> None:
    if ON == "cuda":
        torch.cuda.synchronize()


def drawn(rows: int, targets: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around 60 centres, f32, drawn on the device."""
    generator = torch.Generator(ON).manual_seed(0)
    centres = torch.randn(60, width, device=ON, generator=generator)
    out = np.empty((rows + targets, width), np.float32)
    for start in range(0, len(out), 1 << 18):
        part = out[start : start + (1 << 18)]
        which = torch.randint(60, (len(part),), device=ON, generator=generator)
        noise = torch.randn(len(part), width, device=ON, generator=generator)
        part[:] = torch.nn.functional.normalize(centres[which] + noise, dim=1).cpu().numpy()
    return out[targets:], out[:targets]


def matrix_rate(size: int) -> float:
    """FLOP a second of a square product in bf16."""
    a, b = (torch.randn(size, size, device=ON, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b)


def resident(x: np.ndarray, logits: Logits) -> dict[str, Any]:
    """Seconds of the pass over vectors on the device, fused by tile shape, and by chunks of torch."""
    on = torch.device(ON)
    rows = torch.cat(list(device.streamed(x, on)))
    y = torch.from_numpy(logits.y).half().to(on)
    added, change = (torch.from_numpy(v).float().to(on) for v in (logits.added, logits.change))
    found: dict[str, Any] = {}
    if find_spec("triton"):
        from mixtura.pipeline.transport.fused import Blocks, row_sums

        shapes = BLOCKS if ON == "cuda" else [(32, 32, 32, 8, 3)]
        timed = {}
        for shape in shapes:
            try:
                timed[shape] = seconds(lambda s=shape: row_sums(rows, y, added, logits.scale, change, Blocks(*s)))
            except Exception as e:  # noqa: BLE001  # a shape that a card has no room for is a result, not a fault
                print("blocks", shape, "do not run:", type(e).__name__, flush=True)
        found["blocks"] = min(timed, key=lambda s: timed[s])
        found["fused_s"] = timed[found["blocks"]]
        print("blocks, seconds:", timed, flush=True)

    def chunked() -> None:
        for chunk in rows.split(device.rows_at_once(len(y))):
            z = device.product(chunk, y).mul_(logits.scale).add_(added)
            torch.logsumexp(z, 1)

    return found | {"chunked_torch_s": seconds(chunked, 1)}


def solvers(x: np.ndarray, y: np.ndarray, epsilon: float) -> dict[str, float]:
    """Seconds of a whole solve by ours, GeomLoss and flash-sinkhorn, of what is installed."""
    found = {"solve_s": seconds(lambda: solve_prices(x, y, epsilon=epsilon, tolerance=1e-3, device=ON), 1)}
    if find_spec("geomloss"):
        found["geomloss_s"] = seconds(lambda: geomloss_tensorized(x, y, epsilon, 1e-3, ON), 1)
    if find_spec("flash_sinkhorn") and ON == "cuda":
        from flash_sinkhorn import SamplesLoss  # type: ignore[import-not-found]

        loss = SamplesLoss(loss="sinkhorn", blur=epsilon**0.5, scaling=0.5, debias=False)  # its cost is |x - y|^2
        x_, y_ = (torch.from_numpy(v).to(ON) for v in (x, y))
        found["flash_sinkhorn_s"] = seconds(lambda: loss(x_, y_), 1)
    return found


def measure(rows: int, targets: int, width: int, solve_rows: int, compare_rows: int, square: int) -> dict[str, Any]:
    """All figures, printed as they come."""
    x, y = drawn(rows, targets, width)
    epsilon = 0.1 * median_cost(x, y)
    price = solve_prices(x[:solve_rows], y, epsilon=epsilon, tolerance=1e-3, device=ON).price
    logits = Logits(y, price, np.full(targets, 1 / targets), epsilon, None)
    rate = matrix_rate(square)
    found = {"name": torch.cuda.get_device_name() if ON == "cuda" else "cpu", "matrix_tflops": rate / 1e12}
    found |= resident(x, logits)
    if "fused_s" in found:
        found["matrix_rate_share"] = 2 * rows * targets * width / found["fused_s"] / rate
    print(found, flush=True)
    found["streamed_s"] = seconds(lambda: device.score_on(ON, x, logits, 0), 1)
    found |= solvers(x[:solve_rows], y, epsilon)
    some = x[:compare_rows]
    both = [soft_distances(some, y, price, epsilon=epsilon).soft, device.score_on(ON, some, logits, 0)["soft"]]
    best = [set(np.argsort(f, kind="stable")[: max(1, compare_rows // 100)].tolist()) for f in both]
    return found | {"top1pct_overlap": len(best[0] & best[1]) / len(best[0])}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--solve-rows", type=int, default=200_000)
    parser.add_argument("--compare-rows", type=int, default=50_000, help="scored on the CPU as well")
    given = parser.parse_args()
    few = [min(n, given.rows) for n in (given.solve_rows, given.compare_rows)]
    found = measure(given.rows, given.targets, given.width, *few, square=8_192 if ON == "cuda" else 256)
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
