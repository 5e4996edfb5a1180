"""Clean and deduplicate real text: speed beside datatrove's four MinHash stages, survivors beside an exact oracle.

    python benchmarks/dedup.py --data DIR [--rows 20000] [--sample 2000] [--repeats 3]

DIR holds the unpacked sets `arxiv_daily` (where 38 % are real copies) and `wikinews_en`. A fifth of the rows gets a
planted copy with 0.5 to 10 % of its words replaced, because real near-copies are rare there: so the threshold is met
from both sides. Both sides run in a process of their own with one thread, warmed up; times are medians over fresh
stores. Ours includes cleaning, writing, syncing and reading back; ingest is not part of it. datatrove keeps its
default tokeniser and gets a sample only, the first rows of the same list: its cost per row is constant and high,
while ours falls with more rows, as the fixed costs (syncing files, hashing the code) are shared by more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SHARD_ROWS = 5_000
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "RAYON_NUM_THREADS",
    )
}
EDITS = (0.005, 0.01, 0.02, 0.05, 0.1)  # share of words replaced in a planted copy


def real_texts(data: Path) -> dict[str, Iterator[str]]:
    """Source → its texts, out of the unpacked sets `arxiv_daily` (38 % are real copies) and `wikinews_en`.

    Raises:
        FileNotFoundError: a set is missing.
    """
    folders = {"arxiv": data / "arxiv_daily" / "data", "wikinews": data / "wikinews_en"}
    for folder in folders.values():
        if not folder.is_dir():
            raise FileNotFoundError(f"--data must hold {folder.relative_to(data)}; unpack it there")
    return {"arxiv": _arxiv(folders["arxiv"]), "wikinews": _wikinews(folders["wikinews"])}


def corpus(texts: Mapping[str, Iterator[str]], rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts by turns from every source, with planted copies among them; fewer than `rows` where they run out.

    Returns:
        Mappings with `id, source, file, offset, text`, as ingest would write them.
    """
    import numpy as np

    from mixtura.rows import content_id

    rng = np.random.default_rng(seed)
    readers = dict(texts)
    out: list[dict[str, Any]] = []
    while readers and len(out) < rows:
        for source, reader in list(readers.items()):
            if (text := next(reader, None)) is None:
                del readers[source]
                continue
            out.append({"source": source, "file": f"{source}.jsonl", "text": text})
            if rng.random() < 0.2:
                words = text.split(" ")
                for at in rng.integers(0, len(words), max(1, round(rng.choice(EDITS) * len(words)))):
                    words[at] = f"edit{rng.integers(1 << 30)}"
                out.append({"source": source, "file": "planted.jsonl", "text": " ".join(words)})
    return [{**r, "offset": i, "id": content_id(r)} for i, r in enumerate(out[:rows])]


def _arxiv(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if record.get("summary"):
                    yield f"{record['title']}\n\n{record['summary']}"


def _wikinews(folder: Path) -> Iterator[str]:
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name.startswith("wiki_")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if len(record["text"]) > 500:
                    yield record["text"]


def write_shards(rows: list[dict[str, Any]], folder: Path, shard_rows: int = SHARD_ROWS) -> list[str]:
    """The rows as ingest's shards; returns their paths."""
    from mixtura.pipeline import tables
    from mixtura.rows import table

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(rows), shard_rows):
        paths.append(folder / f"rows-{first:08d}.parquet")
        tables.write(paths[-1], table(rows[first : first + shard_rows]))
    return [str(p) for p in paths]


def run_ours(shards: list[str], store: Path) -> dict[str, Any]:
    """Clean, deduplicate and write the pool of these shards, in this process; sources rank by name, as in `oracle`.

    Returns:
        Seconds (wall and CPU) by stage, the facts of dedup, and `kept`: the offsets of the surviving rows.
    """
    import polars as pl

    from mixtura.pipeline.clean import CleanJob, clean_shard
    from mixtura.pipeline.dedup import PoolJob, dedup, pool_shard
    from mixtura.recipe import Clean
    from mixtura.store import Store

    order = sorted(set(pl.scan_parquet(shards).select("source").collect()["source"]))
    rules, clock = Clean(), [(time.perf_counter(), time.process_time())]
    cleaned = [clean_shard(CleanJob(s, s, rules, 0, str(store))) for s in shards]
    clock.append((time.perf_counter(), time.process_time()))
    made = dedup(cleaned, clean=rules, source_order=order, protected=[], store=Store(store))
    clock.append((time.perf_counter(), time.process_time()))
    drops = [str(made.file(n)) for n in made.names("drops-")]
    pool = [
        pool_shard(PoolJob(str(c.file("rows.parquet")), c.digest, d, d, str(store)))
        for c, d in zip(cleaned, drops, strict=True)
    ]
    clock.append((time.perf_counter(), time.process_time()))
    kept = [pl.read_parquet(p.file("rows.parquet"), columns=["offset"])["offset"].to_list() for p in pool]
    stages = ("clean", "dedup", "pool")
    return {
        "seconds": {s: b[0] - a[0] for s, a, b in zip(stages, clock, clock[1:], strict=False)},
        "cpu_seconds": {s: b[1] - a[1] for s, a, b in zip(stages, clock, clock[1:], strict=False)},
        "facts": made.facts,
        "kept": [o for part in kept for o in part],
    }


