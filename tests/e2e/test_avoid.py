"""Rows to avoid, from the recipe to the ledger and the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from e2e import corpus
from generators import two_topics

from mixtura import recipe_file
from mixtura.errors import RecipeError


def tree_of(base: Path) -> dict[str, Any]:
    """A pool and a target of two topics, and rows of the second topic to avoid, of which two are in the pool."""
    planted, other = two_topics(pool_rows=120, wanted_rows=60), two_topics(1, pool_rows=60, wanted_rows=30)
    pool = planted.pool.rows["text"].to_list()
    away = [t for t, k in zip(other.pool.rows["text"], other.kind, strict=True) if k == 0][:20]
    for name, texts in (("pool", [*pool, *away[:2]]), ("target", pool[::6]), ("away", away)):
        (base / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return {
        "name": "a",
        "sources": {"web": {"files": "pool.jsonl"}},
        "target": {"files": "target.jsonl"},
        "avoid": {"files": "away.jsonl"},
        "clean": {"near_dedup": None},
        "embed": {"dimensions": 8},
        "select": [{"selector": "nudge", "pick": {"budget_rows": 12}}],
    }


def test_they_leave_the_pool_the_ledger_counts_them_and_the_card_names_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree_of(tmp_path)))
    done, _ = corpus.curate_here(recipe)
    ledger = pl.read_parquet(done.folder / "ledger.parquet")
    avoided = ledger.filter(pl.col("source") == "avoid")
    assert set(avoided["reason"]) == {"avoid-row"}
    away = set(avoided["id"])
    pool = ledger.filter(pl.col("source") == "web")
    assert pool.filter(pl.col("id").is_in(list(away)))["fate"].to_list() == ["dropped", "dropped"]
    assert f"Moved away from: {avoided.height} rows of `away.jsonl`" in (done.folder / "README.md").read_text()
    picks = pl.concat([pl.read_parquet(p) for p in sorted(done.folder.glob("*/*-of-*.parquet"))])
    assert not set(picks["id"]) & away
    assert all("penalty" in json.loads(w) for w in picks["why"])


def test_rows_to_avoid_that_no_selector_heeds_are_refused(tmp_path):
    tree = tree_of(tmp_path) | {"select": [{"selector": "nearest", "pick": {"budget_rows": 12}}]}
    with pytest.raises(RecipeError, match=r"avoid must have a selector that heeds it; got \['nearest'\]\. Leave it"):
        recipe_file.build(tree)
