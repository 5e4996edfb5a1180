"""The common suite: every check over every builder file, by the same door that a recipe uses."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from builder_cases import CASES, Case, pieces_of, run
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from mixtura.pipeline.builder import Built, group_of, licenses_of
from mixtura.pipeline.contract import Shard
from mixtura.registry import find, words
from mixtura.rows import content_id, plain_text

ROOT = Path(__file__).parents[2]
FILES = sorted(p.stem for p in (ROOT / "mixtura/builders").glob("[!_]*.py"))


def by_id(case: Case) -> dict[str, dict]:
    return {r["id"]: r for r in case.shard.rows.iter_rows(named=True)}


def check_every_row_is_a_parent_or_refused_with_a_reason(word: str, case: Case):
    (built,) = run(word, case)
    assert built.rows, "the case must make rows"
    parents = {p for r in built.rows for p in r["parents"]}
    refused = {r[0] for r in built.refused}
    assert parents | refused == set(case.shard.rows["id"])
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason) for _, reason, _ in built.refused)


def check_lineage_is_kept(word: str, case: Case):
    (built,) = run(word, case)
    known = by_id(case)
    for row in built.rows:
        parents = [known[p] for p in row["parents"]]
        assert {group_of(p) for p in parents} == {row["split_group"]}
        assert (row["file"], row["offset"]) == (parents[0]["file"], parents[0]["offset"])
        meta = orjson.loads(row["meta"])
        assert meta["builder"] == word
        context = [known[c] for c in meta.get("context", [])]
        assert row["license"] == licenses_of([*parents, *context])


def check_context_is_never_a_parent(word: str, case: Case):
    (built,) = run(word, case)
    parents = {p for r in built.rows for p in r["parents"]}
    context = {c for r in built.rows for c in orjson.loads(r["meta"]).get("context", [])}
    assert not parents & context
    groups = by_id(case)
    assert not {group_of(groups[p]) for p in parents} & {group_of(groups[c]) for c in context}


def check_ids_are_those_of_the_content(word: str, case: Case):
    (built,) = run(word, case)
    assert [r["id"] for r in built.rows] == [content_id(r) for r in built.rows]
    assert max(Counter(r["id"] for r in built.rows).values()) == 1


def check_rows_hold_what_a_trainer_can_read(word: str, case: Case):
    (built,) = run(word, case)
    frame = built.table("made")
    assert frame.height == len(built.rows)
    assert plain_text(frame).str.strip_chars().str.len_chars().min() > 0  # pyright: ignore
    for row in frame.iter_rows(named=True):
        assert bool(row["text"]) != bool(row["messages"])
        turns = row["messages"] or []
        loss = orjson.loads(row["meta"]).get("loss_turns")
        if turns and not row["chosen"]:
            assert turns[-1]["role"] == "assistant"
            assert turns[-1]["content"] or turns[-1]["tool_calls"]
            assert loss is None or all(turns[i]["role"] == "assistant" for i in loss)


def check_same_seed_same_rows(word: str, case: Case):
    (one,), (two,) = run(word, case), run(word, case)
    assert one == two


def check_cut_into_shards_changes_nothing(word: str, case: Case):
    (whole,) = run(word, case)
    for sizes in ([1] * len(case.shard), [7, 1, 13]):
        parts = run(word, case, *pieces_of(case.shard, sizes))
        assert [r for p in parts for r in p.rows] == whole.rows
        assert [r for p in parts for r in p.refused] == whole.refused


def check_order_of_a_shard_changes_no_row(word: str, case: Case):
    order = np.random.default_rng(1).permutation(len(case.shard))
    vectors = case.shard.vectors
    shuffled = Shard(case.shard.rows[order], None if vectors is None else vectors[order])
    (whole,), (other,) = run(word, case), run(word, case, shuffled)
    key = lambda r: r["id"]  # noqa: E731
    assert sorted(whole.rows, key=key) == sorted(other.rows, key=key)
    assert sorted(whole.refused) == sorted(other.refused)


def check_input_is_left_alone(word: str, case: Case):
    before = case.shard.rows.clone()
    run(word, case)
    assert_frame_equal(before, case.shard.rows)


def check_an_empty_shard_gives_nothing(word: str, case: Case):
    empty = Shard(case.shard.rows.clear(), None if case.shard.vectors is None else case.shard.vectors[:0])
    (built,) = run(word, case, empty)
    assert built == Built(word)
    assert isinstance(built.table("made"), pl.DataFrame)


def check_an_unknown_option_is_refused(word: str, case: Case):
    with pytest.raises(ValidationError, match="no_such_option"):
        find("builders", word).Spec.model_validate(case.options | {"no_such_option": 1})


def check_it_says_what_it_is(word: str, case: Case):
    builder = find("builders", word)
    assert builder.name == word
    assert len(builder.source) > 20
    assert all(f.description for f in builder.Spec.model_fields.values())
    assert set(builder.needs.files) <= set(builder.Spec.model_fields)


CHECKS = [f for name, f in sorted(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("word", FILES)
def test_every_builder_passes_every_check(word, check):
    check(word, CASES[word]())


def test_the_suite_covered_every_builder():
    """PAPERS.md is kept by hand, so an empty or shallow glob cannot agree with it."""
    indexed = set(re.findall(r"mixtura/builders/(\w+)\.py", (ROOT / "PAPERS.md").read_text()))
    assert sorted(indexed) == FILES == sorted(CASES)
    assert set(FILES) <= set(words("builders"))
    assert len(CHECKS) >= 11, "a check was lost"
