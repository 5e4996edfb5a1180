"""selfanswer: the paper's choice of target, its invariants, and what each row says of where its target is from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from answering import Scripted
from builder_cases import Case, conversation, made_row, run, shard_of
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.generation.contract import Ask, Reply
from mixtura.registry import find

OPTIONS = {"model": "scripted", "check": "numeric"}
ROWS = [made_row(i, messages=conversation(f"What is {i} + {i}?", f"It is {2 * i}.")) for i in range(6)]


def is_paraphrase(ask: Ask) -> bool:
    return "Correct answer:" in ask.messages[-1]["content"]


def build(reply, **options: Any):
    model = Scripted(reply)
    (built,) = run("selfanswer", Case(shard_of(ROWS), OPTIONS | options, generator=model))
    return built, model


def about(row: dict) -> dict:
    return json.loads(row["meta"])


def doubled(ask: Ask) -> str:
    """The right answer to a question of `ROWS`, in other words."""
    number = ask.messages[-1]["content"].split()[2]
    return f"Twice {number} makes {2 * int(number)}"


def test_a_judge_that_is_always_content_takes_every_own_answer_and_never_asks_for_a_paraphrase():
    built, model = build(doubled)
    assert [about(r)["target_source"] for r in built.rows] == ["self"] * 6
    assert [r["messages"][-1]["content"] for r in built.rows] == [f"Twice {i} makes {2 * i}" for i in range(6)]
    assert not any(map(is_paraphrase, model.asked))
    assert len(model.asked) == 6


def test_a_judge_that_never_is_leaves_the_gold_after_two_replies_a_row():
    built, model = build(lambda ask: "no idea")
    assert [about(r)["target_source"] for r in built.rows] == ["gold"] * 6
    assert [r["messages"] for r in built.rows] == [r["messages"] for r in ROWS]
    assert len(model.asked) == 12


@pytest.mark.parametrize(("share", "source"), [(0.5, "gold"), (0.1, "paraphrase"), (0.0, "paraphrase")])
def test_a_paraphrase_that_is_the_bare_result_is_not_the_gold_in_other_words(share, source):
    gold = "Half of the 40 eggs are 20, and 3 of them break, so that 17 are left. #### 17"
    model = Scripted(lambda ask: "It is 17." if is_paraphrase(ask) else "no idea")
    rows = [made_row(0, messages=conversation("How many eggs?", gold))]
    (built,) = run("selfanswer", Case(shard_of(rows), OPTIONS | {"paraphrase_share": share}, generator=model))
    assert [about(r)["target_source"] for r in built.rows] == [source]
    assert built.rows[0]["messages"][-1]["content"] == (gold if source == "gold" else "It is 17.")


def test_the_papers_three_sources_in_one_run():
    """Own answers to 0 and 1 are right, paraphrases of 2 and 3; 4 and 5 keep the gold."""

    def reply(ask: Ask) -> str:
        number = int(ask.messages[-1]["content"].split()[2])
        if is_paraphrase(ask):
            return doubled(ask) if number in (2, 3) else "I would rather not"
        return doubled(ask) if number < 2 else f"{2 * number + 1}"

    built, model = build(reply)
    sources = [about(r)["target_source"] for r in built.rows]
    assert sources == ["self", "self", "paraphrase", "paraphrase", "gold", "gold"]
    shares = [sources.count(s) / len(sources) for s in ("self", "paraphrase", "gold")]
    assert sum(shares) == 1
    # the paraphrase is asked for with the gold, and learned without it
    shown = [a for a in model.asked if is_paraphrase(a)]
    assert all(f"It is {2 * i}." in a.messages[-1]["content"] for i, a in enumerate(shown, 2))
    assert built.rows[2]["messages"][0] == ROWS[2]["messages"][0]
    for row in built.rows:
        said = about(row)
        assert said["judge"] == "numeric"
        assert len(said["generator_hash"]) == 16
        assert said["own_logp"] == -3.0


def test_what_was_cut_off_is_wrong():
    def reply(ask: Ask) -> Reply:
        return Reply(doubled(ask), 5, -3.0, "length")

    built, _ = build(reply)
    assert {about(r)["target_source"] for r in built.rows} == {"gold"}
    assert {about(r)["own_finish"] for r in built.rows} == {"length"}


def test_without_gold_the_row_is_refused():
    built, _ = build(lambda ask: "no idea", gold=False)
    assert not built.rows
    assert {reason for _, reason, _ in built.refused} == {"wrong-twice"}


def test_a_row_that_cannot_be_checked_is_refused_with_the_checks_reason():
    rows = [*ROWS, made_row(9, messages=conversation("Who?", "Nobody"))]
    (built,) = run("selfanswer", Case(shard_of(rows), OPTIONS, generator=Scripted(doubled)))
    assert [(i, reason) for i, reason, _ in built.refused] == [(rows[-1]["id"], "no-number")]
    assert len(built.rows) == 6


def test_the_golds_likelihood_is_recorded_where_the_model_can_say():
    built, _ = build(doubled)
    assert [about(r)["gold_logp"] for r in built.rows] == [-float(len(r["messages"][-1]["content"])) for r in ROWS]


@given(st.lists(st.sampled_from(["right", "wrong", "empty"]), min_size=6, max_size=6), st.booleans())
def test_each_target_passes_the_judge_or_is_the_gold(kinds: list[str], second: bool):
    def reply(ask: Ask) -> str:
        number = int(ask.messages[-1]["content"].split()[2])
        right = second if is_paraphrase(ask) else kinds[number] == "right"
        return doubled(ask) if right else ("" if kinds[number] == "empty" else "77777")

    built, _ = build(reply)
    check = find("checks", "numeric")
    for made, given_row in zip(built.rows, ROWS, strict=True):
        judge = check.question(check.Spec(), given_row).judge
        gold = made["messages"][-1] == given_row["messages"][-1]
        assert gold or judge(made["messages"][-1]).passed
        assert gold == (about(made)["target_source"] == "gold")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"check": "numerc"}, "Nearest: 'numeric'"),
        ({"check_options": {"plaice": 1}}, "check_options.plaice must suit check 'numeric'"),
        ({"paraphrase": "Say it again: {request}"}, "must insert {request} and {gold}"),
    ],
)
def test_impossible_options(options: dict, said: str):
    with pytest.raises(InputError) as caught:
        build(doubled, **options)
    assert said in str(caught.value)
