"""A model's names and wordings: taken where they have the form, asked for again where not, and never more than that."""

from __future__ import annotations

import json

from answering import Scripted
from typer.testing import CliRunner

from mixtura.cli.app import app
from mixtura.generation.contract import Ask, Reply
from mixtura.propose.draft import Drafted, pool_of
from mixtura.propose.reworded import TRIES, reword
from mixtura.tasks.pool import Proposed, Rows, Step
from mixtura.tasks.template import Template


def drafted(name: str, **more) -> Drafted:
    step = Step(
        kind="advise",
        instructions={"en": ["Answer this."], "es": ["Responda."]},
        proposed=Proposed(rows=3, terms=["gout"]),
        rows=Rows(clusters=[0]),
    )
    return Drafted(action="ask", name=name, step=step, examples=(("What is gout? {x}", "A disease"),), **more)


GOOD = {
    "name": "Explain a disease",
    "description": "Says what a disease is.",
    "instructions": {
        "en": ["Explain the disease {asked} about.", "Say what this disease is."],
        "es": ["Explique la enfermedad."],
    },
}


def test_a_good_reply_is_taken_and_braces_stay_braces():
    made = reword([drafted("a")], Scripted(lambda ask: "Sure!\n```json\n" + json.dumps(GOOD) + "\n```"), seed=0)
    (step,) = made.drafted
    assert made.taken == 1
    assert step.name == "explain_a_disease"
    assert Template(step.step.instructions["en"][0]).text({}) == "Explain the disease {asked} about."
    assert step.step.rows.clusters == [0]
    assert pool_of("medicine", "", made.drafted, "m.parquet").actions["ask"].steps.keys() == {"explain_a_disease"}


def test_two_steps_of_one_name_stay_two():
    made = reword([drafted("a"), drafted("b")], Scripted(lambda ask: json.dumps(GOOD)), seed=0)
    assert [d.name for d in made.drafted] == ["explain_a_disease", "explain_a_disease_2"]


def test_what_has_not_the_form_is_asked_for_again_and_the_stock_wording_stays():
    bad = [
        "no json at all",
        json.dumps(GOOD | {"rows": {"clusters": [1, 2]}}),
        json.dumps(GOOD | {"instructions": {"en": ["Explain the disease."]}}),
    ]
    calls: list[Ask] = []

    def reply(ask: Ask) -> str:
        calls.append(ask)
        return bad[len(calls) - 1]

    before = drafted("a")
    made = reword([before], Scripted(reply), seed=0)
    assert len(calls) == TRIES == len(bad)
    assert made.taken == 0
    assert made.drafted == [before]


def test_only_the_steps_that_failed_are_asked_again():
    seen: list[str] = []

    def reply(ask: Ask) -> Reply:
        text = ask.messages[0]["content"]
        seen.append("b" if "other" in text else "a")
        good = seen[-1] == "a" or seen.count("b") == 2
        return Reply(json.dumps(GOOD), 9, None, "stop" if good else "length")

    other = drafted("b").model_copy(update={"examples": (("other", "x"),)})
    made = reword([drafted("a"), other], Scripted(reply), seed=0)
    assert seen == ["a", "b", "b"]
    assert made.taken == 2


def test_the_model_sees_examples_as_quotes():
    model = Scripted(lambda ask: "")
    reword([drafted("a")], model, seed=0)
    assert '- "What is gout? {x}" => "A disease"' in model.asked[0].messages[0]["content"]


def test_a_server_needs_the_models_name(tmp_path):
    asks = ["tasks", "propose", "x.jsonl", "--out", str(tmp_path / "p.yaml"), "--server", "http://127.0.0.1:1/v1"]
    result = CliRunner().invoke(app, asks)
    assert "--server needs the model's name there" in str(result.exception)
