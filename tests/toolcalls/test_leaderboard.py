"""The leaderboard's files, and verdicts on mutants against an enumeration of every right answer."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixtura.cli.app import app
from mixtura.errors import InputError
from mixtura.pipeline.shapes import recognise
from mixtura.registry import find
from mixtura.toolcalls.leaderboard import Question, question_of, read_questions
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.values import Accepted
from mixtura.toolcalls.verify import Verifier

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import verifier
from benchmarks.leaderboard import Judged, load_oracle
from benchmarks.mutations import gold, mutants

SCHEMAS = [
    {
        "name": "trips.book",
        "description": "Books a trip.",
        "parameters": {
            "type": "dict",
            "properties": {
                "city": {"type": "string"},
                "nights": {"type": "integer"},
                "price": {"type": "float"},
                "pets": {"type": "boolean"},
                "board": {"type": "string", "enum": ["none", "half"]},
                "dates": {"type": "array", "items": {"type": "string"}},
                "guest": {"type": "dict", "properties": {"age": {"type": "integer"}, "name": {"type": "string"}}},
                "area": {"type": "tuple", "items": {"type": "float"}},
                "rooms": {"type": "array", "items": {"type": "dict", "properties": {"beds": {"type": "integer"}}}},
            },
            "required": ["city", "nights"],
        },
    },
    {
        "name": "cancel",
        "description": "",
        "parameters": {"type": "dict", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    },
]
BOOK = {
    "city": ["Rome", "Roma"],
    "nights": [2],
    "price": [10.0, ""],
    "pets": [True],
    "board": ["half", ""],
    "dates": [["May 1", "May 2"]],
    "guest": [{"age": [30, 31], "name": ["Ann", ""]}],
    "area": [[1.0, 2.5]],
    "rooms": [[{"beds": [2]}]],
}
LINE = {"id": "q", "question": [[{"role": "user", "content": "Go."}]], "function": SCHEMAS}
TRUTHS = {
    "one call": [{"trips.book": BOOK}],
    "omittable": [{"trips.book": {"city": ["Rome"], "nights": [1, 2], "dates": [["a"], ""], "pets": ["", True]}}],
    "parallel": [
        {"cancel": {"id": [1, 2]}},
        {"cancel": {"id": [1]}},
        {"trips.book": {"city": ["Rome"], "nights": [3]}},
    ],
    "no call": [],
}


def every_right_answer(question: Question) -> set[str]:
    """By enumeration: every choice of accepted values, every omission, every order, as canonical JSON."""
    calls = [[(c.name, a) for a in _objects(c.arguments)] for c in question.expected.calls]
    return {_canonical(order) for chosen in itertools.product(*calls) for order in itertools.permutations(chosen)}


def _objects(arguments: dict[str, Accepted]) -> Iterator[dict[str, Any]]:
    choices = []
    for key, accepted in arguments.items():
        values = [(key, v) for value in accepted.values for v in _plain(value)]
        choices.append(values + ([None] if accepted.omittable else []))
    for chosen in itertools.product(*choices):
        yield dict(c for c in chosen if c)


def _plain(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from _objects(value)
    elif isinstance(value, list):
        yield from map(list, itertools.product(*(list(_plain(v)) for v in value)))
    else:
        yield value


def _canonical(calls: Any) -> str:
    """Whole numbers are written alike where the schema wants a number; the leaderboard's tuples are lists."""
    made = [(name, {k: _number(k, v) for k, v in arguments.items()}) for name, arguments in calls]
    return json.dumps(made, sort_keys=True)


def _number(key: str, value: Any) -> Any:
    if key == "price" and type(value) is int:
        return float(value)
    if key == "area" and isinstance(value, list | tuple):
        return [float(v) if type(v) is int else v for v in value]
    if isinstance(value, tuple):
        return {"tuple": value}  # of no other schema here
    return value


