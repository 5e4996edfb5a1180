"""Probes: transforms by hand and by inversion over random text; the gold is the original's."""

from __future__ import annotations

import orjson
import pytest
from builder_cases import Case, conversation, made_row, run, shard_of
from hypothesis import given
from hypothesis import strategies as st

from mixtura.builders.probes import TRANSFORMS, leetspeak, pig_latin

TEXT = st.text(st.sampled_from("abcdefghij stu-xyz AE.,\n017é"), max_size=40)


def test_transforms_by_hand():
    assert leetspeak("test the waters") == "7357 7h3 w473r5"
    assert pig_latin("a string, Tested") == "a-ay ing-stray, ested-Tay"
    assert TRANSFORMS["backwards"][0]("ab\ncd") == "ba\ndc"


@given(TEXT, st.sampled_from(sorted(TRANSFORMS)), st.booleans())
def test_a_probe_is_read_back_exactly_or_not_made(text, kind, lower):
    row = made_row(0, messages=conversation(f"q{text}", "gold"))
    (built,) = run("probes", Case(shard_of([row]), {"transforms": [kind], "lower_case": lower}))
    asked = f"q{text}".lower() if lower else f"q{text}"
    there, back = TRANSFORMS[kind]
    assert len(built.rows) == (back(there(asked)) == asked != there(asked))
    for probe in built.rows:
        assert back(probe["messages"][0]["content"]) == asked
        assert probe["messages"][1]["content"] == "gold"


def test_only_the_last_request_is_changed_and_the_row_is_for_evaluation():
    turns = [*conversation("first one", "yes", system="be brief"), *conversation("and then", "no")]
    (built,) = run("probes", Case(shard_of([made_row(0, messages=turns)]), {"transforms": ["backwards"]}))
    (probe,) = built.rows
    assert probe["messages"] == [*turns[:3], turns[3] | {"content": "neht dna"}, turns[4]]
    assert orjson.loads(probe["meta"])["evaluate_only"] is True


@pytest.mark.parametrize("text", ["call 911", "agent 7"])
def test_leetspeak_leaves_digits_alone(text):
    (built,) = run(
        "probes", Case(shard_of([made_row(0, messages=conversation(text, "a"))]), {"transforms": ["leetspeak"]})
    )
    assert built.refused == [(built.refused[0][0], "not-invertible", "leetspeak")]
