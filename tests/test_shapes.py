"""Which records become which rows: every shape, every misfit, and no guess between two."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.shapes import shape_of
from mixtura.pipeline.turns import Misfit
from mixtura.recipe import Columns, Source


def shape(record, columns=None, first=None):
    spec = Source(files="f", columns=Columns(**columns) if columns else None)
    return shape_of(spec, first or [record], "f")(record)


def said(turns):
    return [(t["role"], t["content"]) for t in turns]


USER, BOT = ("user", "hi"), ("assistant", "yo")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}, [USER, BOT]),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}, [USER, BOT]),
        ({"prompt": "hi", "completion": "yo"}, [USER, BOT]),
        ({"prompt": "hi", "response": "yo"}, [USER, BOT]),
        (
            {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yo"}]},
            [USER, BOT],
        ),
        ({"instruction": "hi", "input": "", "output": "yo"}, [USER, BOT]),
        ({"instruction": "hi", "output": "yo", "system": "be"}, [("system", "be"), USER, BOT]),
        ({"instruction": "do", "input": "this", "response": "yo"}, [("user", "do\n\nthis"), BOT]),
        ({"instruction": "b", "output": "yo", "history": [["hi", "yo"]]}, [USER, BOT, ("user", "b"), BOT]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, [USER]),
        ({"messages": '[{"role": "user", "content": "hi"}]'}, [USER]),
    ],
)
def test_conversations_are_recognised(record, expected):
    row = shape(record | {"extra": 1})
    assert said(row["messages"]) == expected
    assert json.loads(row["meta"]) == {"extra": 1}


def test_text_is_recognised_and_the_rest_becomes_meta():
    assert shape({"text": "a", "z": 1, "b": [None, "é"]}) == {"text": "a", "meta": '{"b":[null,"é"],"z":1}'}
    assert shape({"text": ""}) == {"text": "", "meta": None}


def test_tool_calls_of_both_dialects():
    call = {"name": "f", "arguments": {"x": 1}}
    openai = [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}]
    sharegpt = [{"from": "function_call", "value": json.dumps(call)}]
    rows = [
        shape({"messages": openai, "tools": [{"name": "f"}]}),
        shape({"conversations": sharegpt, "tools": '[{"name": "f"}]'}),
    ]
    for row in rows:
        assert json.loads(row["messages"][0]["tool_calls"]) == [{"type": "function", "function": call}]
        assert row["tools"] == '[{"name":"f"}]'
    observed = shape({"conversations": [{"from": "observation", "value": "4"}]})
    assert said(observed["messages"]) == [("tool", "4")]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi", "chosen": "yo", "rejected": "no"},
        {"conversations": [{"from": "human", "value": "hi"}], "rejected": "no",
         "chosen": {"from": "gpt", "value": "yo"}},
        {"chosen": "\n\nHuman: hi\n\nAssistant: yo", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"prompt": "hi", "chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
         "rejected": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}]},
    ],
)  # fmt: skip
def test_preference_pairs_share_their_prompt(record):
    row = shape(record)
    assert (said(row["messages"]), said(row["chosen"]), said(row["rejected"])) == ([USER], [BOT], [("assistant", "no")])


def test_equal_answers_still_have_an_answer():
    same = "\n\nHuman: hi\n\nAssistant: yo"
    row = shape({"chosen": same, "rejected": same})
    assert said(row["chosen"]) == said(row["rejected"]) == [BOT]


@pytest.mark.parametrize(
    ("record", "choices"),
    [
        ({"text": "a", "instruction": "b", "output": "c"}, "instruction and output or text"),
        ({"prompt": "a", "completion": "b", "messages": []}, "conversation in 'messages' or prompt and completion"),
        ({"chosen": "a", "rejected": "b", "prompt": "c", "messages": []}, "with prompt 'prompt' or .* 'messages'"),
    ],
)
def test_an_ambiguous_file_names_the_choices(record, choices):
    with pytest.raises(InputError, match=rf"file 'f' must have columns of one shape; got .*{choices}.*Say which"):
        shape(record)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"text": None}, "null"),
        ({"text": 5}, "wrong-type"),
        ({"other": "x"}, "missing-column"),
        ({"text": {"a": 1}}, "wrong-type"),
    ],
)
def test_drift_within_a_file_is_that_records_misfit(record, code):
    with pytest.raises(Misfit, match=f"^{code}: "):
        shape(record, first=[{"text": "a"}])


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"messages": []}, "empty"),
        ({"messages": "x"}, "wrong-type"),
        ({"messages": [{"role": "emperor", "content": "x"}]}, "bad-role"),
        ({"messages": [{"role": "user"}]}, "null"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not-text"),
        ({"messages": ["hello"]}, "wrong-type"),
        ({"conversations": [{"from": "function_call", "value": "not json"}]}, "bad-tool-call"),
        ({"prompt": "a", "completion": " "}, "empty-answer"),
        ({"nothing": "known"}, "no-shape"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": "not json"}, "wrong-type"),
    ],
)
def test_misfits_have_a_reason(record, code):
    with pytest.raises(Misfit, match=f"^{code}: "):
        shape(record)


def test_templates_insert_and_do_nothing_else():
    record = {"a": "x{b}", "b": ["1", "2"], "c": 3, "d": None, "e f": {"k": 1}}
    row = shape(record, {"text": "{a} {{b}} 100% {b} {c}{d} {e f}"})
    assert row == {"text": 'x{b} {b} 100% 1\n2 3 {"k":1}', "meta": None}
    for pattern in ("{a.__class__}", "{a[0]}", "{a!r}", "{0}"):
        with pytest.raises(Misfit, match="missing-column"):
            shape(record, {"text": pattern})


def test_rows_inside_an_array_of_the_record_are_pointed_out():
    with pytest.raises(
        Misfit, match=r"The rows are in 'examples': set format: json and options: \{records: examples\}$"
    ):
        shape({"canary": "x", "examples": [{"input": "a", "target": "b"}]}, {"prompt": "input", "completion": "target"})
    with pytest.raises(Misfit, match=r"has \['examples'\]$"):  # an array without that column is no advice
        shape({"examples": [1]}, {"text": "input"})


def test_a_mapped_column_that_is_missing_names_the_nearest():
    with pytest.raises(Misfit, match=r"columns\.text names column 'txt', .* Nearest: 'text'"):
        shape({"text": "a"}, {"text": "txt"})


def test_mapped_conversations_and_facts():
    record = {"q": "hi", "a": "yo", "s": "be", "t": "qa", "l": None, "g": 7}
    columns = {"prompt": "{q}", "completion": "a", "system": "s", "task": "t", "language": "l", "split_group": "{g}"}
    row = shape(record, columns)
    assert said(row["messages"]) == [("system", "be"), USER, BOT]
    assert (row["task"], row["language"], row["split_group"], row["meta"]) == ("qa", None, "7", None)
    pair = shape({"q": "hi", "x": "yo", "y": "no"}, {"prompt": "q", "chosen": "x", "rejected": "y"})
    assert (said(pair["messages"]), said(pair["chosen"]), said(pair["rejected"])) == (
        [USER],
        [BOT],
        [("assistant", "no")],
    )


VALUES = st.one_of(st.text(max_size=5), st.none(), st.integers(), st.lists(st.text(max_size=3), max_size=2))
RECORDS = st.fixed_dictionaries({"title": VALUES, "body": VALUES}, optional={"kind": VALUES, "more": VALUES})


@pytest.mark.parametrize(
    "columns", [None, {"text": "body"}, {"text": "{title}: {body}", "task": "kind", "license": "{more}/{title}"}]
)
@given(records=st.lists(RECORDS, min_size=1, max_size=6))
def test_records_together_become_what_each_becomes_alone(columns, records):
    """By columns or, where one record is unusual, not at all."""
    if columns is None:
        records = [{**r, "text": r["body"]} for r in records]
    spec = Source(files="f", columns=Columns(**columns) if columns else None)
    shape = shape_of(spec, records, "f")
    together = shape.many(records)
    try:
        alone = [shape(r) for r in records]
    except Misfit:
        assert together is None
    else:
        usual = all(isinstance(r["body"], str) for r in records)
        assert together is not None or not usual
        if together is not None:
            assert [dict(zip(together, row, strict=True)) for row in zip(*together.values(), strict=True)] == alone
