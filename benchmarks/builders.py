"""Rows a second of each builder that asks no model, on one core; with real data also leaks and clusters.

    python -m benchmarks.builders [--quick] [--data DATA]

Rows in are those of the tests' cases, made larger; a row that gives several counts once. Fit and build are both timed.
With DATA, the folder of the unpacked real data, `leaks` counts what recipes/subtasks.yaml leaves on more than one side
of its splits, and `cluster_ami` says how well the clusters behind a proposed task pool agree with known tasks, plain
k-means beside it (`benchmarks/clusters.py`). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import clusters
from mixtura import recipe_file
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--data", type=Path, help="folder of the unpacked real data")
    given = parser.parse_args()
    figures: dict[str, Any] = {"rows_per_s": speeds(2_000 if given.quick else 20_000)}
    if given.data:
        figures |= {"leaks": leaks(given.data)}
        measured = clusters.measure(given.data, *((2_500, 1) if given.quick else (8_000, 3)))
        figures |= {k: measured[k] for k in ("cluster_ami", "cluster_ami_kmeans")}
    print(json.dumps(figures))


def speeds(rows: int) -> dict[str, int]:
    """Rows in a CPU second, by builder."""
    from builder_cases import CASES, run

    found = {}
    for word, made in sorted(CASES.items()):
        many = rows if word != "toolstate" else rows // 4  # its rows are whole dialogues
        sized = "n" in inspect.signature(made).parameters
        case = made(many) if sized else made()
        if case.generator is not None:
            continue  # the model decides its speed
        began = time.process_time()
        (built,) = run(word, case)
        found[word] = round(len(case.shard) / (time.process_time() - began))
        print(f"{word:14} {len(case.shard):,} rows in, {len(built.rows):,} out, {found[word]:,} rows in a second")
    return found


def leaks(data: Path) -> int | None:
    """Rows, parents and requests of recipes/subtasks.yaml on more than one side of its splits."""
    os.environ["DATA"] = str(data.resolve())
    path = Path("recipes/subtasks.yaml")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            base=str(recipe_file.base_of(path)), workers=1, store=f"{folder}/store", output=f"{folder}/mixture"
        )
        summary = curate(Plan.of(recipe_file.load(path), settings)).summary
    told = summary.leaks
    print(f"leaks          {told}")
    return told and told.total


if __name__ == "__main__":
    main()
