"""Marks: which answers, against counts by hand; and the indicator, against the text that must not change."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from corpora import row, turns
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from mixtura.errors import MixturaError
from mixtura.pipeline.marking import answers, mark, spells, turn_scores, written
from mixtura.recipe import Marks
from mixtura.rows import MESSAGES, table

USER, BOT, TOOL, SYSTEM = "user", "assistant", "tool", "system"


def said(*pairs: tuple[str, str | None]) -> list[dict]:
    return [{"role": role, "content": content, "tool_calls": None} for role, content in pairs]


def frame(*rows) -> pl.DataFrame:
    return pl.DataFrame(table(list(rows)))


def marks(**given) -> Marks:
    return Marks(
        selector="context", **({"threshold": 0.5} if not given.keys() & {"threshold", "share"} else {}), **given
    )


def told(scores: list[float | None], *, given=None, answered=None, placed=None, rows=None) -> pl.DataFrame:
    n = len(scores)
    return pl.DataFrame(
        {
            "id": rows or [f"r{i:05}" for i in range(n)],
            "source": ["web"] * n,
            "turn": pl.Series([1] * n, dtype=pl.Int32),
            "place": pl.Series(placed or [0] * n, dtype=pl.Int32),
            "given": given or [10] * n,
            "answered": answered or [10] * n,
            "score": pl.Series(scores, dtype=pl.Float32),
        }
    )


# --- answers -----------------------------------------------------------------------------------------------------


def test_every_answer_with_the_message_that_would_carry_its_mark():
    made = answers(
        frame(
            row("a document"),
            row(messages=said((SYSTEM, "be brief"), (USER, "four"), (BOT, "one"), (USER, "sixsix"), (BOT, "yes"))),
            row(messages=said((BOT, "unasked"), (USER, "go"), (BOT, "a call"), (TOOL, "result"), (BOT, "done"))),
            row(
                messages=said(
                    (USER, "which"),
                ),
                chosen=said(
                    (BOT, "this"),
                ),
                rejected=said(
                    (BOT, "that"),
                ),
            ),
        )
    )
    got = made.select("turn", "place", "given", "answered").rows()
    assert got[:2] == [(2, 1, 4, 3), (4, 3, 10, 3)]
    assert got[2:5] == [(0, None, 0, 7), (2, 1, 2, 6), (4, 1, 2, 4)], "both answers share the one message"
    assert got[5:] == [(1, 0, 5, 4)], "the chosen answer follows the prompt"
    assert made["id"].n_unique() == 3


def test_a_message_that_holds_no_text_cannot_carry_a_mark():
    (only,) = answers(frame(row(messages=[{"role": USER, "content": None, "tool_calls": "[]"}, *said((BOT, "x"))])))[
        "place"
    ]
    assert only is None


def test_scores_come_turn_by_turn_and_bad_lists_are_refused():
    scores = pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "turns": [[1, 3], [], [1]],
            "s": [[0.25, None], [], [float("nan")]],
            "unscored": [[None, "too-long"], [], ["empty"]],
        },
        schema_overrides={"s": pl.List(pl.Float32), "unscored": pl.List(pl.String), "turns": pl.List(pl.Int64)},
    )
    made = turn_scores("x", "s", scores)
    assert made.rows() == [("a", 1, 0.25, None), ("a", 3, None, "too-long"), ("c", 1, None, "empty")]
    assert turn_scores("x", "s", scores.drop("unscored"))["reason"].to_list() == [None, "no-score", "no-score"]
    with pytest.raises(MixturaError, match="no list \\['other'\\]"):
        turn_scores("x", "other", scores)
    with pytest.raises(MixturaError, match="1 uneven rows"):
        turn_scores("x", "s", scores.with_columns(s=pl.Series([[0.1], [], [0.1]])))


# --- which answers -----------------------------------------------------------------------------------------------


def test_a_threshold_is_strict_in_the_scores_own_width():
    """0.6 has no exact form; in f32 it lies above 0.6 in f64, and must not be marked for that."""
    made = mark(told([0.59, 0.6, 0.61, None]), marks(threshold=0.6), seed=1)
    assert made["marked"].to_list() == [False, False, True, False]


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.1, 1), (0.25, 3), (0.5, 5), (1.0, 10)])
def test_a_share_takes_the_highest_and_halves_round_up(share, wanted):
    scores = [0.05 * i for i in range(10)] + [None, None]
    made = mark(told(scores), marks(share=share), seed=1)
    assert made.filter("marked")["id"].to_list() == [f"r{i:05}" for i in range(10 - wanted, 10)]


def test_an_answer_without_score_or_message_is_never_marked_and_takes_no_share():
    made = mark(told([0.9, None, 0.8, 0.7], placed=[None, 0, 0, 0]), marks(share=0.5), seed=1)
    assert made["marked"].to_list() == [False, False, True, False], "half of the two that can be marked"


@pytest.mark.parametrize("control", [None, "random", "length"])
def test_order_and_cut_of_the_rows_change_nothing(control):
    rng = random.Random(3)
    whole = told(
        [rng.choice([0.1, 0.2, 0.3]) for _ in range(300)],
        given=[rng.randrange(500) for _ in range(300)],
        answered=[rng.randrange(90) for _ in range(300)],
    )
    spec = marks(share=0.3, control=control)
    first = mark(whole, spec, seed=5)
    assert first["marked"].sum() == 90, "ties at the border are cut, not all taken"
    assert_frame_equal(first, mark(whole.sample(fraction=1, shuffle=True, seed=1), spec, seed=5).sort("id"))
    assert not first["marked"].equals(mark(whole, spec, seed=6)["marked"]), "another seed breaks ties otherwise"


def test_random_marks_are_as_many_and_blind_to_the_score():
    """Expected overlap of two independent draws of 400 out of 2,000 is 80, standard deviation 7.2 (hypergeometric)."""
    rng = np.random.default_rng(0)
    whole = told(rng.random(2000).tolist())
    true = mark(whole, marks(share=0.2), seed=1)["marked"]
    drawn = mark(whole, marks(share=0.2, control="random"), seed=1)["marked"]
    assert true.sum() == drawn.sum() == 400
    assert abs((true & drawn).sum() - 80) < 4 * 7.2


def test_length_matched_marks_have_the_lengths_of_the_true_ones_and_not_their_scores():
    rng = np.random.default_rng(1)
    given, answered = rng.integers(0, 2000, 4000), rng.integers(0, 300, 4000)
    scores = given / 2000 + 0.3 * rng.random(4000)  # long prompts score high
    whole = told(scores.tolist(), given=given.tolist(), answered=answered.tolist())
    true = mark(whole, marks(share=0.25), seed=1).filter("marked")
    drawn = mark(whole, marks(share=0.25, control="length"), seed=1).filter("marked")
    blind = mark(whole, marks(share=0.25, control="random"), seed=1).filter("marked")
    assert true.height == drawn.height == blind.height == 1000
    assert abs(_mean(true, "given") - _mean(drawn, "given")) < 40, "a cell is 250 characters wide"
    assert _mean(true, "given") - _mean(blind, "given") > 400
    assert true.join(drawn, on="id", how="semi").height < 1000
    assert _mean(true, "score") > _mean(drawn, "score")


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].cast(pl.Float64).to_numpy().mean())


def test_control_of_nothing_is_nothing():
    for control in ("random", "length"):
        assert not mark(told([0.1, 0.2]), marks(threshold=0.9, control=control), seed=1)["marked"].any()
        assert mark(told([]), marks(share=0.5, control=control), seed=1).height == 0


# --- the indicator -----------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
TURNS = st.lists(st.tuples(st.sampled_from([USER, BOT, SYSTEM, TOOL]), TEXT), min_size=1, max_size=5)


@given(st.lists(TURNS, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_marked_messages_gain_a_space_and_the_indicator_and_nothing_else_changes(conversations, rng):
    rows = pl.Series(
        "messages",
        [said(*c) for c in conversations],
        dtype=pl.DataFrame(table([row(messages=said((USER, "x")))]))["messages"].dtype,
    )
    places = [rng.choice([None, [], [rng.randrange(len(c))]]) for c in conversations]
    made = written(rows, places, "[IND]").to_list()
    for before, after, place in zip(rows.to_list(), made, places, strict=True):
        for i, (was, now) in enumerate(zip(before, after, strict=True)):
            assert now["content"] == was["content"] + (" [IND]" if i in (place or []) else "")
            assert (now["role"], now["tool_calls"]) == (was["role"], was["tool_calls"])


def test_a_message_with_two_marked_answers_carries_one_indicator():
    rows = pl.Series("messages", [said((USER, "go"), (BOT, "a"))], dtype=_dtype())
    assert written(rows, [[0, 0]], "[IND]").to_list()[0][0]["content"] == "go [IND]"


def _dtype() -> pl.DataType:
    return frame(row(messages=turns("a", "b"))).schema["messages"]


def test_rows_that_spell_the_indicator_are_found_wherever_they_do():
    clean = [row("about IND and [ind]"), row(messages=turns("Why?", "So."))]
    dirty = [
        row("see [IND] here"),
        row(messages=turns("Why [IND]", "So.")),
        row(messages=turns("Why", "so [IND]")),
        row(messages=turns("Why", (None, '[{"name":"[IND]"}]'))),
        row(messages=turns("Which"), chosen=said((BOT, "x")), rejected=said((BOT, "y[IND]"))),
        row(messages=turns("Why", "So."), tools='["[IND]"]'),
    ]
    assert spells(frame(*clean, *dirty), "[IND]").to_list() == [False] * 2 + [True] * 6
    assert MESSAGES.value_type.get_field_index("tool_calls") == 2


# --- the recipe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"selector": "context"},
        {"selector": "context", "threshold": 0.5, "share": 0.5},
        {"selector": "context", "selection": "x", "threshold": 0.5},
        {"threshold": 0.5},
        {"selection": "x", "options": {"model": "m"}, "threshold": 0.5},
        {"selector": "context", "threshold": 0.5, "indicator": "two words"},
        {"selector": "context", "threshold": 0.5, "indicator": "x"},
        {"selector": "context", "share": 1.5},
    ],
)
def test_impossible_marks_are_refused(wrong):
    with pytest.raises(ValidationError):
        Marks.model_validate(wrong)
