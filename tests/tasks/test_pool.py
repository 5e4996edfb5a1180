"""The task pool file: what it takes, what it refuses and with which sentence, and what templates read of a row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError, RecipeError
from mixtura.tasks import pool, schema
from mixtura.tasks.template import MissingField, Template, fields_of, found_in

# The medical example of the paper (AnyTaskTune, section on medical triage): three steps of one action
TRIAGE = """
domain: medicine
actions:
  triage:
    steps:
      standardise:
        kind: standardise
        instructions: {en: ["Say it in medical terms: {words}"], es: ["Dígalo en términos médicos."]}
        input: {words: "{prompt}"}
        output: "{term}"
      complete:
        kind: classify
        instructions: {en: ["Is anything missing?"]}
        input: {words: "{prompt}", age: "{patient.age}"}
        output: "{missing}"
        words: {missing: {"0": complete, "1": incomplete}}
        output_schema: {type: string, enum: [complete, incomplete]}
      diagnose:
        kind: advise
        instructions: {en: ["What may it be? Answer as JSON."]}
        input: {words: "{prompt}"}
        output_schema: {type: object, required: [diagnoses], properties: {diagnoses: {type: array, minItems: 1}}}
        rows: {sources: [clinic], budget: 10, floor: 2}
"""


def changed(old: str, new: str) -> str:
    assert old in TRIAGE
    return TRIAGE.replace(old, new)


def test_the_papers_example():
    read = pool.parse(TRIAGE)
    tasks = list(read.tasks())
    assert [t.id for t in tasks] == [
        "medicine/triage/standardise",
        "medicine/triage/complete",
        "medicine/triage/diagnose",
    ]
    assert [t.step.made_by_model for t in tasks] == [False, False, True]


def test_writing_and_reading_gives_the_same_pool():
    read = pool.parse(TRIAGE)
    assert pool.parse(pool.to_yaml(read)) == read


@pytest.mark.parametrize(
    ("text", "thing", "need"),
    [
        (changed("kind: advise", "kind: advice"), "actions.triage.steps.diagnose.kind", "must be"),
        (changed("{en: [\"Is anything missing?\"]}", "{en: []}"), "steps.complete", "must have a wording"),
        (changed("terms: {words}", "terms: {word}"), "steps.standardise", "must insert input fields only"),
        (changed('{"0": complete, "1": incomplete}', '{"0": Complete, "1": complete}'), "complete", "one-to-one"),
        (changed("{type: string, enum", "{type: strin, enum"), "steps.complete", "must be a JSON Schema"),
        (changed("{type: object, required", '{$ref: "https://x.org/s", required'), "diagnose", "refer to itself only"),
        (changed("floor: 2", "floor: 11"), "rows", "floor of at most its budget"),
        (changed("floor: 2", "flor: 2"), "rows.flor", "is not a key here"),
        (changed("floor: 2", "clusters: [1]"), "task pool", "must give memberships"),
        (changed("domain: medicine", "domain: m\nmemberships: ../a"), "task pool", "beside the task pool"),
        (changed("  complete:", "  standardise:"), "task pool", "given twice"),
        ("- a", "task pool", "must be a mapping"),
        (changed('output: "{term}"', 'output: {term: "{term}"}'), "standardise", "must be that of an object"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_that_names_its_place(text: str, thing: str, need: str):
    with pytest.raises(InputError) as caught:
        pool.parse(text)
    assert thing in caught.value.thing
    assert need in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"task pool .* must be a readable file"):
        pool.load(tmp_path / "none.yaml")
    (tmp_path / "pool.yaml").write_text(TRIAGE, encoding="utf-8")
    assert pool.load(tmp_path / "pool.yaml").domain == "medicine"


ROW = {
    "text": None,
    "messages": [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "so so"},
        {"role": "user", "content": "my belly hurts"},
        {"role": "assistant", "content": "abdominal pain"},
    ],
    "chosen": None,
    "source": "clinic",
    "language": "en",
    "task": None,
    "meta": json.dumps({"patient": {"age": 7}, "prompt": "hidden", "a.b": 1, "notes": ["x", "y"], "blank": " "}),
}


def test_fields_of_a_row():
    fields = fields_of(ROW)
    assert fields["prompt"] == "my belly hurts", "the last user turn, also where a column has that name"
    assert fields["completion"] == "abdominal pain"
    assert fields["conversation"].splitlines()[0] == "user: first"
    assert found_in(fields, "patient.age") == 7
    assert found_in(fields, "a.b") == 1
    assert Template("{patient.age}").value(fields) == 7
    assert Template("aged {patient.age}: {notes} {{x}}").text(fields) == "aged 7: x\ny {x}"
    for absent in ("blank", "patient.name", "text", "task", "notes.0", "system"):
        with pytest.raises(MissingField, match=absent):
            found_in(fields, absent)


def test_words_stand_for_values_and_a_value_without_words_is_missing():
    template, words = Template("{label}"), {"label": {"0": "terrible", "1": "great"}}
    assert template.value({"label": 1}, words) == "great"
    with pytest.raises(MissingField):
        template.value({"label": 2}, words)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.text(min_size=1).filter(str.strip)), st.text())
def test_a_template_inserts_values_and_evaluates_nothing(fields: dict[str, str], around: str):
    escaped = around.replace("{", "{{").replace("}", "}}")
    pattern = escaped + "".join(f"{{{name}}}" for name in fields) + escaped
    assert Template(pattern).text(fields) == around + "".join(fields.values()) + around


def test_values_are_not_read_as_templates():
    assert Template("{a}{b}").text({"a": "{b}", "b": "{a.__class__}"}) == "{b}{a.__class__}"


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ({"type": "string", "enum": ["yes", "no"]}, " yes\n", 0),
        ({"type": "string", "enum": ["yes", "no"]}, "maybe", 1),
        ({"type": "integer", "minimum": 1, "maximum": 5}, "6", 1),
        ({"type": "integer"}, "4.5", 1),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, '{"b": 1}', 2),
        ({"type": "array", "items": {"type": "string"}}, '["a", "b"]', 0),
    ],
)
def test_answers_against_their_schema(kind: dict, text: str, wrong: int):
    schema.check(kind)
    value = schema.parse(kind, text)
    assert len(schema.problems(kind, value)) == wrong
    assert schema.parse(kind, schema.write(kind, value)) == value


def test_an_answer_that_is_no_json():
    with pytest.raises(ValueError, match="not JSON"):
        schema.parse({"type": "object"}, "{'a': 1}")


def test_a_recipe_error_is_what_a_wrong_pool_raises():
    with pytest.raises(RecipeError):
        pool.build({"domain": "x"})
