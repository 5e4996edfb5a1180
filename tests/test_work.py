"""Workers: results in the order of the jobs, errors as they were raised, and no life after the parent's death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError, MixturaError
from mixtura.pipeline.work import THREADS, Workers

pytestmark = pytest.mark.xdist_group("work")


def square(job: int) -> int:
    return job**2


def wait_for_the_last(job: tuple[int, str]) -> int:
    """The first job waits for a sign of the last: they can only end in the other order."""
    number, sign = job
    if number == 4:
        Path(sign).touch()
    while number == 0 and not Path(sign).exists():
        time.sleep(0.01)
    return number


def refuse(job: int) -> int:
    if job == 2:
        raise InputError("job", "must not be two", got=job, next_step="Take another")
    return job


def look(job: int) -> tuple[int, dict[str, str | None]]:
    time.sleep(0.05)
    return os.getpid(), {name: os.environ.get(name) for name in THREADS}


def die(job: int) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


@pytest.fixture(scope="module")
def two():
    with Workers(2) as workers:
        yield workers


def test_results_come_in_the_order_of_the_jobs(two, tmp_path):
    told: list[int] = []
    jobs = [(i, str(tmp_path / "sign")) for i in range(5)]
    assert two.map(wait_for_the_last, jobs, done=told.append) == [0, 1, 2, 3, 4]
    assert sorted(told) == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 99), max_size=30))
@settings(max_examples=30)
def test_one_worker_or_two_say_the_same(two, numbers):
    assert two.map(square, numbers) == Workers(1).map(square, numbers) == [n * n for n in numbers]


def test_the_same_processes_serve_every_map_with_one_thread_each(two):
    before = {name: os.environ.get(name) for name in THREADS}
    seen = two.map(look, list(range(12))) + two.map(look, list(range(12)))
    assert len({pid for pid, _ in seen}) == 2
    assert os.getpid() not in {pid for pid, _ in seen}
    assert all(threads == dict.fromkeys(THREADS, "1") for _, threads in seen)
    assert {name: os.environ.get(name) for name in THREADS} == before


def test_one_worker_is_this_process():
    assert {pid for pid, _ in Workers(1).map(look, [1, 2])} == {os.getpid()}


@pytest.mark.parametrize("count", [1, 2])
def test_errors_arrive_as_they_were_raised(count, two):
    workers = two if count == 2 else Workers(1)
    with pytest.raises(InputError) as caught:
        workers.map(refuse, list(range(6)))
    error = caught.value
    assert str(error) == "job must not be two; got 2. Take another."
    assert (error.thing, error.need, error.got, error.next_step) == ("job", "must not be two", 2, "Take another")
    assert workers.map(refuse, [0, 1]) == [0, 1], "and the workers live on"


def test_a_worker_that_is_killed_is_one_sentence():
    with Workers(2) as workers, pytest.raises(MixturaError, match=r"worker process was killed.*memory.*--workers"):
        workers.map(die, list(range(6)))


PROGRAM = """
    import os, sys, time
    from pathlib import Path
    from test_work import write_on
    from mixtura.pipeline.work import Workers
    if __name__ == "__main__":
        with Workers(2) as workers:
            workers.map(write_on, [sys.argv[1] + "/a", sys.argv[1] + "/b"])
"""


def write_on(path: str) -> None:
    """A job that never ends by itself."""
    Path(f"{path}.pid").write_text(str(os.getpid()))
    while True:
        with open(path, "a") as f:
            f.write(".")
        time.sleep(0.02)


def test_workers_die_with_their_parent(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    run = subprocess.Popen([sys.executable, str(program), str(tmp_path)], env=env)
    pids = [tmp_path / "a.pid", tmp_path / "b.pid"]
    deadline = time.monotonic() + 60
    while not all(p.exists() and p.read_text() for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    assert run.wait(timeout=10) == -signal.SIGKILL
    deadline = time.monotonic() + 15
    while any(_lives(int(p.read_text())) for p in pids):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    sizes = [(tmp_path / n).stat().st_size for n in "ab"]
    time.sleep(0.2)
    assert sizes == [(tmp_path / n).stat().st_size for n in "ab"]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
