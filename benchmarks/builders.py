"""Rows a second of each builder that asks no model, on one core.

python -m benchmarks.builders [--quick]      the last line is one JSON object

Rows in are those of the tests' cases, made larger; a row that gives several counts once. Fit and build are both timed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> None:
    """Measure and print."""
    from builder_cases import CASES, run

    from mixtura.registry import find

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    rows = 2_000 if parser.parse_args().quick else 20_000
    speeds = {}
    for word, made in sorted(CASES.items()):
        if find("builders", word).needs.generator:
            continue  # the model decides its speed
        many = rows if word != "toolstate" else rows // 4  # its rows are whole dialogues
        case = made(many) if inspect.signature(made).parameters else made()
        began = time.process_time()
        (built,) = run(word, case)
        speeds[word] = round(len(case.shard) / (time.process_time() - began))
        print(f"{word:14} {len(case.shard):,} rows in, {len(built.rows):,} out, {speeds[word]:,} rows in a second")
    print(json.dumps({"rows_per_s": speeds}))


if __name__ == "__main__":
    main()
