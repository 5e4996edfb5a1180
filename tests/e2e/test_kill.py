"""A run that is killed continues, and never leaves a part under a final name.

Three ways to die: at exact points of the disk's changes, over all stages (a warm driver forks and kills, see
`killer.py`); at every kind of point while an older mixture is replaced; and by the clock, with worker processes.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import corpus

pytestmark = pytest.mark.xdist_group("kill")

SHARD_ROWS = 30
SEEDS = (1, 2)
KILLS_PER_STAGE = 2


class Driver:
    """The warm process of `killer.py`."""

    def __init__(self) -> None:
        words = [sys.executable, str(Path(__file__).with_name("killer.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(words, text=True, env=corpus.quick_environment(), **pipes)

    def run(self, recipe: Path, stage: str | None = None, at: int = 0) -> dict[str, Any]:
        """One curation, killed at the given point, or at the end of the stage where it has fewer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"recipe": str(recipe), "shard_rows": SHARD_ROWS, "stage": stage, "at": at}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert answer["exit"] == 0, "the run failed by itself; see stderr"
        assert answer["signal"] == (signal.SIGKILL if stage else 0)
        return answer

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def points(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Points of each stage of an uninterrupted run."""
    recipe = corpus.build(tmp_path_factory.mktemp("counted"))
    return Counter(stage for stage, _ in driver.run(recipe)["points"])


def visible(base: Path) -> list[str]:
    """Every name below the base that is not hidden, without the store's inside."""
    names = (p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file())
    return sorted(n for n in names if not any(part.startswith(".") for part in n.split("/")))


def hidden(base: Path) -> list[str]:
    """What a run may not leave behind: drafts, whether of artefacts, mixtures or cards."""
    drafts = [p for p in base.rglob(".*") if p.name != ".mixtura"]
    return [str(p.relative_to(base)) for p in [*drafts, *(base / ".mixtura/tmp").iterdir()]]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_in_every_stage_it_continues_to_the_same_bytes(tmp_path, whole, driver, points, seed, capsys):
    """Two kills in each of eight stages, one after another in one store, at points drawn by the seed."""
    assert set(points) >= set(corpus.STAGES)
    recipe = corpus.build(tmp_path)
    mixture, card = tmp_path / "mixtures/small", tmp_path / "data_cards/small.md"
    rng = random.Random(seed)
    killed: list[str] = []
    for stage in corpus.STAGES:
        for _ in range(KILLS_PER_STAGE):
            at = rng.randint(1, points[stage])
            last = driver.run(recipe, stage, at)["points"][-1]
            killed.append(f"{last[0]}:{last[1]}@{at}")
            assert not corpus.partial(tmp_path / ".mixtura", [mixture]), killed
            assert last[0] == stage
            assert stage == "write" or not mixture.exists()
            assert not card.exists() or card.read_bytes() == whole.done.card.read_bytes()
    driver.run(recipe)
    assert corpus.contents(mixture) == whole.contents, killed
    assert visible(tmp_path) == visible(whole.base)
    assert not hidden(tmp_path), killed
    with capsys.disabled():
        sys.stdout.write(f"\nseed {seed}, {len(killed)} kills: {' '.join(killed)}\n")


def test_the_kills_are_many():
    assert len(SEEDS) * KILLS_PER_STAGE * len(corpus.STAGES) >= 25


def test_an_older_mixture_is_replaced_whole_or_not_at_all(tmp_path, whole, driver):
    """Killed at any point of a publication, the folder holds the old mixture or the new one, or the old one is beside.

    The new mixture is in the store already, so that each death costs little and every kind of point is tried.
    """
    base = tmp_path / "base"
    shutil.copytree(whole.base, base)
    final, aside = base / "mixtures/small", base / "mixtures/.small.old"
    recipe = corpus.write_recipe(base, select__0__pick__budget_tokens=1500)
    driver.run(recipe)
    new, new_card = corpus.contents(final), (base / "data_cards/small.md").read_bytes()
    assert new != whole.contents

    def back_to_the_old() -> None:
        shutil.rmtree(base / "mixtures")  # drafts of the last death too: clearing them would shift the points
        shutil.copytree(whole.done.folder, final)
        shutil.copy(whole.done.card, base / "data_cards/small.md")

    back_to_the_old()
    calls = [call for stage, call in driver.run(recipe)["points"] if stage == "write"]
    assert corpus.contents(final) == new
    renames = [i for i, call in enumerate(calls, 1) if call in ("rename", "replace")]
    assert len(renames) == 4  # the manifest's, the old one's, the new one's, the card's
    nearby = {i + d for i in renames for d in (0, 1)}
    spread = {calls.index(call) + 1 for call in set(calls)} | set(range(1, len(calls), 9))
    seen: Counter[str] = Counter()
    for at in sorted(nearby | spread):
        back_to_the_old()
        driver.run(recipe, "write", at)
        assert not corpus.partial(base / ".mixtura", [final, *([aside] if not final.exists() else [])]), at
        there = corpus.contents(final if final.exists() else aside)
        assert there in (whole.contents, new), at
        seen["new" if there == new else "old" if final.exists() else "aside"] += 1
        assert (base / "data_cards/small.md").read_bytes() in (whole.done.card.read_bytes(), new_card)
        if not final.exists():  # killed again at once, the next run has first put the old one back
            driver.run(recipe, "write", 3)
            assert corpus.contents(final) == whole.contents
    assert seen["aside"] == 1  # after the first rename, before the second
    assert min(seen["old"], seen["new"]) >= 3
    driver.run(recipe)
    assert corpus.contents(final) == new
    assert not hidden(base)


def test_killed_by_the_clock_with_two_workers(tmp_path, whole, capsys):
    """The command itself, with worker processes: they die with their parent, and the next run goes on."""
    recipe = corpus.build(tmp_path)
    words = corpus.command("run", recipe, "--plain", "--workers", "2", "--shard-rows", str(SHARD_ROWS))
    rng = random.Random(3)
    told: list[str] = []
    for stages in (0, 3):  # after so many stages are done and the workers live, and a while
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        run = subprocess.Popen(words, text=True, env=corpus.quick_environment(), **pipes)
        assert run.stdout is not None
        for _ in range(stages):
            assert run.stdout.readline().startswith("✓")
        while len(_descendants(run.pid)) < 2:
            assert run.poll() is None, "it ended before it had workers"
            time.sleep(0.05)
        delay = rng.uniform(0.0, 1.0)
        time.sleep(delay)
        children = _descendants(run.pid)
        run.kill()
        assert run.wait(timeout=10) == -signal.SIGKILL
        deadline = time.monotonic() + 20
        while alive := [c for c in children if _alive(c)]:
            assert time.monotonic() < deadline, f"{len(alive)} workers outlive their parent"
            time.sleep(0.1)
        run.communicate()
        told.append(f"{stages} stages and {delay:.2f} s with {len(children)} children")
        if (tmp_path / ".mixtura").exists():
            assert not corpus.partial(tmp_path / ".mixtura", [tmp_path / "mixtures/small"]), told
    done = corpus.mixtura(*words[3:])
    assert done.returncode == 0, done.stderr
    assert corpus.contents(tmp_path / "mixtures/small") == whole.contents
    assert visible(tmp_path) == visible(whole.base)
    assert not hidden(tmp_path)
    with capsys.disabled():
        sys.stdout.write(f"\nseed 3, killed after {'; '.join(told)}\n")


def _descendants(pid: int) -> list[int]:
    """Children of a process and theirs, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
