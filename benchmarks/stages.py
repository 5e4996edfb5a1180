"""Measure the stages of one curation in a process of its own: `python -m benchmarks.stages PART JOB.json RESULT.json`.

One process, one thread, one core: what is measured is the cost of the work. Processes multiply it, and a shard goes
to one process, so that several cores change the seconds but not the cost.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from benchmarks.corpora import SOURCE_TARGETS
from benchmarks.dedup import ONE_THREAD

R = TypeVar("R")
SELECTORS = ("uniform", "nearest", "dsir", "nudge", "tsds")
WITH_A_MODEL = ("context", "perplexity", "rds", "deficiency")  # not here: their cost is the causal LM's, in LOG.md
BUDGET_SHARE = 0.1  # of the pool's rows, by each selector
BOUNDED = ("embed fit", "report")  # they see a sample of fixed size, however large the pool is
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Clock:
    """Seconds and memory of each lap.

    laps: `stage, wall, cpu` in seconds, `peak_gib` of this process while the stage ran.
    """

    laps: list[dict[str, Any]] = field(default_factory=list)

    def lap(self, stage: str, work: Callable[..., R], *inputs: Any) -> R:
        """Run one stage and note what it took."""
        _forget_peak()
        wall, cpu, before = time.perf_counter(), time.process_time(), len(self.laps)
        result = work(*inputs)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        for kind in took:
            took[kind] -= sum(lap[kind] for lap in self.laps[before:])  # what ran inside has laps of its own
        self.laps.append({"stage": stage, **took, "peak_gib": _peak_gib()})
        return result

    @contextmanager
    def inside(self, stage: str, module: ModuleType, *names: str) -> Iterator[None]:
        """Give the time of some of a module's functions, called within another stage, to one lap of their own."""
        whole = {"stage": stage, "wall": 0.0, "cpu": 0.0, "peak_gib": 0.0}
        was = {name: getattr(module, name) for name in names}

        def timed(function: Callable[..., R]) -> Callable[..., R]:
            def run(*args: Any, **options: Any) -> R:
                wall, cpu = time.perf_counter(), time.process_time()
                try:
                    return function(*args, **options)
                finally:
                    whole["wall"] += time.perf_counter() - wall
                    whole["cpu"] += time.process_time() - cpu
                    whole["peak_gib"] = _peak_gib()

            return run

        for name in names:
            setattr(module, name, timed(was[name]))
        try:
            yield
        finally:
            for name in names:
                setattr(module, name, was[name])
            self.laps.append(whole)


def _forget_peak() -> None:
    """Linux lets a process set its own high-water mark back; elsewhere a stage's peak is the peak so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_gib() -> float:
    with suppress(OSError):
        line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def recipe_of(folder: Path, *, rows: int, fit_rows: int) -> Any:
    """A recipe over a pool from `corpora.write_pool`, with every selector."""
    from mixtura.recipe import Recipe

    sources = sorted(p.stem for p in folder.glob("*.jsonl") if p.name != SOURCE_TARGETS)
    text = {"columns": {"text": "text"}}
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "sources": {n: {"files": f"{n}.jsonl", **text} for n in sources},
            "target": {"files": SOURCE_TARGETS, **text},
            "embed": {"fit_rows": fit_rows},
            "select": [{"selector": s, "pick": {"budget_rows": max(1, round(BUDGET_SHARE * rows))}} for s in SELECTORS],
        }
    )


def curate(folder: Path, store: Path, *, rows: int, fit_rows: int, shard_rows: int) -> list[dict[str, Any]]:
    """Every stage in order; laps as `Clock` keeps them. `embed fit` and each selector's fit learn from `fit_rows`."""
    from mixtura.stages import choose, gather, publish
    from mixtura.stages.plan import Plan, Settings

    recipe = recipe_of(folder, rows=rows, fit_rows=fit_rows)
    settings = Settings(base=str(folder), store=str(store), workers=1, shard_rows=shard_rows, output=str(store / "out"))
    plan, clock = Plan.of(recipe, settings), Clock()

    def fit_encoder(pool: gather.Pool) -> None:
        with plan.stage("embed") as stage:
            choose.encoder_of(plan, stage, pool)

    def mix_and_write(pool: gather.Pool, embedded: choose.Embedded, picked: list[choose.Picked]) -> None:
        with clock.inside("report", publish, "exhibits", "render_report"):
            publish.write(plan, pool, embedded, picked, choose.mix(plan, pool, picked))

    units = clock.lap("ingest", gather.ingest, plan)
    units = clock.lap("clean", gather.clean, plan, units)
    pool = clock.lap("dedup", gather.dedup, plan, units)
    clock.lap("embed fit", fit_encoder, pool)
    embedded = clock.lap("embed", choose.embed, plan, pool)  # finds the encoder in the store
    scored = []
    for selection in recipe.select:
        alone = replace(plan, recipe=recipe.model_copy(update={"select": [selection]}))
        scored += clock.lap(f"score {selection.selector}", choose.score, alone, pool, embedded)
    picked = clock.lap("pick", choose.pick, plan, scored)
    clock.lap("mix+write", mix_and_write, pool, embedded, picked)
    return clock.laps


