"""Commands that run beside a test, and a Prefect server to talk to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PATIENCE = 180  # seconds that anything may take on a busy machine; none of it takes 20 on an idle one

RECIPE = {
    "name": "tiny",
    "sources": {"notes": {"files": "notes.jsonl", "license": "CC0-1.0", "language": "en"}},
    "select": [{"selector": "uniform", "pick": {"budget_rows": 8}}],
    "mix": {"splits": {"validation": 0.25}},
}
STAGES = ["ingest", "clean", "dedup", "score", "pick", "mix", "write"]  # no vectors are needed, so no embed


class Process:
    """A command in a process group of its own; its output goes to a file."""

    def __init__(self, name: str, args: list[str], env: Mapping[str, str], folder: Path, cwd: Path = ROOT) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as out:
            self._popen = subprocess.Popen(
                [str(BIN / args[0]), *args[1:]],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._popen.send_signal(signal.SIGINT)
        return self._popen.wait(timeout=60)

    def stop(self) -> None:
        """Ask, then insist; nothing of the group is left."""
        for how, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            try:
                os.killpg(self._popen.pid, how)
                self._popen.wait(timeout=seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._popen.wait(timeout=20)


class Server:
    """The server's address, and how to talk to it."""

    def __init__(self, url: str, env: dict[str, str], folder: Path) -> None:
        self.url, self.env, self.folder = url, env, folder

    def api(self, path: str, body: object = None) -> Any:
        """The JSON that a GET answers, or a POST where there is a body; 503 asks to try again, as Prefect's does."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"content-type": "application/json"})
        for attempt in range(6):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as e:
                if e.code != 503 or attempt == 5:
                    raise
                e.close()
                time.sleep(1 + attempt)
        raise AssertionError("unreachable")

    def deployment(self, name: str) -> dict[str, Any]:
        return self.api(f"/deployments/name/{name}")

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Trigger a deployment, as the UI does; returns the run's id."""
        where = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return self.api(where, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]

    def finished(self, run: str) -> dict[str, Any]:
        """The state that a run ends in."""
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        state = lambda: self.api(f"/flow_runs/{run}")["state"]  # noqa: E731
        return until(lambda: s if (s := state())["type"] in ends else None, f"flow run {run} ends")

    def log(self, run: str, last: str = "Finished in state") -> str:
        """The run's log, a line each, once a line with `last` is in it: lines arrive a little after the state does."""
        lines = lambda: "\n".join(r["message"] for r in self.of("logs", run))  # noqa: E731
        return until(lambda: text if last in (text := lines()) else None, f"the log says {last!r}", seconds=60)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        return self.api("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})

    def of(self, things: str, run: str) -> list[dict[str, Any]]:
        """`artifacts` or `logs` of a run and of the flows that it called."""
        runs = [run, *(r["id"] for r in self.api("/flow_runs/filter", _children(run)))]
        return self.api(f"/{things}/filter", {things: {"flow_run_id": {"any_": runs}}})


def until(check: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `check` returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.25)
    raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}")


def _children(run: str) -> dict[str, Any]:
    return {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
