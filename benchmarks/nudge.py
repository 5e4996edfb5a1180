"""Speed, memory and exactness of the transport engine: the prices of a target, and the scoring pass under them.

    python -m benchmarks.nudge [--quick]        1,000,000 x 1,000 x 256 in both; --quick tries fewer sizes and rows

Vectors are drawn from 60 clusters, of which the target wants all alike and the pool has ten rarely (after
methods/nudge.md, 4.1); epsilon is a tenth of the median cost. Seconds are CPU seconds of one thread, as wall seconds
on a shared machine say how busy the neighbours were, and embedding is in none of them.

- `score_over_gemm`: the scoring pass over its bare matrix product, same tiles, same dtype, one thread, in turns of
  16 tiles, the median of the turns' ratios; `_2` the worse of two processes at once, `_kept` with 8 targets kept a row.
- `speedup_vs_best_peer`: seconds of the quickest peer over ours, to solve the prices and score the pool, of those that
  came within ten times the tolerance of 0.001 that all were given; `speedup_vs_unconverged` counts all. Peers solve
  the pool whole; they run on fewer rows, and their seconds are scaled by rows: an iteration's are linear.
- `top1pct_overlap`: of the picks from prices on 20,000 rows, with those from prices on the pool whole, solved to 1e-5.
- `cost_exponent`: slope of log seconds over log rows of solve and scoring, the seconds of the smallest subtracted.
- `extra_gib`: the process's peak in solve and scoring, less what it held with the vectors before.

The last line is one JSON object; `gpu` in it is what `benchmarks/transport_gpu.py` finds, or null without a GPU.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two processes share two cores

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pipeline import exponent
from benchmarks.transport_peers import PEERS
from mixtura.pipeline.transport import TILE, Prices, median_cost, soft_distances, solve_prices

SOLVE_ROWS = 20_000
TOLERANCE = 1e-3
CLUSTERS, RARE, SPREAD = 60, 10, 0.9


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    rows, targets, width: the pool that is solved and scored.
    whole_rows: the pool of which a whole solve gives the picks to compare with.
    peer_rows: what peers get.
    sizes: pools for the exponent.
    turns: tiles of the ratio to the matrix product.
    """

    rows: int
    targets: int
    width: int
    whole_rows: int
    peer_rows: int
    sizes: tuple[int, ...]
    turns: int


FULL = Plan(1_000_000, 1_000, 256, 1_000_000, 20_000, (20_000, 100_000, 400_000, 1_000_000, 4_000_000), 400)
QUICK = Plan(1_000_000, 1_000, 256, 200_000, 10_000, (20_000, 80_000, 320_000, 960_000), 100)


