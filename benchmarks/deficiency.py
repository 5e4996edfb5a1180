"""Deficiency mining: the verifier, and what is measured of mining with it.

    python -m benchmarks.deficiency [--quick] [--data FOLDER] [--leaderboard FOLDER]

`--data` holds the leaderboard's question and answer files, `--leaderboard` a checkout of its repository, whose own
checker is the oracle (see `leaderboard`); without them speeds are those of made-up questions, and agreement is null.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import mining, verifier

Part = Callable[..., dict[str, Any]]
# each: measure(quick=..., data=..., repository=...) → figures
PARTS: dict[str, Part] = {"verifier": verifier.measure, "mining": mining.measure}


def main() -> None:
    """Run every part, or those named, and print their figures as one JSON object."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="smaller sizes: under 4 minutes")
    options.add_argument("--data", type=Path, help="folder of the leaderboard's data, or one above it")
    options.add_argument("--leaderboard", type=Path, help="checkout of the leaderboard's repository")
    options.add_argument("--only", choices=sorted(PARTS), action="append", help="a part; several times for several")
    given = options.parse_args()
    figures: dict[str, Any] = {}
    for name in given.only or PARTS:
        print(f"-- {name}", flush=True)
        figures |= PARTS[name](quick=given.quick, data=given.data, repository=given.leaderboard)
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
