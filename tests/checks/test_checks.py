"""What every check must keep, and answers judged by hand."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.checking import Question, Uncheckable
from mixtura.checks.choice import named, offered
from mixtura.checks.numeric import number_in
from mixtura.errors import InputError
from mixtura.registry import find, words
from mixtura.verdict import Verdict, pass_rate

FILES = sorted(p.stem for p in (Path(__file__).parents[2] / "mixtura/checks").glob("[!_]*.py"))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}
CALL = json.dumps([{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}])


def row(gold: str | None, asked: str = "What?", **more) -> dict:
    answer = {"role": "assistant", "content": gold, "tool_calls": more.pop("tool_calls", None)}
    return {"messages": [{"role": "user", "content": asked, "tool_calls": None}, answer], **more}


ROWS = {
    "tool_calls": (row(None, tool_calls=CALL, tools=json.dumps([TOOL])), "[f(a=1)]", "[f(a=2)]", {}),
    "exact": (row("Rome"), " Rome ", "Paris", {}),
    "numeric": (row("so it is 12"), "I get 12.0.", "13", {}),
    "choice": (row("B", "Which?\nA. red\nB. blue"), "The answer is (B).", "A", {}),
    "unit_tests": (
        row("def f(): return 1", meta=json.dumps({"tests": "assert f() == 1"})),
        "```python\ndef f():\n    return 1\n```",
        "def f(): return 2",
        {"run_code": True},
    ),
}


def question(name: str, row: dict, **options) -> Question:
    check = find("checks", name)
    return check.question(check.Spec(**options), row)


def test_every_check_is_here_and_has_a_row():
    assert FILES == sorted(ROWS) == sorted(w for w in words("checks") if w in FILES)
    assert len(FILES) >= 5


@pytest.mark.parametrize("name", FILES)
def test_right_and_wrong(name):
    given, right, wrong, options = ROWS[name]
    asked = question(name, given, **options)
    assert find("checks", name).name == name
    assert asked.judge(right).passed
    assert asked.judge({"role": "assistant", "content": right}).passed
    assert asked.judge(asked.gold).passed
    assert asked.judge(f"<think>{wrong}</think>{right}").passed
    verdict = asked.judge(wrong)
    assert not verdict.passed
    assert verdict.kind
    assert [t["role"] for t in asked.prompt] == ["user"]


@pytest.mark.parametrize("name", [f for f in FILES if f != "unit_tests"])  # its answers are run
@given(answer=st.text() | st.dictionaries(st.sampled_from(["content", "tool_calls"]), st.none() | st.text()))
def test_any_answer_has_a_verdict(name, answer):
    given, _, _, options = ROWS[name]
    assert isinstance(question(name, given, **options).judge(answer), Verdict)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("broken", [{}, {"messages": []}, {"messages": [{"role": "user", "content": "a"}]}, row("")])
def test_a_row_without_an_answer_says_so(name, broken):
    with pytest.raises(Uncheckable, match=r"^[a-z-]+: "):
        question(name, broken, **ROWS[name][3])


def test_pass_rate():
    asked = question("exact", row("a"))
    assert pass_rate([asked.judge("a"), asked.judge("b")]) == 0.5


def test_tool_calls_accept_what_meta_accepts():
    truth = [{"f": {"a": [1, 2, ""]}}]
    asked = question("tool_calls", {**ROWS["tool_calls"][0], "meta": json.dumps({"ground_truth": truth})})
    assert [asked.judge(t).passed for t in ("f(a=1)", "f(a=2)", "f()", "f(a=3)")] == [True, True, True, False]


def test_tool_calls_where_no_call_is_right():
    asked = question("tool_calls", row("No tool does that.", tools=json.dumps([TOOL])))
    assert asked.judge("I have no tool for it.").passed
    assert asked.judge("f(a=1)").kind == "call_when_not_needed"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "no-tools"),
        ({"tools": "nonsense"}, "bad-tools"),
        ({"tools": "[1]"}, "bad-tools"),
        ({"tools": json.dumps([TOOL]), "tool_calls": "{"}, "bad-tool-call"),
        ({"tools": json.dumps([TOOL]), "tool_calls": '[{"a": 1}]'}, "bad-tool-call"),
        ({"tools": json.dumps([TOOL]), "meta": '{"ground_truth": [{"f": {"a": 1}}]}'}, "bad-answers"),
        ({"tools": json.dumps([TOOL]), "meta": '{"ground_truth": [{"f": {}, "g": {}}]}'}, "bad-answers"),
    ],
)
def test_tool_rows_that_cannot_be_checked(more, code):
    with pytest.raises(Uncheckable) as caught:
        question("tool_calls", row(more.pop("content", "x"), **more))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("forgive", "said", "passes"),
    [
        ("nothing", "New York", True), ("nothing", "new York", False), ("nothing", "New  York", False),
        ("blanks", " New\n York ", True), ("blanks", "new York", False),
        ("case", "NEW YORK", True), ("case", "New-York", False),
        ("punctuation", "new-york!", True), ("punctuation", "newyork", False),
    ],
)  # fmt: skip
def test_exact_forgives_what_it_says(forgive, said, passes):
    assert question("exact", row("New York"), forgive=forgive).judge(said).passed == passes


def test_exact_takes_any_of_several():
    asked = question("exact", row("x", meta=json.dumps({"right": ["Rome", "Roma"]})), answers="right")
    assert [asked.judge(t).passed for t in ("Roma", "Rome", "x")] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 1,234.50.", "1234.5"), ("-3", "-3"), ("x = −3", "-3"), ("10-5", "5"), ("2e3", "2000"), ("45%", "45"),
        ("3/4", "0.75"), ("in 2020, 5 apples", "5"), ("1,2,3", "3"), ("$ 5.", "5"), (".5", "0.5"), ("(5)", "5"),
        ("5 and then none", "5"), ("", None), ("none", None), ("v1.2.3", None), ("1/0", None), ("9" * 500, None),
        ("12,34", "34"), ("007", "7"), ("1e999999", None), (r"\frac{3}{4}", "0.75"),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert number_in(text) == (None if number is None else Decimal(number))


def test_places_of_numbers():
    assert number_in("2 + 2 = 5\n#### 4 of 9", "hashes") == 4
    assert number_in("it is 5", "hashes") is None
    assert number_in(r"so \boxed{12} and not \boxed{\frac{1}{4}}.", "boxed") == Decimal("0.25")
    assert number_in(r"\boxed{12", "boxed") is None


@given(st.integers(-(10**12), 10**12))
def test_every_integer_is_read_back(n):
    assert number_in(f"The answer is {n:,}.") == n
    assert number_in(f"It is {n}") == n


def test_tolerance_is_relative():
    asked = question("numeric", row("200"), tolerance=0.01)
    assert [asked.judge(t).passed for t in ("202", "198", "202.1", "-200")] == [True, True, False, False]


OPTIONS = ["red", "dark red", "blue", "not blue"]


@pytest.mark.parametrize(
    ("answer", "positions"),
    [
        ("B", [1]), ("b)", []), ("(C) because", [2]), ("C.", [2]), ("The answer is D.", [3]), ("Answer: **B**", [1]),
        (r"\boxed{A}", [0]), ("I think it is (B)", [1]), ("dark red", [1]), ("It is dark red.", [1]), ("blue", [2]),
        ("(A) or (B)", [0, 1]), ("The answer is A or B", [0, 1]), ("Answer: A. No, the answer is B.", [0, 1]),
        ("A dog", []), ("E", []), ("", []), ("something else", []), ("Both red and blue", [0, 2]),
    ],
)  # fmt: skip
def test_options_that_an_answer_names(answer, positions):
    assert named(answer, OPTIONS) == positions


def test_choice_classes_and_places():
    asked = question("choice", row("A", "Which?\n(A) red\n(B) blue"))
    assert [asked.judge(t).kind for t in ("A", "B", "(A) (B)", "green")] == [
        "",
        "wrong_answer",
        "ambiguous",
        "no_answer",
    ]
    meta = json.dumps({"options": OPTIONS, "label": 2})
    asked = question("choice", row("?", meta=meta), options="options", answers="label")
    assert asked.judge("blue").passed
    assert offered("What?\nA. x\nC. y") == []
    with pytest.raises(Uncheckable, match="no-answer"):
        question("choice", row("neither", "Which?\nA. red\nB. blue"))


PASSING = "def f(): return 1"
RUNS = {  # code of an answer → kind of its verdict under the test `assert f() == 1`
    PASSING: "",
    "def f(): return 2": "tests_error:AssertionError",
    "def g(): return 1": "tests_error:NameError",
    "def f(:": "answer_error:SyntaxError",
    "raise ValueError": "answer_error:ValueError",
    "import sys; sys.exit(0)": "answer_error:SystemExit",
    "import os; os._exit(0)": "crash",
    "print('passed')\nimport os\nos.write(1, b'passed'); os._exit(0)": "crash",
    "open('told', 'w').write('x passed')\nimport os; os._exit(0)": "crash",
    "import os; os.remove('told'); os.mkdir('told')\n" + PASSING: "crash",
    "while True: pass": "timeout",
    "x = 'a' * (1 << 32)": "answer_error:MemoryError",
    "open('big', 'wb').write(b'0' * (1 << 20))": "answer_error:OSError",
    "import os; assert os.environ.get('HOME') == os.getcwd() and len(os.environ) < 6\n" + PASSING: "",
    "import sys; assert not any('site-packages' in p for p in sys.path)\n" + PASSING: "",
    "import os\nwhile True: os.write(2, b'x' * 65536)": "timeout",
}


@pytest.mark.parametrize("code", RUNS)
def test_code_is_run_within_limits(code):
    """What does not run out of time has plenty of it, since the machine may be busy."""
    meta = json.dumps({"tests": ["assert f() == 1"]})
    seconds = 1 if RUNS[code] == "timeout" else 20
    asked = question("unit_tests", row(PASSING, meta=meta), run_code=True, seconds=seconds, mebibytes=256)
    assert asked.judge(code).kind == RUNS[code]


def test_code_is_not_run_unless_the_recipe_says_so(tmp_path):
    trace = tmp_path / "ran"
    meta = json.dumps({"tests": f"open({str(trace)!r}, 'w')"})
    with pytest.raises(InputError, match="run_code"):
        question("unit_tests", row(PASSING, meta=meta))
    assert not trace.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look a process up in")
def test_a_child_that_stays_behind_is_ended(tmp_path):
    """A grandchild that would sleep for minutes is gone, or a corpse, when the verdict is there."""
    left = tmp_path / "left"
    code = "import os, time\nif os.fork() == 0:\n"
    code += f"    open({str(left)!r}, 'w').write(str(os.getpid()))\n    time.sleep(300)\n"
    code += f"while not os.path.exists({str(left)!r}) or not open({str(left)!r}).read(): time.sleep(0.01)\n"
    asked = question("unit_tests", row(PASSING, meta=json.dumps({"tests": "pass"})), run_code=True, seconds=20)
    verdict = asked.judge(code)
    if verdict.kind == "answer_error:BlockingIOError":
        return  # limits of processes hold, as they do for all but root: there was no child
    assert verdict.passed
    stat = Path(f"/proc/{left.read_text()}/stat")
    for _ in range(500):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the grandchild lives")