def of_rows(rows: int) -> Plan:
    """The smallest plan that measures everything; for tests."""
    return Plan(rows, 40, 16, rows, 300, (rows // 8, rows // 4, rows // 2, rows), 3)


class Drawn:
    """Pool and target, f32 unit vectors around cluster centres, the same for the same sizes."""

    def __init__(self, plan: Plan) -> None:
        rng = np.random.default_rng(0)
        self.width = plan.width
        self.centres = _unit(rng.standard_normal((CLUSTERS, plan.width), np.float32))
        common = np.full(CLUSTERS - RARE, 0.97 / (CLUSTERS - RARE))
        self.shares = np.r_[common, np.full(RARE, 0.03 / RARE)]
        self.y = self._around(np.arange(plan.targets) % CLUSTERS, rng)

    def shards(self, rows: int, size: int = 100_000) -> Iterator[np.ndarray]:
        """The first `rows` of the pool, f32[<= size, width] at a time."""
        for i, start in enumerate(range(0, rows, size)):
            rng = np.random.default_rng((1, i))
            yield self._around(rng.choice(CLUSTERS, size, p=self.shares), rng)[: rows - start]

    def pool(self, rows: int) -> np.ndarray:
        """f32[rows, width], at a peak of a shard more than that."""
        x = np.empty((rows, self.width), np.float32)
        at = 0
        for shard in self.shards(rows):
            x[at : at + len(shard)] = shard
            at += len(shard)
        return x

    def _around(self, cluster: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((len(cluster), self.width), np.float32)
        return _unit(self.centres[cluster] + noise * np.float32(SPREAD / self.width**0.5))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def score_over_gemm(plan: Plan, keep: int = 0) -> float:
    """Median ratio of CPU seconds, scoring of a few tiles over their product; one thread."""
    torch.set_num_threads(1)
    drawn, rows = Drawn(plan), 16 * TILE
    x, y = drawn.pool(rows), drawn.y
    price = solve_prices(x, y, epsilon=0.2, tolerance=0.01).price
    tiles, columns = torch.from_numpy(x).split(TILE), torch.from_numpy(np.ascontiguousarray(y.T))
    out = torch.empty(TILE, len(y))
    ratios = []
    for _ in range(plan.turns * TILE // rows + 3):
        began = time.process_time()
        for tile in tiles:
            torch.mm(tile, columns, out=out)
        middle = time.process_time()
        soft_distances(x, y, price, epsilon=0.2, keep=keep)
        ratios.append((time.process_time() - middle) / (middle - began))
    return statistics.median(ratios[1:])


def solve_and_score(plan: Plan) -> dict[str, Any]:
    """CPU seconds of prices and of the pass, and the memory that they took; the picks' rule as the selector has it."""
    drawn = Drawn(plan)
    x, y = drawn.pool(plan.rows), drawn.y
    _reset_peak()
    held = _status("VmRSS")
    began = time.process_time()
    epsilon, prices = _prices(x, y)
    solved = time.process_time()
    soft_distances(x, y, prices.price, epsilon=epsilon)
    scored = time.process_time()
    return {
        "solve_s": solved - began,
        "score_s": scored - solved,
        "iterations": prices.iterations,
        "extra_gib": (_status("VmHWM") - held) / 2**20,
    }


def _prices(x: np.ndarray, y: np.ndarray) -> tuple[float, Prices]:
    epsilon = 0.1 * median_cost(x, y)
    return epsilon, solve_prices(x[:SOLVE_ROWS], y, epsilon=epsilon, tolerance=TOLERANCE)


def overlap_with_whole_solve(plan: Plan) -> float:
    """Share of the best 1 % of a pool that prices on a sample and prices on all of it agree on."""
    drawn = Drawn(plan)
    x, y = drawn.pool(plan.whole_rows), drawn.y
    epsilon, some = _prices(x, y)
    whole = solve_prices(x, y, epsilon=epsilon, tolerance=1e-5, start=some.price)  # one fixed point, from any start
    assert whole.marginal_error <= 1e-5
    best = [top(soft_distances(x, y, p.price, epsilon=epsilon).soft) for p in (some, whole)]
    return len(best[0] & best[1]) / len(best[0])


def top(f: np.ndarray, share: float = 0.01) -> set[int]:
    """Positions of the smallest f."""
    return set(np.argsort(f, kind="stable")[: max(1, round(share * len(f)))].tolist())


def time_peers(plan: Plan) -> dict[str, dict[str, float]]:
    """Of each peer, CPU seconds for the plan's rows, scaled, and the overlap of its picks with a solve to 1e-5."""
    drawn = Drawn(plan)
    x, y = drawn.pool(plan.peer_rows), drawn.y
    epsilon = 0.1 * median_cost(x, y)
    exact = solve_prices(x, y, epsilon=epsilon, tolerance=1e-5)
    best = top(soft_distances(x, y, exact.price, epsilon=epsilon).soft)
    found = {}
    for name, peer in PEERS.items():
        began = time.process_time()
        f = peer(x, y, epsilon, TOLERANCE)
        seconds = (time.process_time() - began) * plan.rows / plan.peer_rows
        error = marginal_error(x, y, f, epsilon)
        found[name] = {"seconds": seconds, "marginal_error": error, "overlap": len(best & top(f)) / len(best)}
    return found


def marginal_error(x: np.ndarray, y: np.ndarray, f: np.ndarray, epsilon: float) -> float:
    """Of potentials f64[n]: how far the rows are from their mass once the columns have theirs."""
    g = soft_distances(y, x, f, epsilon=epsilon).soft
    return float(np.abs(np.exp((f - soft_distances(x, y, g, epsilon=epsilon).soft) / epsilon) - 1).mean())


def converged(peers: dict[str, dict[str, float]]) -> list[float]:
    """Seconds of the peers that came within ten times the tolerance: the others did other work."""
    return [p["seconds"] for p in peers.values() if p["marginal_error"] <= 10 * TOLERANCE]


def seconds_by_rows(plan: Plan) -> list[tuple[int, float]]:
    """Rows, and CPU seconds of prices and scoring, shard after shard."""
    drawn = Drawn(plan)
    found = []
    for rows in plan.sizes:
        seconds, solved = 0.0, None
        for shard in drawn.shards(rows):
            began = time.process_time()
            epsilon, prices = solved = solved or _prices(shard, drawn.y)
            soft_distances(shard, drawn.y, prices.price, epsilon=epsilon)
            seconds += time.process_time() - began
        found.append((rows, seconds))
    return found


def _status(field: str) -> int:
    """KiB, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def alone(name: str, plan: Plan) -> Any:
    """One of the functions above in a process of its own, so that none meets another's memory or threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(globals()[name], (plan,))


def measure(plan: Plan) -> dict[str, Any]:
    """Measure everything and print it as it comes; returns the figures of the last line."""
    figures: dict[str, Any] = {
        "score_over_gemm": score_over_gemm(plan),
        "score_over_gemm_kept": score_over_gemm(plan, 8),
    }
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        figures["score_over_gemm_2"] = max(pool.map(score_over_gemm, [plan, plan], chunksize=1))
    for name in ("score_over_gemm", "score_over_gemm_kept", "score_over_gemm_2"):
        print(f"{name:24}{figures[name]:.2f}", flush=True)
    ours = alone("solve_and_score", plan)
    seconds = ours["solve_s"] + ours["score_s"]
    print(f"{plan.rows} x {plan.targets} x {plan.width}: {ours}", flush=True)
    peers = alone("time_peers", plan)
    for name, of_peer in peers.items():
        times = of_peer["seconds"] / seconds
        print(
            f"{name:24}{of_peer['seconds']:.0f} s from {plan.peer_rows} rows, {times:.1f} times ours; {of_peer}",
            flush=True,
        )
    overlap = alone("overlap_with_whole_solve", plan)
    print(f"overlap of {plan.whole_rows} rows  {overlap:.3f}", flush=True)
    by_rows = alone("seconds_by_rows", plan)
    print("rows, seconds:", ", ".join(f"{n}: {s:.2f}" for n, s in by_rows), flush=True)
    return figures | {
        "speedup_vs_best_peer": min(converged(peers)) / seconds,
        "speedup_vs_unconverged": min(p["seconds"] for p in peers.values()) / seconds,
        "top1pct_overlap": overlap,
        "cost_exponent": exponent(by_rows),
        "extra_gib": ours["extra_gib"],
        "gpu": on_gpu(),
    }


def on_gpu() -> dict[str, Any] | None:
    """What `benchmarks/transport_gpu.py` finds, or None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.transport_gpu"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 4 minutes on two idle cores")
    parser.add_argument("--rows", type=int, help="tiny sizes, to try the code")
    given = parser.parse_args()
    plan = of_rows(given.rows) if given.rows else QUICK if given.quick else FULL
    figures = measure(plan)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
