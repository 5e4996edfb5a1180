"""Each row of TL-Training's table, and means over several calls by hand."""

from __future__ import annotations

import pytest

from mixtura.toolcalls.expected import Expected, expected_of
from mixtura.toolcalls.reward import graded_reward
from mixtura.toolcalls.tools import read_tools
from mixtura.toolcalls.verify import Verifier

TOOLS = read_tools(
    [
        {"name": "f", "parameters": {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["a"]}},
        {"name": "g", "parameters": {"properties": {"a": {}}}},
    ]
)
TABLE = {  # of the answer to a question whose gold is f(a=1, b=2)
    "f(a=": -2,
    "no": -2,
    "h(a=1)": -2,
    "g(a=1)": -1.5,
    "f(a=1, c=3, x=0)": -1.8,
    "f(a=1, b=2, c=3, x=0)": -1.3,
    "f(a=1, x=0)": -1.3,
    "f(a=1, c=3)": -1.0,
    "f(a=1, b=2, x=0)": -0.8,
    "f(0, a=1, b=2)": -0.8,
    "f(a=1, b=2, c=3)": -0.5,
    "f(a=1)": -0.5,
    "f(b=2)": -0.5,
    "f(a=1, b=3)": -0.25,
    "f(a='1', b=3)": -0.25,
    "f(a=1, b=2)": 1,
}


@pytest.mark.parametrize("answer", TABLE)
def test_the_table(answer):
    verifier = Verifier(TOOLS, expected_of(Verifier.read("f(a=1, b=2)"), TOOLS))
    assert graded_reward(verifier.verdict(answer)) == TABLE[answer]


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("[f(a=1), g(a=2)]", 1),
        ("[g(a=2), f(a=1)]", 1),
        ("[f(a=1), g(a=3)]", (1 - 0.25) / 2),
        ("[f(a=0), g(a=3)]", -0.25),
        ("[f(a=1)]", (1 - 1.5) / 2),
        ("[f(a=1), g(a=2), g(a=2)]", (1 + 1 - 1.5) / 3),
        ("[f(a=1), h(a=2)]", (1 - 2) / 2),
        ("no", -2),
    ],
)
def test_several_calls(answer, reward):
    verifier = Verifier(TOOLS, expected_of(Verifier.read("[f(a=1), g(a=2)]"), TOOLS))
    assert graded_reward(verifier.verdict(answer), calls=2) == pytest.approx(reward)


def test_no_call_is_right():
    none = Verifier(TOOLS, Expected(()))
    assert graded_reward(none.verdict("Sorry."), calls=0) == 1
    assert graded_reward(none.verdict("f(a=1)"), calls=0) == -2
