"""Marks from files to mixture: conversations of two sources whose answers say what they score."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from e2e.corpus import contents

from mixtura import recipe_file
from mixtura.cli import inspect_mixture
from mixtura.errors import RecipeError
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings
from mixtura.stages.publish import Published

pytestmark = pytest.mark.usefixtures("scripted_turns")
SELECT = [{"selector": "uniform", "pick": {"budget_rows": 50}}]
LEANING = {"manual": 0.8, "smalltalk": 0.3}  # the answers' scores begin here


@pytest.fixture
def base(tmp_path) -> Path:
    """Two sources of 25 rows in two turns each; one row spells the indicator out, one answer has no score."""
    for source, low in LEANING.items():
        rows = []
        for i in range(25):
            says = [f"{source} answer {i} {turn} scores {low + 0.005 * i + 0.001 * turn:.4f}" for turn in (1, 2)]
            if source == "smalltalk" and i == 3:
                says[1] = "no number here, thanks"
            asks = [f"{source} question {i} {'of [IND]' if (source, i) == ('manual', 5) else ''} {t}" for t in "ab"]
            turns = [t for q, a in zip(asks, says, strict=True) for t in (("user", q), ("assistant", a))]
            rows.append({"messages": [{"role": r, "content": c} for r, c in turns]})
        (tmp_path / f"{source}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def run(base: Path, marks: dict | None, select: list = SELECT, **settings) -> Published:
    tree = {
        "name": "marked",
        "sources": {s: {"files": f"{s}.jsonl"} for s in LEANING},
        "clean": {"near_dedup": None},
        "select": select,
        "mix": {"splits": {"validation": 0.1}, "marks": marks},
    }
    (base / "recipe.yaml").write_text(yaml.safe_dump(tree))
    given = Settings(base=str(base), **{"workers": 1, **settings})
    return curate(Plan.of(recipe_file.load(base / "recipe.yaml"), given))


def rows_of(made: Published) -> pl.DataFrame:
    return pl.read_parquet(sorted(made.folder.glob("*/*-of-*.parquet"))).sort("id")


BY_SELECTOR = {"selector": "scripted_turns", "threshold": 0.5}


def test_marked_turns_carry_the_indicator_and_everything_else_is_as_without_marks(base):
    plain = rows_of(run(base, None))
    made = run(base, BY_SELECTOR)
    rows = rows_of(made)
    spelt = [i for i, m in zip(plain["id"], plain["messages"], strict=True) if "[IND]" in json.dumps(m.to_list())]
    assert len(spelt) == 1
    assert rows["id"].to_list() == [i for i in plain["id"] if i not in spelt]
    before = dict(zip(plain["id"], plain["messages"], strict=True))
    marked = 0
    for row in rows.iter_rows(named=True):
        for turn, was in zip(row["messages"], before[row["id"]], strict=True):
            carries = turn["role"] == "user" and row["source"] == "manual"
            assert turn == was | ({"content": was["content"] + " [IND]"} if carries else {})
            marked += carries
        assert [m["turn"] for m in row["marks"]] == [1, 3]
        assert [m["marked"] for m in row["marks"]] == [row["source"] == "manual"] * 2
    assert marked > 20


def test_the_summary_counts_what_the_rows_hold(base):
    made = run(base, BY_SELECTOR)
    rows, facts = rows_of(made), made.summary.marks
    flat = rows.select("source", "marks").explode("marks").unnest("marks")
    for source, tally in facts.by_source.items():
        mine = flat.filter(pl.col("source") == source)
        counts = mine.height, mine["score"].count(), mine["marked"].sum()
        assert (tally.answers, tally.scored, tally.marked) == counts
    assert facts.by_source.keys() == set(LEANING)
    assert facts.rows == rows.filter(pl.col("marks").list.eval(pl.element().struct.field("marked")).list.any()).height
    assert facts.no_score == {"unscripted": 1}
    assert facts.messages == facts.total.marked, "one answer to each message here"
    assert facts.lowest_marked > 0.5 > facts.highest_unmarked
    stage = made.summary.stages[-1]
    assert (stage.stage, stage.read, stage.written, stage.dropped) == ("mark", 50, 49, {"spells-indicator": 1})
    ledger = pl.read_parquet(made.folder / "ledger.parquet").filter(pl.col("reason") == "spells-indicator")
    assert ledger.select("fate", "stage", "split").rows() == [("dropped", "mark", None)]


def test_the_card_says_how_to_use_the_indicator(base):
    card = (run(base, BY_SELECTOR).folder / "README.md").read_text()
    section = card.split("## Marked answers")[1].split("\n## ")[0]
    for said in ("above 0.5", r"\[IND\]", 'tokenizer.add_tokens(["[IND]"])', "At inference", "unscripted (1)"):
        assert said in section, section
    assert "control" not in section
    assert "a control" in (run(base, BY_SELECTOR | {"control": "length"}).folder / "README.md").read_text()


def test_the_report_shows_the_spread_each_source_and_both_sides_of_the_border(base):
    """Answers end in their scores, so the page can be held against the files."""
    made = run(base, BY_SELECTOR)
    page = (made.folder / "report.html").read_text()
    section = page.split('<section id="marks">')[1].split("</section>")[0]
    total = made.summary.marks.total
    assert f"{total.marked:,} of {total.scored:,} scored answers" in section
    assert section.count("<svg") == 1
    for source, tally in made.summary.marks.by_source.items():
        assert f"<bdi>{source}</bdi></th><td>{tally.answers:,}</td><td>{tally.scored:,}</td>" in section
    flat = rows_of(made).drop("score").explode("marks").unnest("marks").drop_nulls("score").sort("score")
    chosen, rest = (flat.filter(pl.col("marked") == m) for m in (True, False))
    above, below = section.split("At the border: not marked")
    for side, frame in ((above, chosen.head(6)), (below, rest.tail(6))):
        assert side.count('<article class="row">') == 6
        for row in frame.iter_rows(named=True):
            assert row["messages"][row["turn"]]["content"] in side
            assert row["messages"][row["turn"] - 1]["content"] in side, "as it was written, the indicator with it"
    assert above.count("[IND]</div>") == 6
    assert "[IND]</div>" not in below


@pytest.mark.parametrize("marks", [{"share": 0.3, "control": "length"}, {"threshold": 0.35}])
def test_the_cut_into_shards_changes_no_byte(base, marks, tmp_path):
    marks = {"selector": "scripted_turns", **marks}
    first = run(base, marks)
    second = run(base, marks, store=str(tmp_path / "other"), output=str(tmp_path / "again"), shard_rows=7)
    assert contents(first.folder) == contents(second.folder)
    assert rows_of(first)["marks"].explode().struct.field("marked").any()


def test_a_selection_that_scored_turns_lends_its_scores(base):
    select = [
        {"selector": "scripted_turns", "name": "lean", "sources": ["manual"], "pick": {"budget_rows": 10}},
        *SELECT,
    ]
    made = run(base, {"selection": "lean", "threshold": 0.85, "score": "turn_halves"}, select)
    facts = made.summary.marks
    assert facts.total.marked == 0, "halves of at most 0.93"
    made = run(base, {"selection": "lean", "threshold": 0.85}, select)
    facts = made.summary.marks
    assert facts.by_source["manual"].marked > 0
    assert facts.by_source["smalltalk"].scored == 0
    assert facts.no_score["not-scored"] == facts.by_source["smalltalk"].answers


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"selector": "uniform", "threshold": 0.5}, "mix.marks.selector must score each answer"),
        ({"selector": "scripted_turn", "threshold": 0.5}, "mix.marks.selector must be one of"),
        ({"selector": "scripted_turns", "score": "turn_score", "threshold": 0.5}, "Nearest: 'turn_scores'"),
        ({"selector": "scripted_turns", "options": {"x": 1}, "threshold": 0.5}, "mix.marks.options.x is not a key"),
        ({"selection": "nowhere", "threshold": 0.5}, "mix.marks.selection must name known ones"),
        ({"selection": "uniform", "threshold": 0.5}, "mix.marks.selection must score each answer"),
        ({"selector": "perplexity", "threshold": 0.5}, "mix.marks.options.model is needed"),
    ],
)
def test_a_recipe_whose_marks_cannot_be_made_is_told_before_any_work(base, marks, said):
    with pytest.raises(RecipeError) as told:
        run(base, marks)
    assert said in str(told.value)
    assert not (base / ".mixtura").exists()


def test_text_form_carries_the_indicator_too(base):
    run(base, BY_SELECTOR)
    tree = yaml.safe_load((base / "recipe.yaml").read_text()) | {"output": {"form": "text"}}
    (base / "recipe.yaml").write_text(yaml.safe_dump(tree))
    made = curate(Plan.of(recipe_file.load(base / "recipe.yaml"), Settings(base=str(base), workers=1)))
    texts = rows_of(made).filter(pl.col("source") == "manual")["text"]
    assert all(t.count(" [IND]\n\nAssistant: ") == 2 for t in texts)


def test_show_and_why_tell_of_the_marks(base, capsys):
    made = run(base, BY_SELECTOR)
    inspect_mixture.show(made.folder)
    assert "scored answers" in capsys.readouterr().out
    rows = rows_of(made)
    for source, says in (("manual", "marked with [IND]"), ("smalltalk", "not marked")):
        row = rows.filter(pl.col("source") == source).row(0, named=True)
        inspect_mixture.why(made.folder, row["id"])
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  answer")]
        assert len(told) == 2
        for line, mark in zip(told, row["marks"], strict=True):
            score = "has no score" if mark["score"] is None else f"scores {mark['score']:.3f}"
            assert line == f"  answer      turn {mark['turn'] + 1} {score}: {says}"
