"""Hostile answers: always a verdict, nothing run, nothing opened, and no time that grows as a square."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mixtura.toolcalls.call import MAX_TEXT
from mixtura.toolcalls.expected import expected_of
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.tools import read_tools
from mixtura.toolcalls.verify import Verifier
from mixtura.verdict import Verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.hostile import CODE, RANDOM, REPEATED, hostile, watched

TOOLS = read_tools([{"name": n, "parameters": {"properties": {"a": {}, "b": {"type": "string"}}}} for n in "fg"])
VERIFIERS = [
    Verifier(TOOLS, expected_of(Verifier.read(gold), TOOLS), mode)
    for gold in ("[f(a=1, b='x')]", "[f(a=1), g(a=[1, {'k': None}])]", "no call")
    for mode in ("strict", "normalised")
]


def judge_all(answer: str) -> None:
    reading = parse(answer)
    for verifier in VERIFIERS:
        verdict = verifier.verdict_of(reading)
        assert isinstance(verdict, Verdict)
        assert len(str(verdict)) < 10_000


def test_the_watch_sees_what_it_should():
    with watched() as seen:
        eval("1 + 1")
    assert any(s.startswith("compile") for s in seen)
    with watched() as seen:
        open(__file__).close()
    assert any(s.startswith("open") for s in seen)
    with watched() as seen:
        pass
    assert seen == []


def test_no_exception_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge_all("f(a=1)")  # whatever is imported late is so now
    answers = list(hostile(4000, seed=1))
    with watched() as seen:
        for answer in answers:
            judge_all(answer)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", CODE)
def test_code_for_a_value_is_never_a_value(code):
    for text in (f"f(a={code})", f"[f(a=[{code}])]", f"[f(a={{'k': {code}}})]"):
        assert all(not isinstance(c.arguments.get("a"), int) for c in parse(text).calls), text


@pytest.mark.timeout(
    60
)  # a quarter of a million characters take less than a second; by the square they would take hours
@pytest.mark.parametrize("family", REPEATED)
def test_the_longest_answer_of_any_kind_is_read_in_one_pass(family):
    text = REPEATED[family](MAX_TEXT - 100)
    assert MAX_TEXT * 0.8 < len(text) <= MAX_TEXT
    judge_all(text)


def test_longer_is_not_read():
    assert "longer" in parse("f(a=1)" + " " * MAX_TEXT).problem


def test_every_family_was_drawn():
    assert len(REPEATED) >= 50
    assert len(set(RANDOM)) >= 6
    assert len({a[:8] for a in hostile(4000, seed=1)}) > 500


@pytest.mark.parametrize(
    "answer",
    [
        None,
        3,
        [],
        b"f(a=1)",
        {"tool_calls": 3},
        {"tool_calls": [3]},
        {"content": 3},
        {"tool_calls": [{"function": {"name": 3, "arguments": {}}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": {1, 2}}}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": float("nan")}}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 10**5000}}}]},
        {"tool_calls": [{}] * 1000},
        {"tool_calls": "["},
        {"content": [3, {"type": "tool_use"}]},
    ],
)
def test_messages_of_any_make(answer):
    reading = parse(answer)
    assert reading.calls == ()
    for verifier in VERIFIERS[:4]:
        assert not verifier.verdict(answer).passed


def test_a_message_that_nests_deeply():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert parse({"tool_calls": [{"function": {"name": "f", "arguments": {"a": deep}}}]}).problem
