"""Speed, memory and exactness of the whole pipeline, with datatrove and an exact oracle beside dedup.

    python -m benchmarks.pipeline [--data DIR] [--quick]        make bench [DATA=DIR] [QUICK=1]

Each pool size runs in a process of its own on one core (`stages.py`); so do ingest of a JSONL file, and both sides of
the comparison with datatrove (`dedup.py`). The last line is one JSON object.

**The cost exponent** is the slope of log seconds over log rows of the stages that see every row. Two are left out,
as they see a sample of fixed size: the fit of the encoder, and the report with its map of at most 1,500 points; they
would only make the slope look flatter. From the rest, the seconds and rows of a small pool (`floor_rows`) are
subtracted: they hold what every run pays once, such as the selectors' fits and the syncs of files. Imports are over
after a warm-up. At these sizes a cost of a + b n then gives 1, a + b n^1.5 gives 1.3 and a + b n^2 gives 1.6. The
slope of the whole sum, with nothing left out or subtracted, is printed too. Seconds are CPU seconds, as wall seconds
on a shared machine say how busy the neighbours were; the exponent of wall seconds stands beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import corpora, dedup, stages


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    rows: pool sizes; floor_rows: the small pool whose cost is subtracted.
    fit_rows: what encoder and selectors learn from, at every size.
    dedup_rows, sample: rows of the comparison, and the first of them, which datatrove gets; 0 leaves it out.
    ingest_mb: size of the JSONL file.
    repeats: runs of ingest and of our dedup, whose median counts; pool_repeats: of each pool, the quickest counts.
    """

    rows: tuple[int, ...]
    floor_rows: int
    fit_rows: int
    dedup_rows: int
    sample: int
    ingest_mb: float
    repeats: int
    pool_repeats: int

    @property
    def shard_rows(self) -> int:
        """So that every size has full shards: memory is then bounded by the shard, and may not grow with the pool."""
        return max(50, self.floor_rows // 2)


FULL = Plan((10_000, 20_000, 40_000), 4_000, 2_000, 20_000, 2_000, 100, 5, 3)
QUICK = Plan((2_000, 4_000, 8_000), 1_000, 500, 5_000, 300, 30, 3, 2)


def of_rows(rows: int) -> Plan:
    """The smallest plan that measures everything but datatrove; for tests."""
    return Plan((rows // 2, rows), rows // 4, rows // 4, rows, 0, 0.2, 1, 1)


def measure(plan: Plan, data: Path | None, folder: Path) -> dict[str, Any]:
    """Measure everything and print it as it comes; returns the figures of the last line."""
    targets, rows = corpora.gather(data, max(*plan.rows, plan.dedup_rows), folder / "texts")
    print(f"{machine()}; {data_words(data, rows)}; one process, one thread, one core")
    ingested = measure_ingest(plan, data, rows, folder)
    sizes = [n for n in (plan.floor_rows, *plan.rows) if n <= len(rows)]
    pools = [measure_pool(plan, targets, rows[:n], folder) for n in sizes]
    compared = compare_dedup(plan, rows)
    return summary(ingested, pools, compared)


def measure_ingest(plan: Plan, data: Path | None, rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Ingest alone, of one JSONL file."""
    file = folder / "lines.jsonl"
    columns = corpora.write_lines(file, data, rows, round(plan.ingest_mb * 1e6))
    found = stages.in_own_process("ingest", {"file": str(file), "columns": columns, "repeats": plan.repeats}, folder)
    file.unlink()
    print(
        f"\ningest of one JSONL file of {found['mb']:.0f} MB, {found['rows']:,} rows: {found['mb_per_s']:.0f} MB/s"
        f" (runs {', '.join(map(str, found['runs']))}), {found['mb_per_cpu_s']:.0f} MB per CPU second,"
        f" peak {found['peak_gib']:.2f} GiB",
        flush=True,
    )
    return found


def measure_pool(plan: Plan, targets: Sequence[str], rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """One curation over a pool of these rows; `laps`, `rows`, `mb`, `peak_gib`."""
    job: dict[str, Any] = {"fit_rows": plan.fit_rows, "shard_rows": plan.shard_rows, "repeats": plan.pool_repeats}
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        for name, some in (("warm", rows[: min(300, len(rows))]), ("pool", rows)):
            at = Path(inside) / name
            size = corpora.write_pool(at, targets, some)
            job[name] = {"folder": str(at), "rows": len(some)}
        found = {**stages.in_own_process("pool", job, Path(inside)), "rows": len(rows), "mb": sum(size.values()) / 1e6}
    print(pool_table(found), flush=True)
    return found


def pool_table(pool: dict[str, Any]) -> str:
    """One line per stage."""
    rows, mb, laps = pool["rows"], pool["mb"], pool["laps"]
    total = {k: sum(lap[k] for lap in laps) for k in ("wall", "cpu")} | {"stage": "all", "peak_gib": pool["peak_gib"]}
    lines = [
        f"\npool of {rows:,} rows, {mb:.1f} MB of text",
        f"{'stage':16}{'seconds':>9}{'CPU s':>9}{'rows/s':>12}{'MB/s':>9}{'rows/CPU s':>12}{'peak GiB':>10}",
    ]
    lines += [
        f"{lap['stage']:16}{lap['wall']:9.2f}{lap['cpu']:9.2f}{rows / lap['wall']:12,.0f}{mb / lap['wall']:9.1f}"
        f"{rows / lap['cpu']:12,.0f}{lap['peak_gib']:10.2f}"
        for lap in [*laps, total]
    ]
    return "\n".join(lines)


def compare_dedup(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours beside the oracle, and beside datatrove unless the plan leaves it out."""
    found = dedup.benchmark(rows[: plan.dedup_rows], sample=plan.sample, repeats=plan.repeats)
    print(f"\n{dedup.report(found)}", flush=True)
    return found


def summary(ingested: dict[str, Any], pools: Sequence[dict[str, Any]], compared: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last line; exponents are printed by stage."""
    floor, *sizes = pools
    stage_names = [lap["stage"] for lap in floor["laps"]]
    print(f"\ncost exponent by stage, CPU seconds beyond those of {floor['rows']:,} rows")
    for at, stage in enumerate(stage_names):
        costs = [(p["rows"], p["laps"][at]["cpu"]) for p in pools]
        print(f"{stage:16}" + ("  bounded" if stage in stages.BOUNDED else f"{exponent(costs):9.2f}"))
    growing = {
        kind: [(p["rows"], sum(x[kind] for x in p["laps"] if x["stage"] not in stages.BOUNDED)) for p in pools]
        for kind in ("wall", "cpu")
    }
    seconds = {kind: [(p["rows"], sum(lap[kind] for lap in p["laps"])) for p in pools] for kind in ("wall", "cpu")}
    largest = sizes[-1]
    found = {
        "rows_per_s": largest["rows"] / seconds["wall"][-1][1],
        "rows_per_cpu_s": largest["rows"] / seconds["cpu"][-1][1],
        "ingest_mb_per_s_per_core": ingested["mb_per_s"],
        "ingest_mb_per_cpu_s": ingested["mb_per_cpu_s"],
        "dedup_speedup_vs_datatrove": compared.get("dedup_speedup_vs_datatrove"),
        "dedup_speedup_cpu": compared.get("dedup_speedup_cpu"),
        "dedup_kept_jaccard": compared["dedup_kept_jaccard"],
        "cost_exponent": exponent(growing["cpu"]),
        "cost_exponent_wall": exponent(growing["wall"]),
        "cost_exponent_of_everything": slope(seconds["cpu"][1:]),
        "peak_gib": max(p["peak_gib"] for p in pools),
        "peak_gib_by_rows": {str(p["rows"]): round(p["peak_gib"], 3) for p in pools},
    }
    print(
        f"{'all':16}{found['cost_exponent']:9.2f}   wall {found['cost_exponent_wall']:.2f},"
        f" of everything {found['cost_exponent_of_everything']:.2f}"
    )
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


def exponent(costs: Sequence[tuple[int, float]]) -> float:
    """Slope of log cost over log rows, beyond the first size's cost and rows.

    Args:
        costs: (rows, seconds), of growing sizes.
    """
    (floor_rows, floor), *larger = costs
    return slope([(rows - floor_rows, max(seconds - floor, 1e-6)) for rows, seconds in larger])


def slope(costs: Sequence[tuple[int, float]]) -> float:
    """Least-squares slope of log seconds over log rows."""
    xs, ys = zip(*((math.log(rows), math.log(seconds)) for rows, seconds in costs), strict=True)
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def machine() -> str:
    """Processor, cores and Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        cpu = next(names, cpu)
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def data_words(data: Path | None, rows: Sequence[dict[str, Any]]) -> str:
    """What the pool is."""
    kind = "real rows (arxiv_daily, wikinews_en)" if data else "docstrings of the installed packages"
    size = sum(len(r["text"].encode("utf-8", "surrogatepass")) for r in rows) / max(1, len(rows))
    return f"{kind} of {size:,.0f} bytes on average, with planted copies"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked real data; else docstrings")
    parser.add_argument("--quick", action="store_true", help="smaller sizes; under 4 minutes on two cores")
    parser.add_argument("--rows", type=int, help="at most this many rows, and no datatrove: for tests")
    given = parser.parse_args()
    plan = of_rows(given.rows) if given.rows else QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(plan, given.data, Path(folder))
    print(f"\n{json.dumps(figures)}")


if __name__ == "__main__":
    main()
