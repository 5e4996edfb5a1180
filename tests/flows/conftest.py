"""A real Prefect server and worker on loopback, started once, and a small recipe to run there."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import BIN, PATIENCE, RECIPE, ROOT, Process, Server, until


@pytest.fixture(scope="session")
def server(clean_env, tmp_path_factory) -> Iterator[Server]:
    """A real `prefect server`, the work pool made and the deployments of prefect.yaml registered by its commands."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = clean_env | {"PREFECT_HOME": str(folder / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    env["PREFECT_API_URL"] = url
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = Process("server", command, env, folder)
    found = Server(url, env, folder)
    try:
        until(lambda: process.ended or _healthy(found), "the server is up")
        assert not process.ended, process.output
        yield found
    finally:
        process.stop()


@pytest.fixture(scope="session")
def deployed(server) -> Iterator[Server]:
    """The server with the work pool, the deployments of prefect.yaml, and a worker: by the commands that it names."""
    for args in (["work-pool", "create", "mixtura", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
        done = subprocess.run(
            [BIN / "prefect", *args], env=server.env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
    worker = Process("worker", ["prefect", "worker", "start", "--pool", "mixtura"], server.env, server.folder)
    try:
        yield server
    finally:
        worker.stop()


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with twenty notes and a recipe over them; returns the recipe."""
    notes = [f"note {i}: " + " ".join(f"w{(i * 7 + k * k) % 101}" for k in range(30)) for i in range(20)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": n}) + "\n" for n in notes))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(RECIPE))  # JSON is YAML
    return recipe


def _healthy(server: Server) -> bool:
    try:
        return server.api("/health") is True
    except (urllib.error.URLError, ConnectionError):
        return False
