"""Leaks are found where they were planted, and nowhere else; sets are the mixture's rows with cards that count them."""

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl
import pytest
import yaml
from builder_cases import conversation, made_row, shard_of

from mixtura.pipeline.leaks import find_leaks
from mixtura.pipeline.task_sets import write_task_sets
from mixtura.recipe import NearDedup

LONG = "the patient was seen on monday with a cough that had lasted for about three weeks and no fever at all"


def built(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Rows (split, parent, request)."""
    frame = shard_of([made_row(i, messages=conversation(q, f"a {i}")) for i, (_, _, q) in enumerate(rows)]).rows
    meta = [orjson.dumps({"context": ["shown"]}).decode() if "shown" in q else "{}" for _, _, q in rows]
    return frame.with_columns(
        split=pl.Series([s for s, _, _ in rows]), parents=pl.Series([[p] for _, p, _ in rows]), meta=pl.Series(meta)
    )


def parents(**texts: str) -> pl.DataFrame:
    rows = shard_of([made_row(i, text=t) for i, t in enumerate(texts.values())]).rows
    return rows.with_columns(id=pl.Series(list(texts)))


def found(tmp_path, rows, kept) -> tuple[int, int, int, int]:
    leaks = find_leaks(rows, kept, NearDedup(), tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
    return leaks.shared_parents, leaks.exact, leaks.near, leaks.context


def test_each_kind_of_leak_is_found(tmp_path):
    kept = parents(a=LONG, b=LONG + " today", c="something else altogether, and quite another matter than that")
    clean = [("train", "a", "one"), ("train", "b", "two"), ("test", "c", "three")]
    assert found(tmp_path, built(*clean), kept) == (0, 0, 0, 0)
    assert found(tmp_path, built(*clean, ("test", "a", "four")), kept) == (1, 0, 1, 0)
    assert found(tmp_path, built(*clean, ("test", "c", "one")), kept) == (0, 1, 0, 0)
    assert found(tmp_path, built(("train", "a", "one"), ("test", "b", "two"), clean[2]), kept) == (0, 0, 1, 0)
    assert found(tmp_path, built(*clean, ("test", "shown", "five, shown")), kept) == (0, 0, 0, 1)


@pytest.fixture
def mixture(tmp_path) -> Path:
    tasks = ["shop/mail/sort", "shop/mail/pull", "shop/rate/score", None, "free"]
    for split, count in (("train", 20), ("test", 5)):
        rows = [
            made_row(i, messages=conversation(f"{split} {i}", "x"), task=tasks[i % 5], parents=["p"],
                     language=("en", "de")[i % 2], meta={"prompt_language": "fr"})
            for i in range(count)
        ]  # fmt: skip
        (tmp_path / split).mkdir()
        shard_of(rows).rows.write_parquet(tmp_path / split / f"{split}-00000-of-00001.parquet")
    return tmp_path


def test_an_actions_rows_are_those_of_its_steps_and_the_card_counts_them(mixture):
    sets = write_task_sets(mixture, ["step", "action"], "shop")
    assert [s.title for s in sets] == ["shop/mail/pull", "shop/mail/sort", "shop/rate/score", "shop/mail", "shop/rate"]
    ids = {}
    for made in sets:
        home = mixture / made.folder
        rows = {s: pl.read_parquet(home / s / "*.parquet") for s in made.rows}
        ids[made.title] = {i for r in rows.values() for i in r["id"]}
        card = (home / "README.md").read_text()
        head = yaml.safe_load(card.split("---")[1])
        assert head["pretty_name"] == made.title
        assert f"# {made.title}\n" in card
        whole = pl.concat(rows.values())
        assert set(head["language"]) == set(whole["language"])
        for split, frame in rows.items():
            assert f"| {split} | {frame.height} |" in card
        assert "Languages of the instructions: `fr` (" in card
    assert ids["shop/mail"] == ids["shop/mail/pull"] | ids["shop/mail/sort"]
    assert ids["shop/rate"] == ids["shop/rate/score"]
    assert sum(len(ids[t]) for t in ("shop/mail", "shop/rate")) == 15  # 5 + 10 + ... rows without a task are in none
