"""Twins: a hand-made corpus with neighbours known by angle, brute force, and the paper's counts."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from builder_cases import Case, conversation, made_row, run, shard_of, twins_case, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError

ANGLES = {"fever": 0, "a fever": 8, "cough": 90, "rash": 180}  # degrees: "a fever" is nearest to "fever"


def parallel(pairs: list[tuple[str, str, str, float]]) -> Case:
    """Rows (source, English, French, angle); those of source `memory` are the context pool."""
    rows = [
        made_row(i, source=s, messages=conversation(en, fr), meta={"from": "English", "to": "French"})
        for i, (s, en, fr, _) in enumerate(pairs)
    ]
    turns = np.deg2rad([a for *_, a in pairs])
    options = {
        "context": ["memory"], "min_similarity": 0.5, "query": "{from}: {question}\n{to}:",
        "shot": "{from}: {question}\n{to}: {answer}", "separator": "\n", "language": "fr",
    }  # fmt: skip
    return Case(shard_of(rows, np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32)), options)


def test_the_papers_rows_by_hand():
    """Labelled source and target lines, the neighbour's in front; cos 8° = 0.990 against cos 90° = 0."""
    case = parallel(
        [("memory", "a fever", "une fièvre", 8), ("memory", "cough", "toux", 90), ("work", "the fever", "la fièvre", 0)]
    )
    (built,) = run("twins", case)
    zero, one = built.rows
    assert [t["content"] for t in zero["messages"]] == ["English: the fever\nFrench:", "la fièvre"]
    assert one["messages"][0]["content"] == "English: a fever\nFrench: une fièvre\nEnglish: the fever\nFrench:"
    assert one["messages"][1]["content"] == "la fièvre"
    assert orjson.loads(one["meta"])["similarity"] == pytest.approx(np.cos(np.deg2rad(8)), abs=1e-6)
    assert orjson.loads(one["meta"])["context"] == [case.shard.rows["id"][0]]
    assert {r["language"] for r in built.rows} == {"fr"}
    assert {r["split_group"] for r in built.rows} == {case.shard.rows["id"][2]}
    assert [r[1] for r in built.refused] == ["context-pool"] * 2


def test_a_copy_of_the_row_is_no_example():
    """The nearest has the same question, the next the same answer: both would give the answer away."""
    case = parallel(
        [
            ("memory", "The Fever ", "autre", 0),
            ("memory", "pyrexia", "la fièvre", 1),
            ("memory", "a fever", "une fièvre", 8),
            ("work", "the fever", "la fièvre", 0),
        ]
    )
    (built,) = run("twins", case)
    assert orjson.loads(built.rows[1]["meta"])["context"] == [case.shard.rows["id"][2]]


def test_below_the_floor_there_is_no_one_shot_row_and_a_reason():
    case = parallel([("memory", "cough", "toux", 90), ("work", "the fever", "la fièvre", 0)])
    (built,) = run("twins", case)
    assert [orjson.loads(r["meta"])["prompt_id"] for r in built.rows] == ["zero-shot"]
    assert ("below-floor", "0.000") in {r[1:] for r in built.refused}


def test_counts_are_the_papers():
    """N real rows give N zero-shot and, where nothing is below the floor, N one-shot rows: 1 to 1."""
    case = twins_case(200)
    (built,) = run("twins", Case(case.shard, {"context_share": 0.5, "min_similarity": -1.0}))
    kinds = [orjson.loads(r["meta"])["prompt_id"] for r in built.rows]
    real = 200 - sum(reason == "context-pool" for _, reason, _ in built.refused)
    assert kinds.count("zero-shot") == kinds.count("one-shot") == real
    assert 70 <= real <= 130  # binomial(200, 1/2): 7.07 = one standard deviation


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(4, 40), st.floats(0.2, 0.8), st.floats(-1, 1))
def test_the_example_is_the_nearest_by_brute_force(seed, n, share, floor):
    case = twins_case(n, seed)
    case = Case(case.shard, {"context_share": share, "min_similarity": floor, "forms": "one-shot"})
    try:
        (built,) = run("twins", case)
    except InputError:
        return  # the hash left one side empty
    ids, vectors = case.shard.rows["id"].to_list(), case.shard.vectors
    assert vectors is not None
    pool = [ids.index(i) for i, reason, _ in built.refused if reason == "context-pool"]
    made = {r["parents"][0]: orjson.loads(r["meta"]) for r in built.rows}
    for number, row in enumerate(ids):
        if number in pool:
            assert row not in made
            continue
        cosines = vectors[pool].astype(np.float64) @ vectors[number].astype(np.float64)
        if row in made:
            assert made[row]["context"] == [ids[pool[int(cosines.argmax())]]]
            assert cosines.max() >= floor - 1e-6
        else:
            assert cosines.max() < floor + 1e-6


def test_rows_of_one_split_group_stand_on_one_side():
    rows = [made_row(i, messages=conversation(f"q {i}", f"a {i}"), split_group=f"doc{i // 3}") for i in range(90)]
    vectors = unit(np.random.default_rng(0).normal(size=(90, 4)))
    (built,) = run("twins", Case(shard_of(rows, vectors), {"context_share": 0.5}))
    side = {i: reason == "context-pool" for i, reason, _ in built.refused}
    by_group: dict[str, set[bool]] = {}
    for row in rows:
        by_group.setdefault(row["split_group"], set()).add(side.get(row["id"], False))
    assert all(len(s) == 1 for s in by_group.values())
    assert {s for both in by_group.values() for s in both} == {True, False}


def test_no_context_pool_is_one_sentence():
    case = parallel([("work", "a", "b", 0), ("work", "c", "d", 5)])
    with pytest.raises(InputError, match="must leave rows on both sides of its context pool; got '0 of 2 rows'"):
        run("twins", case)