@pytest.mark.parametrize("name", [t for t in TRUTHS if t != "no call"])
def test_strict_verdicts_on_mutants_are_those_of_the_enumeration(name):
    question = question_of(LINE, TRUTHS[name])
    judge = Verifier(question.tools, question.expected, "strict")
    right = every_right_answer(question)
    assert len(right) >= 4
    made = [m for seed in range(4) for m in mutants(question, seed, 150)]
    passed = 0
    for mutant in made:
        reading = parse(mutant.text)
        wanted = bool(reading.calls) and not any(c.positional for c in reading.calls)
        wanted = wanted and _canonical([(c.name, c.arguments) for c in reading.calls]) in right
        assert judge.verdict(mutant.text).passed == wanted, mutant
        passed += wanted
    assert len(made) > 200
    assert 3 <= passed < len(made) / 2


def test_every_right_answer_passes():
    for name in ("one call", "omittable", "parallel"):
        question = question_of(LINE, TRUTHS[name])
        for mode in ("strict", "normalised"):
            judge = Verifier(question.tools, question.expected, mode)
            for answer in every_right_answer(question):
                calls = [{"name": n, "arguments": a} for n, a in json.loads(answer)]
                assert judge.verdict(json.dumps(calls)).passed, answer


@pytest.mark.parametrize(
    ("change", "kinds"),
    {
        "another tool": {"wrong_tool"}, "invented tool": {"hallucinated_tool"},
        "tool in capitals": {"hallucinated_tool"},
        "invented argument": {"hallucinated_arg"}, "left out, required": {"missing_required"},
        "left out, optional": {"missing_optional"}, "left out, omittable": {""},
        "arguments in another order": {""}, "value without a name": {"positional_arg"},
        "value without a name as well": {"positional_arg"}, "another accepted value": {""},
        "another value of the enum": {"value_error:string"},
        "another text": {"value_error:string", "value_error:enum"},
        "text in capitals": {""}, "bare name": {"parse_error"}, "boolean flipped": {"value_error:boolean"},
        "boolean as text": {"type_error:boolean"}, "another integer": {"value_error:integer"},
        "decimal for an integer": {"type_error:integer"}, "integer as text": {"type_error:integer"},
        "arithmetic": {"parse_error"}, "another decimal": {"value_error:number"}, "integer for a decimal": {""},
        "list in another order": {"value_error:array"}, "list longer": {"value_error:array"},
        "object with a key more": {"value_error:object"}, "object as text": {"type_error:object"},
        "a call twice": {"wrong_count"}, "no call": {"no_call_when_needed"}, "an empty list": {"no_call_when_needed"},
        "cut off": {"parse_error"}, "a bracket more": {"parse_error"}, "spread over lines": {""}, "quoted": {""},
    }.items(),
)  # fmt: skip
def test_each_change_has_its_class(change, kinds):
    question = question_of(LINE, TRUTHS["one call"])
    judge = Verifier(question.tools, question.expected)
    found = {judge.verdict(m.text).kind for s in range(3) for m in mutants(question, s, 200) if m.change == change}
    assert found
    assert found <= kinds


def test_mutants_are_repeatable_and_leave_the_question_alone():
    question = question_of(LINE, TRUTHS["one call"])
    before = repr(question.expected)
    made = mutants(question, 0)
    assert made == mutants(question, 0) != mutants(question, 1)
    assert len(made) == len({m.text for m in made}) == 24
    assert gold(question) not in {m.text for m in made}
    assert repr(question.expected) == before


def test_made_up_questions_pass_their_golds():
    for case in verifier.made_up(30):
        assert Verifier(case.question.tools, case.question.expected).verdict(gold(case.question)).passed


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "possible_answer").mkdir()
    lines = [json.dumps({**LINE, "id": n}) for n in TRUTHS]
    (tmp_path / "q.json").write_text("\n".join(lines) + "\n")
    truths = [json.dumps({"id": n, "ground_truth": t}) for n, t in TRUTHS.items()]
    (tmp_path / "possible_answer/q.json").write_text("\n".join(truths))
    return tmp_path


