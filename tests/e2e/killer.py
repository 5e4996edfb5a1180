"""A warm process that curates in forked children and kills a child with SIGKILL at an exact point.

Every call that changes the disk is a point: before a sync, a rename, an unlink, a row group, a footer, and halfway
through a text or a copy. A request is one line of JSON on standard input,

    {"recipe": PATH, "shard_rows": N, "stage": the stage to die in or null, "at": at its point of this number}

where a stage that has fewer points lives to its end and dies there. The answer is one line of JSON: the `signal` that
ended the child (0: none), its `exit` code, and the `points` it reached, as pairs of stage and call.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss  # noqa: F401  warm: what a run imports late is imported once, here
import pyarrow.parquet as pq
import sklearn.decomposition
import sklearn.feature_extraction.text
import sklearn.manifold  # noqa: F401
import torch  # noqa: F401

from mixtura import recipe_file
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Quiet, Settings
from mixtura.store import code_version

OS_CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")


class Trap(Quiet):
    """Counts the points of each stage, tells them to the parent, and springs at one of them."""

    def __init__(self, tell: int, stage: str | None, at: int) -> None:
        self.tell, self.die_in, self.at = tell, stage, at
        self.stage = "before"
        self.count: Counter[str] = Counter()

    def begin(self, stage: str, total: int) -> None:
        self.stage = stage

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        if stage == self.die_in:
            self.at = self.count[stage] + 1
        self.reach("end")
        self.stage = "after"

    def reach(self, call: str, half: Callable[[], Any] = lambda: None) -> None:
        """A point; `half` leaves half of what the call would have left."""
        self.count[self.stage] += 1
        os.write(self.tell, f"{self.stage} {call}\n".encode())
        if self.stage == self.die_in and self.count[self.stage] == self.at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def lay(self) -> None:
        """Put a point before every call that changes the disk."""
        os.fsync = lambda fd: None  # SIGKILL takes nothing from the page cache, and the test has many deaths to pay for
        for name in OS_CALLS:
            self._before(os, name)
        for name in ("write_table", "close"):
            self._before(pq.ParquetWriter, name)
        write, copy = Path.write_text, shutil.copyfile

        def write_text(path: Path, text: str, *args: Any, **options: Any) -> int:
            self.reach("write_text", lambda: write(path, text[: len(text) // 2], *args, **options))
            return write(path, text, *args, **options)

        def copyfile(source: str, to: str, **options: Any) -> Any:
            data = Path(source).read_bytes()
            self.reach("copyfile", lambda: Path(to).write_bytes(data[: len(data) // 2]))
            return copy(source, to, **options)

        Path.write_text, shutil.copyfile = write_text, copyfile  # type: ignore[method-assign,assignment]

    def _before(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.reach(name)
            return real(*args, **options)

        setattr(owner, name, call)


def serve() -> None:
    """Answer requests until the input ends."""
    for module in [m for m in sys.modules if m.startswith("mixtura.")]:
        code_version(module)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_fork(json.loads(line))) + "\n")
        sys.stdout.flush()


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    hear, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(hear)
        os._exit(_curate(request, tell))
    os.close(tell)
    with os.fdopen(hear) as told:
        points = [line.split() for line in told]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    return {
        "signal": os.WTERMSIG(status) if killed else 0,
        "exit": 0 if killed else os.WEXITSTATUS(status),
        "points": points,
    }


def _curate(request: dict[str, Any], tell: int) -> int:
    try:
        trap = Trap(tell, request["stage"], request["at"])
        trap.lay()
        recipe = Path(request["recipe"])
        settings = Settings(base=str(recipe.parent), workers=1, shard_rows=request["shard_rows"])
        curate(Plan.of(recipe_file.load(recipe), settings, trap))
    except BaseException:  # noqa: BLE001  told to the test by stderr and exit code; the child must end here
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
