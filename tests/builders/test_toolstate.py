"""Toolstate: a dialogue by hand, its calls replayed, every argument checked by an independent reader of JSON Schema."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from builder_cases import SCHEMA, Case, made_row, run, said, shard_of, toolstate_case
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mixtura.errors import InputError

FILES = {"schema_file": orjson.dumps(SCHEMA).decode()}


def dialogue(*turns, cap=None) -> Case:
    return Case(shard_of([made_row(0, text="d", meta={"turns": list(turns)})]), {"schema_file": "s", "cap": cap}, FILES)


def calls_of(row: dict) -> list[tuple[str, dict]]:
    calls = [orjson.loads(t["tool_calls"])[0]["function"] for t in row["messages"] if t["tool_calls"]]
    return [(c["name"], c["arguments"]) for c in calls]


def test_a_dialogue_by_hand():
    """Cumulative calls, only where the state changed; other wordings of a known value are no change."""
    case = dialogue(
        said("USER", "to Bern", Trains={"to": ["Bern"]}),
        said("SYSTEM", "class?"),
        said("USER", "any, with my bike", Trains={"to": ["bern", "Bern"], "class": ["dontcare"], "bike": ["True"]}),
        said("SYSTEM", "seats?"),
        said("USER", "what is there?", Trains={"to": ["Bern"], "class": ["dontcare"], "bike": ["True"]}),
        said("SYSTEM", "one or two"),
        said("USER", "2", Trains={"to": ["Bern"], "class": ["dontcare"], "bike": ["True"], "seats": ["2"]}),
    )
    (built,) = run("toolstate", case)
    (row,) = built.rows
    assert calls_of(row) == [
        ("Trains_1", {"to": "Bern"}),
        ("Trains_1", {"bike": True, "class": "dontcare", "to": "Bern"}),
        ("Trains_1", {"bike": True, "class": "dontcare", "seats": 2, "to": "Bern"}),
    ]
    roles = [t["role"] for t in row["messages"]]
    call, reply = ["user", "assistant", "tool"], ["assistant"]
    assert roles == ["system", *call, *reply, *call, *reply, "user", *reply, *call[:2]]
    learned = orjson.loads(row["meta"])["loss_turns"]
    assert [bool(t["tool_calls"]) for t in row["messages"]] == [i in learned for i in range(len(roles))]
    (tool,) = orjson.loads(row["tools"])
    parameters = tool["function"]["parameters"]
    assert parameters["required"] == ["to"]
    assert parameters["properties"]["class"]["enum"] == ["first", "second", "dontcare"]
    assert parameters["properties"]["seats"]["enum"] == [1, 2, "dontcare"]
    assert parameters["properties"]["to"]["description"] == "Where to For example: Bern."


@settings(max_examples=40)
@given(st.data())
def test_replayed_calls_are_the_belief_of_every_turn(data):
    values = {
        "to": ["Bern", "Rome"],
        "class": ["first", "second", "dontcare"],
        "seats": ["1", "2"],
        "bike": ["True", "False"],
    }
    truth: list[dict[str, str]] = []
    state: dict[str, str] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        for slot in data.draw(st.sets(st.sampled_from(sorted(values)), max_size=2)):
            state = state | {slot: data.draw(st.sampled_from(values[slot]))}
        truth.append(state)
    turns = [t for s in truth for t in (said("USER", "u", Trains={k: [v] for k, v in s.items()}), said("SYSTEM", "s"))]
    (built,) = run("toolstate", dialogue(*turns))
    if not truth[-1]:
        assert [r[1] for r in built.refused] == ["no-call"]
        return
    (row,) = built.rows
    schema = orjson.loads(row["tools"])[0]["function"]["parameters"]
    believed, turn = {}, -1
    for said_turn in [*row["messages"][1:], {"role": "user", "tool_calls": None}]:
        if said_turn["role"] == "user":
            if turn >= 0:
                assert {k: str(v) for k, v in believed.items()} == truth[turn]
            turn += 1
        elif said_turn["tool_calls"]:
            arguments = orjson.loads(said_turn["tool_calls"])[0]["function"]["arguments"]
            assert arguments != believed, "a call without a change"
            for name, value in arguments.items():
                assert Draft202012Validator(schema["properties"][name]).is_valid(value)
            believed = arguments


def test_the_cap_counts_distinct_dialogues_of_each_service():
    case = toolstate_case(60)
    (built,) = run("toolstate", case)
    touched = Counter(s for r in built.rows for s in orjson.loads(r["meta"])["domain"])
    assert touched["Trains.1"] == 8 == len(built.rows)
    assert touched["Hotels"] <= 8
    assert Counter(r[1] for r in built.refused) == {"over-cap": 52, "no-dialogue": 1, "no-call": 1}


def test_a_value_outside_its_slot_refuses_the_dialogue():
    (built,) = run("toolstate", dialogue(said("USER", "third class", Trains={"class": ["third"]})))
    assert [r[1:] for r in built.refused] == [("no-dialogue", "Trains.1.class cannot be 'third'")]


def test_a_file_that_is_no_schema_is_one_sentence():
    case = Case(dialogue(said("USER", "x")).shard, {"schema_file": "s"}, {"schema_file": '[{"name": 1}]'})
    with pytest.raises(InputError, match="schema file must be a list of services with service_name"):
        run("toolstate", case)