def run_datatrove(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Datatrove's four stages over the same rows with the same shingles and bands, one task, in this process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in").mkdir()
    with (folder / "in" / "rows.jsonl").open("w", encoding="utf-8") as out:
        for r in rows:
            out.write(json.dumps({"id": str(r["offset"]), "text": r["text"]}) + "\n")
    config = MinhashConfig(n_grams=5, num_buckets=20, hashes_per_bucket=6)
    read, at = JsonlReader(str(folder / "in")), {n: str(folder / n) for n in ("sig", "buckets", "ids", "out")}
    plan: dict[str, list[Any]] = {
        "signature": [read, MinhashDedupSignature(at["sig"], config=config)],
        "buckets": [MinhashDedupBuckets(at["sig"], at["buckets"], config=config)],
        "cluster": [MinhashDedupCluster(at["buckets"], at["ids"], config=config)],
        "filter": [read, MinhashDedupFilter(at["ids"]), JsonlWriter(at["out"], compression=None)],
    }
    seconds, cpu = {}, {}
    for stage, steps in plan.items():
        tasks = config.num_buckets if stage == "buckets" else 1
        wall, used = time.perf_counter(), time.process_time()
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / stage)).run()
        seconds[stage], cpu[stage] = time.perf_counter() - wall, time.process_time() - used
    kept = [int(json.loads(line)["id"]) for f in Path(at["out"]).glob("*.jsonl") for line in f.open(encoding="utf-8")]
    return {"seconds": seconds, "cpu_seconds": cpu, "kept": sorted(kept)}


def oracle(rows: list[dict[str, Any]], *, ngram: int = 5, threshold: float = 0.8) -> list[int]:
    """Offsets of the rows that stay when every pair is compared exactly.

    An inverted index from shingle to rows, as a sparse matrix times its transpose; pieces are cut by Python's `re`
    and shingles are tuples: nothing of the code under test but its definitions.
    """
    import numpy as np
    from scipy.sparse import csr_array, vstack
    from scipy.sparse.csgraph import connected_components

    order = sorted(rows, key=lambda r: (r["source"], -len(r["text"].strip()), r["id"], r["file"], r["offset"]))
    names: dict[tuple[str, ...], int] = {}
    columns, starts = [], [0]
    for r in order:
        pieces = re.findall(r"\w+|[^\w\s]+", r["text"].lower())
        found = {tuple(pieces[i : i + ngram]) for i in range(max(1, len(pieces) - ngram + 1))}
        columns.extend(names.setdefault(s, len(names)) for s in found)
        starts.append(len(columns))
    sets = csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(order), len(names)))
    size, index, edges = np.diff(starts), sets.T.tocsr(), []
    for first in range(0, len(order), 500):
        common = (sets[first : first + 500] @ index).tocoo()
        union = size[first + common.row] + size[common.col] - common.data
        alike = common.data >= threshold * union
        shape = (len(order[first : first + 500]), len(order))
        edges.append(csr_array((np.ones(alike.sum(), bool), (common.row[alike], common.col[alike])), shape=shape))
    _, component = connected_components(vstack(edges), directed=False)
    _, first_of = np.unique(component, return_index=True)
    return sorted(order[i]["offset"] for i in first_of)


def kept_jaccard(a: list[int], b: list[int]) -> float:
    """Rows kept by both over rows kept by either."""
    return len(set(a) & set(b)) / max(1, len(set(a) | set(b)))


