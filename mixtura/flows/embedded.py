"""Prefect's server for a run from the command line: a process of its own that lives as long as the run.

Prefect would start one itself, but only after importing its whole server into this process too: 17 s of processor time
until the flow begins, where this takes 9 s, most of it beside our own imports. A killed run leaves no server behind.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from mixtura.errors import MixturaError
from mixtura.flows.prefect_env import prepare
from mixtura.pipeline.work import die_with_parent

PATIENCE = 180  # seconds; the first start makes the database: 15 s of processor time, the next ones 6 s
NAMES_A_SERVER = re.compile(r"PREFECT_API|^\s*\[?(tool\.prefect\.)?api\b|prefect\..*api", re.MULTILINE)


def start() -> None:
    """Start the server unless there is one; returns at once, see `wait`. Call it before prefect is imported.

    Where the user names a server (PREFECT_API_URL, a Prefect profile, ...) there is nothing to start.
    """
    prepare()
    if os.environ.get("PREFECT_API_URL") or named_in_a_file():
        return
    with socket.create_server(("127.0.0.1", 0)) as door:  # open already: a request waits until the server answers
        port = door.getsockname()[1]
        command = [sys.executable, "-m", "mixtura.flows.embedded", str(door.fileno()), str(os.getpid())]
        silent = subprocess.DEVNULL
        server = subprocess.Popen(
            command, pass_fds=[door.fileno()], stdin=silent, stdout=silent, stderr=silent, start_new_session=True
        )
    atexit.register(_stop, server)
    _STARTED.append(server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


def wait() -> None:
    """Until the server that `start` started answers.

    Raises:
        MixturaError: it does not.
    """
    if not _STARTED:
        return
    try:
        with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=PATIENCE):
            return
    except (OSError, urllib.error.URLError) as e:
        how = "Run with --plain, which needs no Prefect, or start `prefect server start` and set PREFECT_API_URL"
        raise MixturaError(f"Prefect's embedded server did not start: {e}. {how}.") from e


_STARTED: list[subprocess.Popen[bytes]] = []


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def named_in_a_file() -> bool:
    """Whether a file that Prefect reads may name a server; then Prefect decides, and starts its own if it does not."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    files = (profiles, Path(".env"), Path("prefect.toml"), Path("pyproject.toml"))
    return any(NAMES_A_SERVER.search(f.read_text(encoding="utf-8", errors="replace")) for f in files if f.is_file())


def _serve(door: int, parent: int) -> None:
    """The server's process."""
    die_with_parent(parent)
    # what Prefect sets for a server that it starts for one run: no UI, no services that only schedules need
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=door)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
