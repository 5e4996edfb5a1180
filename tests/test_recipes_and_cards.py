"""The recipes that ship are valid, and the published cards are what their recipes give."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from mixtura import recipe_file
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_valid_and_says_how_to_run_it(path):
    recipe = recipe_file.load(path)
    assert recipe.name == path.stem
    head = path.read_text().split("name:")[0]
    assert f"mixtura run recipes/{path.name}" in head


def test_every_recipe_was_seen():
    assert {"quickstart", "biomedical"} <= {p.stem for p in RECIPES}


def test_a_published_card_has_its_recipe():
    assert {c.stem for c in CARDS} <= {r.stem for r in RECIPES}
    assert CARDS


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart's mixture, built in a folder of its own."""
    base = tmp_path_factory.mktemp("project")
    (base / "recipes").mkdir()
    (base / "recipes" / "example").symlink_to(ROOT / "recipes" / "example")
    recipe = recipe_file.load(ROOT / "recipes" / "quickstart.yaml")
    return curate(Plan.of(recipe, Settings(base=str(base), workers=1, roots=[str(ROOT / "recipes")])))


def test_the_published_card_is_what_the_recipe_gives(quickstart):
    """Words equal; numbers within 2 %: another processor may round a price or a compressed size differently."""
    built, published = quickstart.card.read_text(), (ROOT / "data_cards" / "quickstart.md").read_text()
    assert NUMBER.sub("#", built) == NUMBER.sub("#", published)
    pairs = list(zip(NUMBER.findall(built), NUMBER.findall(published), strict=True))
    assert len(pairs) > 50
    for ours, theirs in pairs:
        a, b = float(ours.replace(",", "")), float(theirs.replace(",", ""))
        assert a == pytest.approx(b, rel=0.02), (ours, theirs)


def test_the_quickstart_picks_the_clinic(quickstart):
    """Planted truth: 60 of 330 notes are clinical, as the target is, and the budget is 60."""
    rows = pl.read_parquet(sorted(quickstart.folder.glob("*/*-of-*.parquet")))
    picked = rows.filter(pl.col("selection") == "nudge")
    assert picked.height == 60
    assert (picked["task"] == "clinic").sum() >= 57
