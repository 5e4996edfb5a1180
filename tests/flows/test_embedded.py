"""`mixtura run` without a Prefect server: one is started for the run, silently, and is gone with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import calls
import pytest
from e2e.corpus import contents
from live import BIN, PATIENCE, STAGES, Process, until

from mixtura.flows import embedded

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]  # one after the other: each takes both cores


def _run(project, env, *more):
    command = [BIN / "mixtura", "run", project, "--workers", "1", *more]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)


def test_a_run_says_what_it_did_and_nothing_else(project, clean_env):
    """The first run also makes Prefect's database, the second finds it, and everything done."""
    for computed, unchanged in ((9, ""), (0, " (unchanged)")):
        done = _run(project, clean_env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        *stages, work, blank, total, card, report = done.stdout.splitlines()
        assert [s.split()[:2] for s in stages] == [["✓", stage] for stage in STAGES]
        assert work == f"reused {9 - computed} shards, computed {computed}"
        assert blank == ""
        assert total.startswith("8 rows, ")
        assert total.endswith(f"tiny{unchanged}")
        assert card.endswith("data_cards/tiny.md")
        assert report.endswith("tiny/report.html")


def test_prefect_does_not_reach_the_bytes(project, clean_env):
    base = project.parent
    for name, more in (("by-prefect", []), ("plain", ["--plain"])):
        done = _run(project, clean_env, "--store", base / f"store-{name}", "--output", base / name, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    assert contents(base / "by-prefect") == contents(base / "plain") != {}


def test_mining_on_prefect_says_its_stages_and_its_rounds(tmp_path, clean_env):
    recipe = calls.build(tmp_path, rounds=0, warmup=1)
    command = [BIN / "mixtura", "mine", recipe, "--workers", "1"]
    done = subprocess.run(command, env=clean_env, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [x.split()[1] for x in done.stdout.splitlines() if x.startswith("✓")][-1] == "write"
    assert "· warm-up: held-out pass rate rows " in done.stdout
    assert (tmp_path / "mixtures/calls-mined/report.html").is_file()


def test_a_mistake_is_one_sentence_and_exit_code_2(project, clean_env):
    (project.parent / "notes.jsonl").unlink()
    done = _run(project, clean_env)
    assert done.returncode == 2
    assert done.stderr.startswith("error sources.notes.files must match at least one file")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stdout


def test_serve_without_a_server_says_how_to_get_one(project, clean_env):
    done = subprocess.run(
        [BIN / "mixtura", "serve", project], env=clean_env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error mixtura serve needs a Prefect server")
    assert "prefect server start" in done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the server's process in /proc")
def test_a_killed_run_leaves_no_server(project, clean_env, tmp_path):
    run = Process("run", ["mixtura", "run", str(project)], clean_env, tmp_path)
    try:
        until(lambda: _servers(clean_env), "the embedded server has started")
        os.kill(run.pid, 9)
        until(lambda: not _servers(clean_env), "the server has noticed", seconds=60)
    finally:
        run.stop()


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("profiles.toml", 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://prefect.local/api"\n', True),
        ("profiles.toml", 'active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_LOGGING_LEVEL = "INFO"\n', False),
        ("prefect.toml", '[api]\nurl = "http://prefect.local/api"\n', True),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://prefect.local/api"\n', True),
        ("pyproject.toml", '[project]\nname = "rapid"\n', False),
        (".env", "PREFECT_API_URL=http://prefect.local/api\n", True),
    ],
)
def test_a_server_named_in_a_file_of_prefect_is_left_to_prefect(file, text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    assert not embedded.named_in_a_file()
    (tmp_path / file).write_text(text)
    assert embedded.named_in_a_file() is named


def _servers(env):
    """Embedded servers of this home, by /proc."""
    mark = f"PREFECT_HOME={env['PREFECT_HOME']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"mixtura.flows.embedded" in (process / "cmdline").read_bytes() and mark in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:  # it ended meanwhile
            continue
    return found
