"""Builds within a whole run: books, lineage in the ledger, splits, and bytes that do not depend on how it ran."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from mixtura import recipe_file
from mixtura.errors import InputError, RecipeError
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings
from mixtura.stages.publish import Published

RECIPE = {
    "name": "twice",
    "sources": {"work": {"files": "work.jsonl", "license": "mit", "language": "en"}, "notes": {"files": "notes.jsonl"}},
    "build": [{"builder": "twins", "name": "pairs", "sources": ["work"], "options": {"context_share": 0.5}}],
    "select": [{"selector": "uniform", "pick": {"budget_rows": 120}}],
    "mix": {"splits": {"validation": 0.2, "test": 0.2}},
    "embed": {"dimensions": 8},
}
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("builds")
    said = [" ".join(WORDS[(i * k) % 11] for k in range(1, 8)) for i in range(200)]
    work = [{"prompt": f"Translate {i}: {t}", "completion": t.upper() + f" {i}"} for i, t in enumerate(said)]
    (base / "work.jsonl").write_text("".join(json.dumps(r) + "\n" for r in work))
    notes = [{"text": f"note {i} says {t[::-1]}"} for i, t in enumerate(said[:40])]
    (base / "notes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in notes))
    return base


def run(base: Path, tmp_path: Path, recipe: dict | None = None, **settings) -> Published:
    where = {"store": str(tmp_path / "store"), "output": str(tmp_path / "out")}
    options = Settings(base=str(base), **{"workers": 1, **where, **settings})
    return curate(Plan.of(recipe_file.build(recipe or RECIPE), options))


def test_books_ledger_and_splits(base, tmp_path):
    done = run(base, tmp_path)
    facts, ledger = done.summary, pl.read_parquet(done.folder / "ledger.parquet")
    made = facts.builds[0]
    stage = next(s for s in facts.stages if s.stage == "build")
    read = ledger.filter(pl.col("source") == "work")
    assert stage.made == made.rows == ledger.filter(pl.col("source") == "pairs").height
    assert made.parents == read.height == 200
    assert read.filter(pl.col("reason") == "built-upon").height == made.used
    assert read.filter(pl.col("reason") == "context-pool").height == 200 - made.used
    assert {s.name for s in facts.sources if s.picked_rows} == {"pairs", "notes"}  # work only serves the build

    parents = dict(ledger.filter(pl.col("source") == "pairs").select("id", pl.col("parents").list.first()).iter_rows())
    assert set(parents.values()) == set(read.filter(pl.col("reason") == "built-upon")["id"])
    rows = pl.read_parquet(done.folder / "*/*-of-*.parquet", include_file_paths="path")
    built = rows.filter(pl.col("source") == "pairs").with_columns(split=pl.col("path").str.split("/").list.get(-2))
    assert built["parents"].list.first().to_list() == [parents[i] for i in built["id"]]
    assert built.group_by(pl.col("parents").list.first()).agg(pl.col("split").n_unique())["split"].max() == 1
    assert built["split"].n_unique() == 3
    card = done.card.read_text()
    assert "## What was built" in card
    assert f"made {made.rows:,} rows of {made.used:,} of the 200 rows of work" in card


def test_shards_and_workers_change_no_byte(base, tmp_path):
    one = run(base, tmp_path / "a")
    two = run(base, tmp_path / "b", shard_rows=17, workers=2)
    names = ["ledger.parquet", "summary.json", "README.md"]
    names += [p.relative_to(one.folder).as_posix() for p in one.folder.glob("t*/*.parquet")]
    assert len(names) == 5
    for name in names:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_a_second_run_builds_nothing_anew(base, tmp_path):
    class Counts:
        computed = 0

        def begin(self, stage, total): ...
        def advance(self, stage, reused): ...
        def end(self, stage, line, reused, computed):
            self.computed += computed

    for expected in (True, False):
        teller = Counts()
        options = Settings(base=str(base), store=str(tmp_path / "s"), output=str(tmp_path / "o"), workers=1)
        curate(Plan.of(recipe_file.build(RECIPE), options, teller))
        assert bool(teller.computed) is expected


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"builder": "twin"}, "build.0.builder must be one of .*; got 'twin'. Nearest: 'twins'"),
        ({"sources": ["wrok"]}, r"build.pairs.sources must name known ones of \['notes', 'work'\]; got \['wrok'\]"),
        ({"name": "work"}, "build must have names that no source and no other build has; got 'work'"),
        ({"options": {"contxt": []}}, "build.0.options.contxt is not a key here.*Nearest: 'context'"),
    ],
)
def test_a_wrong_build_is_one_sentence(change, error):
    with pytest.raises(RecipeError, match=error):
        recipe_file.build(RECIPE | {"build": [RECIPE["build"][0] | change]})


def test_a_build_that_makes_nothing_says_why(base, tmp_path):
    options = {"context_share": 0.5, "query": "{no_such_column}"}
    recipe = RECIPE | {"build": [RECIPE["build"][0] | {"options": options}]}
    with pytest.raises(InputError, match=r"build 'pairs' must make at least one row; got .*'missing-field'"):
        run(base, tmp_path, recipe)