def measure(run: Callable[[Path], dict[str, Any]], n: int, repeats: int) -> dict[str, Any]:
    """Medians of `repeats` runs, each in a fresh folder."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(Path(folder) / "run"))
    median = {
        kind: {s: round(statistics.median(r[kind][s] for r in runs), 3) for s in runs[0][kind]}
        for kind in ("seconds", "cpu_seconds")
    }
    return {
        **runs[0],
        **median,
        "rows": n,
        "rows_per_s": n / sum(median["seconds"].values()),
        "rows_per_cpu_s": n / sum(median["cpu_seconds"].values()),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_own_process(part: str, rows: list[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Measure one side (`ours` or `datatrove`) in a fresh process with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "rows.json", Path(folder) / "result.json"
        given.write_text(json.dumps(rows))
        root = str(Path(__file__).resolve().parent.parent)
        env = {**os.environ, **ONE_THREAD, "PYTHONPATH": root, "DATATROVE_COLORIZE_LOGS": "0"}
        command = [sys.executable, __file__, "--part", part, str(given), str(result), str(repeats)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"benchmark part {part!r} failed: {done.stderr[-2000:]}")
        return json.loads(result.read_text())


def _part(part: str, given: Path, result: Path, repeats: int) -> None:
    rows = json.loads(given.read_text())
    warm = rows[:200]
    if part == "ours":
        shards = write_shards(rows, given.parent / "shards")
        run_ours(write_shards(warm, given.parent / "warm"), given.parent / "warm-store")
        measured = measure(lambda store: run_ours(shards, store), len(rows), repeats)
    else:
        run_datatrove(warm, given.parent / "warm")
        measured = measure(lambda folder: run_datatrove(rows, folder), len(rows), repeats)
    result.write_text(json.dumps(measured))


def benchmark(everything: list[dict[str, Any]], *, sample: int = 2_000, repeats: int = 3) -> dict[str, Any]:
    """Everything this file measures.

    Args:
        everything: rows from `corpus`, for our speed and for the oracle.
        sample: the first of them, for datatrove; 0 leaves it out, and with it what it would be compared by.
        repeats: runs of ours; datatrove, tens of seconds long, runs once after its warm-up.

    Returns:
        `ours`, `datatrove` (see `measure`); `dedup_speedup_vs_datatrove`, the ratio of rows per second of wall time,
        and `dedup_speedup_cpu`, of CPU time, which a busy machine disturbs less; `dedup_kept_jaccard` of ours against
        the oracle; `oracle_kept` of all rows and `oracle_kept_of_sample`. datatrove does not define who survives, so
        only its number of rows is comparable.
    """
    ours = in_own_process("ours", everything, repeats)
    exact = oracle(everything)
    out: dict[str, Any] = {
        "rows": len(everything),
        "bytes_per_row": sum(len(r["text"].encode("utf-8", "surrogatepass")) for r in everything) / len(everything),
        "dedup_kept_jaccard": kept_jaccard(ours["kept"], exact),
        "oracle_kept": len(exact),
        "ours": {**ours, "kept": len(ours["kept"])},
    }
    if sample:
        few = everything[:sample]
        theirs = in_own_process("datatrove", few, 1)
        out |= {
            "dedup_speedup_vs_datatrove": ours["rows_per_s"] / theirs["rows_per_s"],
            "dedup_speedup_cpu": ours["rows_per_cpu_s"] / theirs["rows_per_cpu_s"],
            "oracle_kept_of_sample": len(oracle(few)),
            "datatrove": {**theirs, "kept": len(theirs["kept"])},
        }
    return out


def report(found: dict[str, Any]) -> str:
    """The table that the benchmark prints."""
    lines = [
        f"{found['rows']:,} rows of {found['bytes_per_row']:,.0f} bytes; one thread each",
        f"{'':16}{'rows':>8}{'rows/s':>10}{'rows/CPU s':>12}{'kept':>8}{'peak GiB':>10}  seconds by stage",
    ]
    for name in [n for n in ("ours", "datatrove") if n in found]:
        side = found[name]
        stages = ", ".join(f"{s} {t:.2f}" for s, t in side["seconds"].items())
        lines.append(
            f"{name:16}{side['rows']:>8,}{side['rows_per_s']:>10,.0f}{side['rows_per_cpu_s']:>12,.0f}"
            f"{side['kept']:>8,}{side['peak_gib']:>10.2f}  {stages}"
        )
    lines.append(f"kept set against the exact oracle, Jaccard: {found['dedup_kept_jaccard']:.4f}")
    lines.append(f"the oracle keeps {found['oracle_kept']:,} of all rows")
    if "datatrove" in found:
        wall, cpu = found["dedup_speedup_vs_datatrove"], found["dedup_speedup_cpu"]
        lines[-1] += f", {found['oracle_kept_of_sample']:,} of the sample"
        lines.append(f"rows/s against datatrove: {wall:.1f}x by wall time, {cpu:.1f}x by CPU time")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and run."""
    if sys.argv[1:2] == ["--part"]:
        part, given, result, repeats = sys.argv[2:6]
        return _part(part, Path(given), Path(result), int(repeats))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked real data")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = benchmark(corpus(real_texts(given.data), given.rows), sample=given.sample, repeats=given.repeats)
    print(report(found))
    print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
