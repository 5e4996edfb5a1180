"""onpolicy: which of a row's samples become pairs, and what a pair says of itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from answering import Scripted
from builder_cases import Case, conversation, made_row, run, shard_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixtura.generation.contract import Ask, Reply
from mixtura.registry import find

OPTIONS = {"model": "scripted", "check": "numeric", "samples": 4}
ROW = made_row(0, messages=conversation("What is 3 + 4?", "7"))


def build(replies: list[Reply | str], **options: Any):
    """One row whose samples are given."""
    model = Scripted(lambda ask, sample: replies[sample])
    (built,) = run("onpolicy", Case(shard_of([ROW]), OPTIONS | {"samples": len(replies)} | options, generator=model))
    return built


def said(text: str, logp: float, finish: Any = "stop") -> Reply:
    return Reply(text, len(text), logp, finish)


def test_the_likeliest_right_and_the_likeliest_wrong():
    built = build([said("8", -5.0), said("I say 7", -4.0), said("9", -1.0), said("7", -2.0)])
    (pair,) = built.rows
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("7", "9")
    assert pair["messages"] == ROW["messages"][:1]
    assert pair["parents"] == [ROW["id"]]
    about = json.loads(pair["meta"])
    assert (about["logp_ref_chosen"], about["logp_ref_rejected"]) == (-2.0, -1.0)
    assert about["on_policy"] is True
    assert about["pass_rate"] == 0.5
    assert about["margin"] == 1.0
    assert about["rejected_error"] == "wrong_answer"
    assert about["temperature"] == 1.0


def test_no_answer_is_in_two_pairs_and_copies_count_once():
    built = build(
        [said("7", -1.0), said(" 7 ", -1.5), said("it is 7", -2.0), said("8", -1.0), said("9", -3.0)], pairs=9
    )
    texts = [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in built.rows]
    assert texts == [("7", "8"), ("it is 7", "9")]


def test_rows_that_give_no_pair_say_why():
    assert build(["7", "7.0"]).refused[0][1] == "all-right"
    assert build(["8", "9"]).refused[0][1] == "all-wrong"
    assert build([said("7", -1, "length"), said("", -1)]).refused[0][1] == "no-whole-answer"


def test_a_row_that_is_right_less_often_than_asked_gives_no_pair():
    once, twice = ["7", "8", "9", "10"], ["7", " 7", "8", "9"]
    assert build(once, least_right=2).refused[0][1:] == ("too-few-right", "1 of 4, needed 2")
    assert len(build(once, least_right=1).rows) == 1
    assert len(build(twice, least_right=2).rows) == 1, "two samples that say the same are two"
    cut = [said("7", -1.0), said("7 or", -1.0, "length"), said("8", -1.0)]
    assert build(cut, least_right=2).refused[0][1] == "too-few-right", "what was cut off is not right"
    for said_of_it in (["8", "9"], once):
        (pair,) = build(said_of_it, least_right=2, gold_as_chosen=True).rows
        assert pair["chosen"][0]["content"] == "7"
        assert json.loads(pair["meta"])["on_policy"] is False, (
            "a lucky row is no worse off than one that had none right"
        )
    with pytest.raises(ValidationError, match="least_right must be at most samples"):
        find("builders", "onpolicy").Spec(**OPTIONS, least_right=5)


def test_what_was_cut_off_is_neither_chosen_nor_rejected():
    built = build(
        [said("7", -9.0), said("8", -9.0), said("9 and then", -0.1, "length"), said("7 or so", -0.1, "length")]
    )
    (pair,) = built.rows
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("7", "8")
    assert json.loads(pair["meta"])["pass_rate"] == 0.25


def test_a_gold_that_is_preferred_is_not_on_policy():
    (pair,) = build(["8", "9"], gold_as_chosen=True).rows
    assert pair["chosen"][0]["content"] == "7"
    about = json.loads(pair["meta"])
    assert about["on_policy"] is False
    assert about["logp_ref_chosen"] is None


def test_a_server_that_does_not_say_how_likely_gives_the_commonest_mistake():
    built = build([Reply(t, 1, None, "stop") for t in ("7", "8", "9", "9", "8", "9")])
    assert built.rows[0]["rejected"][0]["content"] == "9"


answers = st.tuples(st.sampled_from(["7", "7 ", "it is 7", "8", "9", "", "x"]), st.sampled_from(["stop", "length"]))


@given(st.lists(answers, min_size=2, max_size=8), st.booleans(), st.integers(1, 4))
def test_every_pair_is_a_right_and_a_wrong_whole_answer(replies: list, gold: bool, pairs: int):
    built = build([said(t, -1.0 - i, f) for i, (t, f) in enumerate(replies)], gold_as_chosen=gold, pairs=pairs)
    assert bool(built.rows) != bool(built.refused)
    assert len(built.rows) <= pairs
    judge = find("checks", "numeric").question(find("checks", "numeric").Spec(), ROW).judge
    whole = {t for t, f in replies if f == "stop"}
    for pair in built.rows:
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        assert judge(chosen).passed
        assert not judge(rejected).passed
        assert rejected in whole
        assert chosen in whole or (gold and chosen == "7")


def test_each_row_is_asked_its_own_question_without_its_answer():
    rows = [made_row(i, messages=conversation(f"What is {i}?", str(i))) for i in range(4)]
    model = Scripted(lambda ask, sample: "1")
    run("onpolicy", Case(shard_of(rows), OPTIONS, generator=model))
    assert [a.messages for a in model.asked] == [[{"role": "user", "content": f"What is {i}?"}] for i in range(4)]
    assert isinstance(model.asked[0], Ask)
