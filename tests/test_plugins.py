"""A user's own selector and reader, by entry point: they work in a run, and their code counts in its keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from live import BIN

SELECTOR = '''
"""Longest rows first."""
import polars as pl
from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs
from .measure import measure

class Spec(contract.Spec):
    power: float = 1.0

class Longest:
    name, source, needs, scale, Spec = "longest", "ours", Needs(columns=("plain",)), "rank", Spec
    def fit(self, spec, *, sample, target, reference, seed):
        return Fitted(facts={"rows": len(sample)})
    def score(self, spec, fitted, shard):
        length = shard.rows["plain"].str.len_chars().cast(pl.Float64)
        return pl.DataFrame({"id": shard.rows["id"], "score": measure(length) ** spec.power, "chars": length})

SELECTOR = Longest()
'''
MEASURE = "def measure(length):\n    return length\n"
READER = '''
"""Records that a bar separates."""
from mixtura.pipeline.reading import Reader, Record

def read(stream, options):
    whole = stream.whole()
    offset = 0
    for part in whole.split(b"|"):
        yield Record(offset, {"text": part.decode()}, part)
        offset += len(part) + 1

READER = Reader(read, endings=(".bars",))
'''
CHECK = '''
"""Right is what is shouted."""
from mixtura import checking
from mixtura.checking import Question, dialogue, text_of
from mixtura.verdict import PASSED, failed

class Shouting:
    name, Spec = "shouting", checking.Spec
    def question(self, spec, row):
        prompt, gold = dialogue(row)
        return Question(prompt, gold, lambda a: PASSED if text_of(a).isupper() else failed("too_quiet"))

CHECK = Shouting()
'''
ENTRY_POINTS = (
    "[mixtura.selectors]\nlongest = mine.longest\n[mixtura.readers]\nbars = mine.bars\n"
    "[mixtura.checks]\nshouting = mine.shouting\n"
)
RECIPE = {
    "name": "own",
    "sources": {"notes": {"files": "notes.bars"}},
    "select": [{"selector": "longest", "options": {"power": 2}, "pick": {"budget_rows": 4}}],
    "mix": {"splits": {"validation": 0}},
}
NOTES = [f"note {i}" + f" word{i}" * (i + 1) for i in range(12)]


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder as `pip install` leaves it: the package `mine`, and its dist-info with entry points."""
    site = tmp_path / "site"
    for name, text in {
        "mine/__init__.py": "",
        "mine/longest.py": SELECTOR,
        "mine/measure.py": MEASURE,
        "mine/bars.py": READER,
        "mine/shouting.py": CHECK,
        "mine-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
        "mine-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    (tmp_path / "notes.bars").write_text("|".join(NOTES))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return site


def run(site: Path) -> dict[str, str]:
    """A run in a process of its own, two workers; stage → `computed n` or `reused n`."""
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        BIN / "mixtura",
        "run",
        "recipe.yaml",
        "--plain",
        "--workers",
        "2",
        "--shard-rows",
        "5",
    ]
    done = subprocess.run(command, env=env, cwd=site.parent, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("✓")]
    return {line.split()[1]: line.rsplit("· ", 1)[1] for line in lines}


def test_they_work_in_a_run_and_their_code_counts(site):
    assert all(work.startswith("computed") for work in run(site).values())
    rows = pl.read_parquet(site.parent / "mixtures/own/train/*.parquet")
    longest = sorted(NOTES, key=len)[-4:]
    assert set(rows["text"]) == set(longest)
    assert sorted(rows["score"]) == [float(len(n)) ** 2 for n in longest]
    assert {json.loads(w)["chars"] for w in rows["why"]} == {float(len(n)) for n in longest}
    assert {(o, t) for o, t in rows.select("offset", "text").iter_rows()} <= _offsets()

    again = run(site)
    assert all(work.startswith("reused") for work in again.values()), again

    _replace(site / "mine/longest.py", "Longest rows first", "The longest rows first")
    changed = run(site)
    assert changed["ingest"].startswith("reused"), changed
    assert changed["score"].startswith("computed"), changed

    _replace(site / "mine/measure.py", "return length", "return -length")  # a helper beside it counts as well
    assert run(site)["score"].startswith("computed")
    rows = pl.read_parquet(site.parent / "mixtures/own/train/*.parquet")
    assert set(rows["text"]) == set(sorted(NOTES, key=len)[-4:]), "a square is the same for both signs"

    _replace(site / "mine/bars.py", "Records that a bar separates", "Bars separate records")
    changed = run(site)
    assert changed["ingest"].startswith("computed"), changed
    assert changed["score"].startswith("reused"), "the same rows came of it, so nothing below is done again"


def test_the_schema_and_a_misspelling_know_them(site):
    env = os.environ | {"PYTHONPATH": str(site)}
    schema = subprocess.run(
        [BIN / "mixtura", "schema"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    selection = json.loads(schema.stdout)["$defs"]["Selection"]
    assert "longest" in selection["properties"]["selector"]["enum"]
    recipe = site.parent / "recipe.yaml"
    _replace(recipe, '"longest"', '"longst"')
    command = [BIN / "mixtura", "run", "recipe.yaml", "--plain"]
    done = subprocess.run(command, env=env, cwd=site.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Nearest: 'longest'" in done.stderr


def _offsets() -> set[tuple[int, str]]:
    whole = "|".join(NOTES)
    return {(whole.index(n + "|") if n != NOTES[-1] else whole.rindex("|") + 1, n) for n in NOTES}


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_check_of_ones_own(site):
    code = """
from mixtura.registry import find
check = find("checks", "shouting")
row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "YES"}]}
asked = check.question(check.Spec(), row)
print(asked.judge(asked.gold).passed, asked.judge("yes").kind)
"""
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("True too_quiet", "")