def ingest(file: Path, columns: dict[str, str], repeats: int) -> dict[str, Any]:
    """Ingest of one JSONL file into fresh stores, digest, Parquet and sync included; the first run is a warm-up.

    Returns:
        `mb_per_s` and `mb_per_cpu_s` (1 MB is 10^6 bytes of the file), medians; `runs`; `rows`; `peak_gib`.
    """
    from mixtura.pipeline import ingest as ingesting
    from mixtura.pipeline.locate import Where, locate
    from mixtura.recipe import Columns, Source

    spec = Source(files=[file.name], columns=Columns.model_validate(columns))
    (bundle,) = ingesting.bundles("lines", spec, locate("lines", spec, Where(file.parent, {})))
    clock = Clock()
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory(dir=file.parent) as store:
            made = clock.lap("ingest", ingesting.ingest, ingesting.IngestJob(bundle, store, 20_000))
    mb, runs = file.stat().st_size / 1e6, clock.laps[1:]
    return {
        "mb": mb,
        "rows": made.facts["rows"],
        "runs": [round(mb / r["wall"], 1) for r in runs],
        "mb_per_s": mb / statistics.median(r["wall"] for r in runs),
        "mb_per_cpu_s": mb / statistics.median(r["cpu"] for r in runs),
        "peak_gib": max(r["peak_gib"] for r in runs),
    }


def measure_pool(job: dict[str, Any]) -> dict[str, Any]:
    """Curate a small pool to warm up (imports, digests of the code), then the pool, `repeats` times into fresh stores.

    Returns:
        `laps`, the quickest of each stage: on a shared machine the others measure the neighbours; and `peak_gib`.
    """
    options = {k: job[k] for k in ("fit_rows", "shard_rows")}
    runs: list[list[dict[str, Any]]] = []
    for name in ["warm"] + ["pool"] * job["repeats"]:
        folder = Path(job[name]["folder"])
        with tempfile.TemporaryDirectory(dir=folder.parent) as store:
            runs.append(curate(folder, Path(store), rows=job[name]["rows"], **options))
    laps = [
        {"stage": same[0]["stage"], **{k: min(lap[k] for lap in same) for k in ("wall", "cpu")},
         "peak_gib": max(lap["peak_gib"] for lap in same)}
        for same in zip(*runs[1:], strict=True)
    ]  # fmt: skip
    return {"laps": laps, "peak_gib": max(lap["peak_gib"] for lap in laps)}


def measure_ingest(job: dict[str, Any]) -> dict[str, Any]:
    """See `ingest`."""
    return ingest(Path(job["file"]), job["columns"], job["repeats"])


PARTS = {"pool": measure_pool, "ingest": measure_ingest}


def in_own_process(part: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one part in a fresh process with one thread on one core."""
    given, result = folder / "job.json", folder / "result.json"
    given.write_text(json.dumps(job))
    command = [sys.executable, "-m", __name__, part, str(given), str(result)]
    env = {**os.environ, **ONE_THREAD, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark part {part!r} failed: {done.stderr[-2000:]}")
    return json.loads(result.read_text())


def main() -> None:
    """Run one part, on the last core that this process may use."""
    part, given, result = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    measured = PARTS[part](json.loads(Path(given).read_text()))
    Path(result).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
