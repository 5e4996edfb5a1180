"""Sub-tasks: rows by hand, unions of steps and actions, schemas by an independent reader, budgets by sorted hashes."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
import yaml
from builder_cases import TASKS, Case, made_row, run, shard_of, subtask_case
from jsonschema import Draft202012Validator

from mixtura.errors import InputError
from mixtura.pipeline.hashing import keys

POOL = yaml.safe_load(TASKS)


def of(case: Case, **changed) -> Case:
    return Case(case.shard, case.options | changed, case.files)


def test_rows_by_hand():
    meta = {"kind": "mail", "label": "refund", "who": "Ada", "order": 120, "urgency": 4}
    rows = [made_row(0, source="web", language="de-AT", text="Geld zurück!", meta=meta)]
    (built,) = run("subtask", Case(shard_of([*rows, *_fill(3)]), {"tasks": "t"}, {"tasks": TASKS}))
    mine = [r for r in built.rows if r["parents"] == [rows[0]["id"]]]
    said = {r["task"]: [t["content"] for t in r["messages"]] for r in mine}
    assert said == {
        "shop/answer/sort": ["Worum geht es?\n\nGeld zurück!", "refund"],
        "shop/answer/pull": ["Give who wrote and the order.\n\nGeld zurück!", '{"who":"Ada","order":120}'],
        "shop/rate/score": ["Wie dringend, von 1 bis 5?\n\nGeld zurück!", "4"],
    }
    about = {r["task"]: orjson.loads(r["meta"]) for r in mine}
    assert about["shop/answer/sort"] == {
        "builder": "subtask", "domain": "shop", "action": "shop/answer", "kind": "classify", "target_source": "columns",
        "prompt_id": "de-0", "prompt_language": "de",
    }  # fmt: skip


def _fill(n: int) -> list[dict]:
    """Rows that satisfy the floor of shop/rate/score."""
    return [made_row(i + 1, source="web", text=f"row {i}", meta={"urgency": 2}) for i in range(n)]


def test_every_answer_fits_its_schema_and_every_row_names_an_entry():
    (built,) = run("subtask", subtask_case(200))
    steps = {f"shop/{a}/{s}": step for a, action in POOL["actions"].items() for s, step in action["steps"].items()}
    assert set(Counter(r["task"] for r in built.rows)) == set(steps)
    for row in built.rows:
        schema, answer = steps[row["task"]]["output_schema"], row["messages"][-1]["content"]
        Draft202012Validator(schema).validate(answer if schema["type"] == "string" else orjson.loads(answer))
    assert {r[1] for r in built.refused} >= {"schema", "over-budget"}


def test_rows_of_an_action_are_the_union_of_its_steps():
    case = subtask_case(120)
    ids = {key: {r["id"] for r in run("subtask", of(case, steps=steps))[0].rows}
           for key, steps in {"all": None, "answer": ["answer"], "rate": ["rate"], "sort": ["answer/sort"],
                              "pull": ["answer/pull"]}.items()}  # fmt: skip
    assert ids["answer"] == ids["sort"] | ids["pull"]
    assert ids["all"] == ids["answer"] | ids["rate"]
    assert not ids["sort"] & ids["pull"]


def test_budget_and_cap_take_the_smallest_hashes():
    case = subtask_case(200)
    (built,) = run("subtask", case, seed=4)
    rows = case.shard.rows.with_columns(draw=keys(case.shard.rows["id"], 4, "subtask/shop/answer/sort"))
    good = [
        (r["draw"], r["id"]) for r in rows.iter_rows(named=True)
        if (m := orjson.loads(r["meta"]))["kind"] == "mail" and m["label"] in ("parcel", "refund")
    ]  # fmt: skip
    assert {r["parents"][0] for r in built.rows if r["task"] == "shop/answer/sort"} == {i for _, i in sorted(good)[:10]}
    per_source = Counter(r["file"] for r in built.rows if r["task"] == "shop/answer/pull")
    assert per_source == {"web.jsonl": 12, "desk.jsonl": 12}


def test_each_language_gives_a_row_and_match_takes_the_rows_own():
    case = subtask_case(60)
    (matched,), (each,) = run("subtask", case), run("subtask", of(case, languages="each"))
    sort = [r for r in matched.rows if r["task"] == "shop/answer/sort"]
    assert all(orjson.loads(r["meta"])["prompt_language"] == r["language"] for r in sort)
    both = [r for r in each.rows if r["task"] == "shop/answer/sort"]
    assert Counter(orjson.loads(r["meta"])["prompt_language"] for r in both) == {"en": 10, "de": 10}


@pytest.mark.parametrize(
    ("change", "options", "error"),
    [
        ("floor: 3", {}, "must give at least 1,000 rows, its floor"),
        ('output: "{label}"', {}, r"needs a model for steps without output; got \['shop/answer/sort'\]"),
        ("", {"steps": ["answer/sotr"]}, r"must have steps of .*; got \['answer/sotr'\]"),
        ("kind: classify", {}, "task pool: actions.answer.steps.sort.kind"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(change, options, error):
    instead = {"floor: 3": "floor: 1000", "kind: classify": "kind: clasify"}.get(change, "")
    case = subtask_case()
    tasks = TASKS.replace(change, instead) if change else TASKS
    with pytest.raises(InputError, match=error):
        run("subtask", Case(case.shard, case.options | options, {"tasks": tasks}))


def test_steps_for_a_model_can_be_left_out():
    case = subtask_case()
    tasks = TASKS.replace('output: "{label}"', "")
    (built,) = run("subtask", Case(case.shard, case.options | {"without_model": "skip"}, {"tasks": tasks}))
    assert {r["task"] for r in built.rows} == {"shop/answer/pull", "shop/rate/score"}