def test_files_are_joined_by_name(folder):
    questions = read_questions(folder / "q.json")
    assert [q.id for q in questions] == list(TRUTHS)
    assert [len(q.expected.calls) for q in questions] == [1, 1, 3, 0]
    assert questions[0].messages == ({"role": "user", "content": "Go."},)
    assert list(questions[0].tools) == ["trips.book", "cancel"]
    (folder / "possible_answer/q.json").unlink()
    assert all(not q.expected.calls for q in read_questions(folder / "q.json"))  # as in the categories of irrelevance


def test_the_command_writes_rows_that_are_judged_alike(folder):
    """From the leaderboard's files to a verdict: command, JSONL, the shape that ingest recognises, the check."""
    done = CliRunner().invoke(app, ["questions", str(folder / "q.json"), str(folder / "out/rows.jsonl")])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (folder / "out/rows.jsonl").read_text().splitlines()]
    shape = recognise({key for r in records for key in r}, "rows.jsonl")
    check = find("checks", "tool_calls")
    questions = read_questions(folder / "q.json")
    for question, record in zip(questions, records, strict=True):
        asked = check.question(check.Spec(), shape(record))
        judge = Verifier(question.tools, question.expected)
        assert asked.judge(asked.gold).passed
        assert [t["role"] for t in asked.prompt] == ["user"]
        for mutant in mutants(question, 0, 30) if question.expected.calls else ():
            assert asked.judge(mutant.text) == judge.verdict(mutant.text)
    assert len(records) == 4


def test_the_command_keeps_what_is_there(folder):
    (folder / "rows.jsonl").write_text("mine")
    done = CliRunner().invoke(app, ["questions", str(folder / "q.json"), str(folder / "rows.jsonl")])
    assert isinstance(done.exception, InputError)
    assert (folder / "rows.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("q.json", "{", "must be JSON"),
        ("q.json", '{"id": "x"}', "must be an object with"),
        ("q.json", json.dumps({**LINE, "id": "one call", "question": [[], []]}), "one turn"),
        ("q.json", json.dumps({**LINE, "id": "other"}), "must have its answer"),
        ("possible_answer/q.json", json.dumps({"id": "one call", "ground_truth": [{"f": {}, "g": {}}]}), "one tool"),
        (
            "possible_answer/q.json",
            json.dumps({"id": "one call", "ground_truth": [{"f": {"a": 1}}]}),
            "accepted values",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told(folder, file, line, said):
    (folder / file).write_text(line + "\n")
    with pytest.raises(InputError, match=said):
        read_questions(folder / "q.json")


def test_files_that_are_not_there(folder):
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(folder / "none.json")
    with pytest.raises(InputError, match="bfcl_eval"):
        load_oracle(folder)


def test_the_benchmark_at_the_smallest_size(capsys):
    """Without the leaderboard's files: speeds of made-up questions. Hostile answers have a test of their own."""
    figures = verifier.speeds(verifier.made_up(12), None, sizes=(10, 20, 40))
    assert {"verifier_calls_per_s", "verifier_row_exponent", "verifier_python_per_s"} <= set(figures)
    assert all(math.isfinite(f) for f in figures.values())
    assert figures["verifier_calls_per_s"] == min(v for k, v in figures.items() if k.endswith("_per_s"))
    assert len(re.findall(r"^verify \w+ +[\d,]+ calls/s$", capsys.readouterr().out, re.M)) == 5


def test_agreement_counts_what_a_wrong_oracle_says():
    """An oracle that finds everything right agrees on the right answers alone."""
    cases = verifier.made_up(6)
    says_yes = verifier.agreement(cases, lambda case, text: Judged(True, ""), seeds=[0], most=40)
    verdicts = [
        (m.change.endswith(verifier.REFUSED), Verifier(c.question.tools, c.question.expected).verdict(m.text).passed)
        for c in cases
        for m in mutants(c.question, 0, 40)
    ]
    plain = [passed for refused, passed in verdicts if not refused]
    assert says_yes["verifier_agreement"] == sum(plain) / len(plain)
    assert says_yes["verifier_mutants"] == len(verdicts)
    assert says_yes["verifier_golds_passed"] == 1
