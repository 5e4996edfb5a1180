"""Sub-tasks that a model writes, asked of real servers on loopback: whatever these say, no invalid row is made."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import polars as pl
import pytest
import yaml
from answering import Scripted
from builder_cases import Case, made_row, run, shard_of
from fake_server import Fake, answer
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from mixtura import recipe_file
from mixtura.errors import GenerationError, InputError
from mixtura.generation.cached import Cached
from mixtura.generation.contract import Reply
from mixtura.generation.server import Server, Settings
from mixtura.pipeline.builder import Built
from mixtura.registry import find
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan
from mixtura.stages.plan import Settings as Where

TASKS = """
domain: desk
actions:
  sort:
    steps:
      topic:
        kind: classify
        instructions: {en: ["What is it about?"]}
        output_schema: {type: string, enum: [parcel, refund]}
      who:
        kind: extract
        instructions: {en: ["Give the writer and the order."]}
        output_schema:
          type: object
          properties: {who: {type: string, minLength: 1}, order: {type: integer, minimum: 100}}
          required: [who, order]
          additionalProperties: false
      reply:
        kind: advise
        instructions: {en: ["Answer the mail."]}
        output_schema: {type: string, minLength: 10, maxLength: 200}
"""
STEPS = yaml.safe_load(TASKS)["actions"]["sort"]["steps"]
SCHEMAS = {f"desk/sort/{name}": step["output_schema"] for name, step in STEPS.items()}
GOOD = {"topic": "refund", "who": '{"who": "Ada", "order": 120}', "reply": "Your parcel is under way."}
WORDS = {"topic": "What is it about?", "who": "Give the writer", "reply": "Answer the mail."}


def step_of(body: dict[str, Any]) -> str:
    first = body["messages"][0]["content"]
    return next(step for step, words in WORDS.items() if words in first)


def case(n: int = 6, **options: Any) -> Case:
    rows = [made_row(i, text=f"mail {i}: where is my order?", meta={"gold": "refund"}) for i in range(n)]
    return Case(shard_of(rows), {"tasks": "t", "model": "some-model"} | options, {"tasks": TASKS})


def built_by(asked: Case, generator: Any) -> Built:
    (built,) = run("subtask", Case(asked.shard, asked.options, asked.files, generator))
    return built


def valid(built: Built) -> bool:
    for row in built.rows:
        schema, said = SCHEMAS[row["task"]], row["messages"][-1]["content"]
        Draft202012Validator(schema).validate(said if schema["type"] == "string" else orjson.loads(said))
    return True


def good(number: int, body: dict[str, Any]):
    return 200, answer(body, lambda _: GOOD[step_of(body)]), {}


@pytest.fixture
def fake():
    made: list[Fake] = []

    def make(respond: Callable = good) -> Fake:
        made.append(Fake(respond))
        return made[-1]

    yield make
    for server in made:
        server.close()


def client(server: Fake, **own: Any) -> Server:
    return Server(
        server.url, "some-model", Settings(**({"timeout_seconds": 5.0, "retries": 1, "pause_seconds": 0.01} | own))
    )


def test_rows_by_hand(fake):
    server = fake()
    built = built_by(case(1), client(server))
    said = {r["task"]: [t["content"] for t in r["messages"]] for r in built.rows}
    mail = "mail 0: where is my order?"
    assert said == {
        "desk/sort/topic": [f"What is it about?\n\n{mail}", "refund"],
        "desk/sort/who": [f"Give the writer and the order.\n\n{mail}", '{"who":"Ada","order":120}'],
        "desk/sort/reply": [f"Answer the mail.\n\n{mail}", "Your parcel is under way."],
    }, "the form of the answer is told to the model, and is no part of the row"
    asked = {step_of(b): b["messages"][0]["content"] for b in server.bodies}
    assert asked["topic"].endswith("Answer with exactly one of these and nothing else:\nparcel\nrefund")
    (held,) = [b["response_format"]["json_schema"]["schema"] for b in server.bodies if "response_format" in b]
    assert held == SCHEMAS["desk/sort/who"]
    about = orjson.loads(built.rows[0]["meta"])
    assert (about["target_source"], about["tries"], len(about["generator_hash"])) == ("model", 1, 16)
    assert "judge" not in about


def test_what_was_wrong_is_told_and_the_next_answer_taken(fake):
    def stubborn(number, body):
        turns = len(body["messages"])
        bad = {1: "It is about a Refund.", 3: '{"who": "Ada", "order": 7}'}
        step = step_of(body)
        first = {"topic": bad[1], "who": bad[3], "reply": "short"}
        return 200, answer(body, lambda _: first[step] if turns == 1 else GOOD[step]), {}

    server = fake(stubborn)
    built = built_by(case(2), client(server))
    assert valid(built)
    assert Counter(r["task"] for r in built.rows) == dict.fromkeys(SCHEMAS, 2)
    assert {orjson.loads(r["meta"])["tries"] for r in built.rows} == {2}
    second = {step_of(b): b["messages"] for b in server.bodies if len(b["messages"]) > 1}
    assert [t["role"] for t in second["who"]] == ["user", "assistant", "user"]
    assert "order: 7 is less than the minimum of 100" in second["who"][2]["content"]
    assert "is not one of ['parcel', 'refund']" in second["topic"][2]["content"]
    assert "'short' is too short" in second["reply"][2]["content"]


def test_what_stays_wrong_is_refused_with_its_reason(fake):
    server = fake(lambda number, body: (200, answer(body, lambda _: "parcel or refund"), {}))
    asked = case(2, tries=2, steps=["sort/topic", "sort/who"])
    built = built_by(asked, client(server))
    assert built.rows == []
    assert [(r, c) for r, c, _ in built.refused] == [
        (i, c) for i in asked.shard.rows["id"] for c in ("schema", "not-json")
    ]
    assert all("(answer 2)" in detail for *_, detail in built.refused)
    assert len(server.bodies) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("message", "finish", "code"),
    [
        ({"content": None, "refusal": "I can't help with that."}, "stop", "declined"),
        ({"content": "I'm sorry, but I can't help with that request."}, "stop", "refusal"),
        ({"content": "As an AI language model, I have no view."}, "stop", "refusal"),
        ({"content": "很抱歉，我无法回答这个问题，请咨询医生。"}, "stop", "refusal"),
        ({"content": "Your parcel"}, "content_filter", "declined"),
        ({"content": "Your parcel is under way and then"}, "length", "cut-off"),
        ({"content": ""}, "stop", "empty"),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls", "empty"),
        ({"content": "<think>Your parcel is under way"}, "stop", "unfinished"),
        ({"content": "Your parcel \ud83d is under way."}, "stop", "broken-text"),
    ],
)
def test_no_refusal_and_no_piece_of_an_answer_is_taken(fake, message, finish, code):
    said = {"choices": [{"message": message, "finish_reason": finish}], "usage": {"completion_tokens": 3}}
    server = fake(lambda number, body: (200, said, {}))
    built = built_by(case(1, steps=["sort/reply"]), client(server))
    assert (built.rows, [c for _, c, _ in built.refused]) == ([], [code])
    assert len(server.bodies) == (1 if code in ("declined", "refusal") else 3), "a no is taken as one"


def test_who_is_sorry_may_answer(fake):
    text = "I am sorry to hear that. Your parcel is under way."
    server = fake(lambda number, body: (200, answer(body, lambda _: text), {}))
    (row,) = built_by(case(1, steps=["sort/reply"]), client(server)).rows
    assert row["messages"][-1]["content"] == text


@pytest.mark.parametrize(
    "said",
    [
        '{"order": 120, "who": "Ada"}',
        '```json\n{"who": "Ada", "order": 120}\n```',
        '<think>hm {}</think>\n {"who":"Ada","order":120}',
    ],
)
def test_only_what_is_no_part_of_an_answer_is_taken_off(said):
    built = built_by(case(1, steps=["sort/who"]), Scripted(lambda ask: said))
    assert orjson.loads(built.rows[0]["messages"][-1]["content"]) == {"who": "Ada", "order": 120}


GARBAGE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["", "null", "NaN", "[" * 2_000, '{"a":' * 300 + "1" + "}" * 300, '{"who": "", "order": 100}']),
    st.sampled_from(
        ["refund", "Refund", "refund.", " refund\n", "parcel\nrefund", "e\u0301" * 100, "\r\n" * 20 + "x" * 8]
    ),
    st.builds(
        lambda who, order, more: json.dumps({"who": who, "order": order} | more),
        st.text(max_size=3) | st.none(),
        st.integers(90, 110) | st.floats() | st.booleans() | st.text(max_size=2),
        st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    ),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4), lambda x: st.lists(x, max_size=3)).map(
        json.dumps
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(GARBAGE, min_size=1, max_size=5), st.sampled_from(["stop", "length", "refused"]))
def test_whatever_a_model_says_no_invalid_row_gets_through(replies, finish):
    def say(ask):
        n = sum(len(m["content"]) for m in ask.messages) + len(ask.messages)
        return Reply(replies[n % len(replies)], 3, None, finish if n % 3 == 0 else "stop")

    asked = case(3)
    built = built_by(asked, Scripted(say))
    assert valid(built)
    assert built.table("made").height == len(built.rows), "what is made can be written"
    accounted = Counter((r["parents"][0], r["task"]) for r in built.rows)
    accounted.update((row, detail.partition(":")[0]) for row, _, detail in built.refused)
    assert accounted == dict.fromkeys([(i, t) for i in asked.shard.rows["id"] for t in SCHEMAS], 1)


def _same(said, ask):
    return said


def test_the_property_met_valid_answers_too():
    """Else it could hold because nothing is ever taken."""
    for said in GOOD.values():
        built = built_by(case(1), Scripted(partial(_same, said)))
        assert len(built.rows) >= 1


def test_a_judge_is_asked_and_only_its_yes_counts(fake):
    verdicts = {"mail 0": "Yes.", "mail 1": "no", "mail 2": "I think so", "mail 3": "yes and no"}

    def respond(number, body):
        said = body["messages"][-1]["content"]
        if "Reply with yes or no alone" not in said:
            return good(number, body)
        return 200, answer(body, lambda _: next(v for m, v in verdicts.items() if m in said)), {}

    server = fake(respond)
    asked = case(4, judge=True, tries=2, steps=["sort/topic"])
    built = built_by(asked, client(server))
    first = asked.shard.rows["id"][0]
    assert [r["parents"] for r in built.rows] == [[first]]
    assert orjson.loads(built.rows[0]["meta"])["judge"] == "generator"
    assert [c for _, c, _ in built.refused] == ["judged-wrong"] * 3
    assert len(server.bodies) == 4 * 2 + 3 * 2


CHECKED = TASKS.replace(
    "output_schema: {type: string, enum: [parcel, refund]}",
    "output_schema: {type: string, enum: [parcel, refund]}\n        checks: [{name: exact, options: {answers: gold}}]",
)


def test_a_step_s_checks_hold_and_tell_the_model_no_answer(fake):
    def respond(number, body):
        return 200, answer(body, lambda _: "parcel" if len(body["messages"]) == 1 else "refund"), {}

    server = fake(respond)
    asked = case(2, steps=["sort/topic"])
    built = built_by(Case(asked.shard, asked.options, {"tasks": CHECKED}), client(server))
    assert [r["messages"][-1]["content"] for r in built.rows] == ["refund"] * 2
    assert orjson.loads(built.rows[0]["meta"])["checks"] == ["exact"]
    told = [b["messages"][-1]["content"] for b in server.bodies if len(b["messages"]) > 1]
    assert all("does not pass the check 'exact'" in t and "refund" not in t for t in told)


def test_a_row_that_a_check_cannot_judge_is_not_asked_about():
    model = Scripted(lambda ask: "refund")
    asked = Case(shard_of([made_row(0, text="where is it?")]), {"tasks": "t", "model": "m", "steps": ["sort/topic"]})
    built = built_by(Case(asked.shard, asked.options, {"tasks": CHECKED}), model)
    assert (built.rows, [c for _, c, _ in built.refused], model.asked) == ([], ["no-answer"], [])


def test_requests_go_out_side_by_side_and_no_more_than_allowed(fake):
    def slow(number, body):
        time.sleep(0.05)
        return good(number, body)

    server = fake(slow)
    built = built_by(case(4), client(server, concurrency=3))
    assert (server.most, len(built.rows)) == (3, 12)


def test_a_timeout_is_tried_again_then_stops_the_build(fake):
    def hangs(number, body):
        time.sleep(0.8 if number == 0 else 0)
        return good(number, body)

    server = fake(hangs)
    built = built_by(case(1, steps=["sort/topic"]), client(server, timeout_seconds=0.2, retries=1))
    assert (len(built.rows), len(server.bodies)) == (1, 2)
    dead = fake(lambda number, body: time.sleep(0.6) or good(number, body))
    with pytest.raises(GenerationError, match="gave no answer in 1 tries"):
        built_by(case(1, steps=["sort/topic"]), client(dead, timeout_seconds=0.1, retries=0))


def test_the_budget_stops_the_build_and_what_was_paid_for_is_kept(fake, tmp_path):
    server, asked = fake(), case(8, max_answer_tokens=10, steps=["sort/topic"])
    with pytest.raises(GenerationError, match="the budget of 100 tokens is spent"):
        built_by(asked, Cached(client(server, concurrency=1, token_budget=100), tmp_path))
    paid = len(server.bodies)
    assert 1 <= paid < 8
    built = built_by(asked, Cached(client(server), tmp_path))
    assert (len(built.rows), len(server.bodies)) == (8, 8)


def test_a_server_that_declines_one_request_costs_one_row(fake):
    def picky(number, body):
        if "mail 1" in body["messages"][0]["content"]:
            return 400, {"error": "maximum context length exceeded"}, {}
        return good(number, body)

    built = built_by(case(3, steps=["sort/topic"]), client(fake(picky)))
    assert len(built.rows) == 2
    ((_, code, detail),) = built.refused
    assert code == "declined"
    assert "maximum context length" in detail


def test_a_server_that_cannot_hold_a_model_to_a_schema_is_asked_without(fake):
    def plain(number, body):
        if "response_format" in body:
            return 400, {"error": "Unknown field 'response_format'"}, {}
        return good(number, body)

    server = fake(plain)
    built = built_by(case(3, steps=["sort/who"]), client(server, concurrency=1))
    assert (len(built.rows), len(server.bodies)) == (3, 4)


RECIPE = {
    "name": "asked",
    "sources": {"mails": {"files": "mails.jsonl", "license": "mit", "language": "en"}},
    "build": [{"builder": "subtask", "sources": ["mails"], "options": {"tasks": "tasks.yaml", "model": "some-model"}}],
    "select": [{"selector": "uniform", "sources": ["subtask"], "pick": {"budget_rows": 60}}],
    "mix": {"splits": {"validation": 0.2, "test": 0.2}},
}


def test_a_run_goes_on_where_the_server_died_and_a_second_costs_nothing(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    server = fake(lambda number, body: good(number, body) if number < 20 else (500, {"error": "gone"}, {}))
    (tmp_path / "tasks.yaml").write_text(TASKS)
    (tmp_path / "mails.jsonl").write_text(
        "".join(json.dumps({"text": f"mail {i}: where is order {i}?"}) + "\n" for i in range(20))
    )
    options = {"server": server.url, "retries": 0, "concurrency": 2}
    recipe = RECIPE | {"build": [RECIPE["build"][0] | {"options": RECIPE["build"][0]["options"] | options}]}
    where = Where(
        base=str(tmp_path), store=str(tmp_path / "store"), output=str(tmp_path / "out"), workers=1, shard_rows=8
    )
    plan = Plan.of(recipe_file.build(recipe), where)
    with pytest.raises(GenerationError, match="run again: what it answered before is kept"):
        curate(plan)
    died = len(server.bodies)
    monkeypatch.setattr(server, "respond", good)
    done = curate(plan)
    answered = Counter(json.dumps(b["messages"]) for b in server.bodies)
    assert (len(answered), died) == (60, 21) or died == 22  # two at once: one or both meet the end
    assert sum(n - 1 for n in answered.values()) == died - 20, "asked again is what got no answer"
    rows = pl.read_parquet(done.folder / "*/*-of-*.parquet")
    assert rows["task"].value_counts().sort("task")["count"].to_list() == [20, 20, 20]
    assert done.summary.leaks is not None
    assert done.summary.leaks.total == 0
    curate(plan)
    assert len(server.bodies) == 60 + died - 20, "a rerun costs nothing"
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"sk-very-secret" not in everything


def test_options_that_cannot_be_are_refused():
    spec = find("builders", "subtask").Spec
    with pytest.raises(ValidationError, match="model must be named where a server is"):
        spec.model_validate({"tasks": "t", "server": "http://127.0.0.1:1/v1"})
    with pytest.raises(ValidationError, match="judge_prompt must insert"):
        spec.model_validate({"tasks": "t", "judge_prompt": "{answer}?"})
    bad = TASKS.replace("enum: [parcel, refund]}", "enum: [parcel, refund]}\n        checks: [{name: nope}]")
    with pytest.raises(InputError, match="check must be one of"):
        built_by(Case(case(1).shard, case(1).options, {"tasks": bad}), Scripted(lambda ask: "refund"))
