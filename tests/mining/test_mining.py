"""Attempts, rates, standings and slices: against closed forms, other libraries, and planted weaknesses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scripted import Scripted

from mixtura.checking import Question, Uncheckable
from mixtura.checks.tool_calls import CHECK
from mixtura.generation.contract import Likelihood, Reply
from mixtura.mining import slices
from mixtura.mining.attempts import Sampling, attempt, questions, same_form
from mixtura.mining.quoting import quoted, says
from mixtura.mining.rates import benjamini_hochberg, clopper_pearson
from mixtura.mining.standing import Standard, standing
from mixtura.mining.wording import Wording
from mixtura.verdict import PASSED

TOOLS = json.dumps([
    {"name": "book", "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "nights": {"type": "integer"}, "class": {"type": "string", "enum": ["a", "b"]}}}},
    {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
])  # fmt: skip
SAMPLING = Sampling(samples=4, max_tokens=50, temperature=1.0, seed=3)


def call(name: str, **arguments) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def row(gold: str, asked: str = "a room in Rome") -> dict:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": gold}]
    return {"messages": turns, "tools": TOOLS, "meta": None}


def tried(gold: str, *answers: str, nats: float = -1.0):
    """One row, answered in turn by `answers`."""
    (question,) = questions(CHECK, CHECK.Spec(), [row(gold)])
    assert isinstance(question, Question)
    model = Scripted(lambda ask, sample, seed: answers[sample % len(answers)], lambda ask, answer: nats)
    return attempt(model, [question], Sampling(len(answers), 50, 1.0, 0))[0]


ROME, PARIS = call("book", city="Rome"), call("book", city="Paris")


def test_attempts_are_judged_and_counted():
    t = tried(ROME, ROME, PARIS, "no idea", call("weather", city="Rome"))
    assert (t.passed, t.rate) == (1, 0.25)
    assert t.kinds == {"value_error:string": 1, "no_call_when_needed": 1, "wrong_tool": 1}
    assert t.gold == Likelihood(-1.0, 1)
    assert not t.broken


def test_a_row_without_a_question_says_why():
    found = questions(CHECK, CHECK.Spec(), [row(ROME), {"messages": None, "tools": TOOLS, "meta": None}])
    assert isinstance(found[0], Question)
    assert isinstance(found[1], Uncheckable)
    assert found[1].code == "no-answer"


def test_a_gold_that_breaks_its_schema_is_set_apart():
    for gold, kind in ((call("fly"), "hallucinated_tool"), (call("book"), "missing_required"),
                       (call("book", city="Rome", stars=3), "hallucinated_arg"),
                       (call("book", city="Rome", **{"class": "c"}), "value_error:enum"),
                       (call("book", city=["Rome"]), "type_error")):  # fmt: skip
        stands = standing(tried(gold, gold), Standard())
        assert (stands.state, stands.score) == ("suspect", -1.0)
        assert kind in stands.reason


def test_states_and_their_scores():
    """Four samples: each failed one counts 1/4, the gold's loss less than half of that."""
    standard = Standard(unlikely=2.0)
    master = standing(tried(ROME, ROME, ROME, ROME, ROME), standard)
    partly = standing(tried(ROME, ROME, ROME, PARIS, "no"), standard)
    never = standing(tried(ROME, "a", "b", "c", PARIS), standard)
    assert [s.state for s in (master, partly, never)] == ["mastered", "partly", "unsolved"]
    # loss 1 nat: 0.5 / 4 * 1 / 2
    assert [s.score for s in (master, partly, never)] == pytest.approx([0.0625, 0.5625, 1.0625])
    assert standing(tried(ROME, ROME, ROME, PARIS, "no", nats=-9.0), standard).score < 0.75


def test_a_gold_is_suspect_where_the_model_agrees_on_another_and_finds_it_unlikely():
    standard = Standard(unlikely=2.0)
    stands = standing(tried(ROME, PARIS, PARIS, "x", "y", nats=-5.0), standard)
    assert stands.state == "suspect"
    assert "2 of 4 answers agree on another" in stands.reason
    for t in (
        tried(ROME, PARIS, PARIS, "x", "y", nats=-1.0),  # the gold is likely enough
        tried(ROME, PARIS, "x", "y", "z", nats=-5.0),  # the answers do not agree
        tried(ROME, PARIS, PARIS, PARIS, ROME, nats=-5.0),  # one met the gold
        tried(ROME, *[call("fly", city="Rome")] * 4, nats=-5.0),  # what they agree on is no tool of the row
    ):
        assert standing(t, standard).state in ("unsolved", "partly")
    assert standing(tried(ROME, PARIS, PARIS, PARIS, PARIS, nats=-50.0), Standard()).state == "unsolved"


def test_the_standard_is_the_loss_of_golds_that_the_model_met():
    met = [tried(ROME, ROME, "x", nats=-float(n)) for n in range(1, 101)]
    missed = [tried(ROME, "x", nats=-1e6)]
    assert Standard.of([*met, *missed]).unlikely == pytest.approx(np.quantile(range(1, 101), 0.99))
    assert Standard.of(missed).unlikely == float("inf")


def test_to_leave_out_what_a_gold_says_is_no_contradiction():
    """The model forgets the nights: a failure to learn from, and no word against the gold. Another city is one."""
    gold, less = call("book", city="Rome", nights=2), call("book", city="Rome")
    states = [standing(tried(gold, *[said] * 4, nats=-5.0), Standard(2.0)).state for said in (less, PARIS)]
    assert states == ["unsolved", "suspect"]


def test_a_model_is_no_witness_on_a_tool_whose_golds_it_seldom_meets():
    """It meets every gold of `book` and none of `weather`: its agreement counts on the one and not on the other."""
    weather = call("weather", city="Rome")
    sample = [*[tried(ROME, ROME, nats=-1.0)] * 6, *[tried(weather, ROME, nats=-9.0)] * 3]
    standard = Standard.of(sample)
    assert (standard.strange, standard.known) == ({"weather"}, {"book"})
    told = [standing(tried(gold, *[call("book", city="Oslo")] * 4, nats=-5.0), standard) for gold in (ROME, weather)]
    assert [s.state for s in told] == ["suspect", "unsolved"]


@pytest.mark.parametrize(("met", "missed", "knows"), [(6, 0, True), (0, 6, False)])
def test_a_tool_not_in_the_sample_is_known_where_most_golds_are_met(met, missed, knows):
    sample = [*[tried(ROME, ROME)] * met, *[tried(ROME, PARIS)] * missed]
    assert Standard.of(sample).knows(frozenset({"weather"})) is knows


def test_a_standard_survives_its_file():
    wording = Wording({"book": {"room": 3}}, {"book": 3}, True)
    for standard in (
        Standard(),
        Standard(0.5, frozenset({"a", "é"}), frozenset({"b"}), False, frozenset({"c"}), wording),
    ):
        assert Standard.unpacked(standard.packed()) == standard


def test_a_gold_that_says_what_the_question_does_not_is_suspect_even_of_a_strange_tool():
    """The answers call another tool, and agree on the city that is asked for: Rome, and the gold says Paris."""
    standard = Standard(unlikely=2.0, strange=frozenset({"book"}), quoted=frozenset({"city"}))
    weather = call("weather", city="Rome")
    stands = standing(tried(PARIS, weather, weather, "x", "y", nats=-5.0), standard)
    assert stands.state == "suspect"
    assert "city 'Paris' is not in the question; 2 of 4 answers say 'Rome'" in stands.reason
    for t, s in (
        (tried(ROME, call("weather", city="Oslo"), *[call("weather", city="Oslo")] * 3, nats=-5.0), standard),  # said
        (tried(PARIS, *[call("weather", city="Oslo")] * 4, nats=-5.0), standard),  # theirs is not said either
        (tried(PARIS, weather, "x", "y", "z", nats=-5.0), standard),  # no two agree
        (tried(PARIS, *[weather] * 4, nats=-5.0), Standard(2.0, frozenset({"book"}))),  # cities are not always said
        (tried(PARIS, *[weather] * 4, nats=-1.0), standard),  # the gold is likely enough
    ):
        assert standing(t, s).state == "unsolved"


@pytest.mark.parametrize(("unsaid", "kept"), [(0, True), (1, True), (2, False)])
def test_quoted_arguments_are_those_surely_said_nine_times_in_ten(unsaid, kept):
    """Of 60: the exact 95 % interval of 60 and 59 begins above 0.9 (0.940, 0.911), that of 58 below (0.885)."""
    rows = [row(PARIS) for _ in range(unsaid)] + [row(ROME) for _ in range(60 - unsaid)]
    found = [q for q in questions(CHECK, CHECK.Spec(), rows) if isinstance(q, Question)]
    assert ("city" in quoted(found)) is kept
    assert (stats.binomtest(60 - unsaid, 60).proportion_ci().low >= 0.9) is kept


def test_a_value_is_said_as_whole_words():
    assert says("a room in rome for 12 nights", "Rome")
    assert says("a room in rome for 12 nights", 12)
    assert says("at half  past 2".replace("  ", " "), "Half past\n2")
    assert not says("a room in rome for 12 nights", 1)
    assert not says("a room in romeo", "rome")


BOOKED, RAIN = ("a room in Rome", call("book", city="Rome")), ("rain in Rome", call("weather", city="Rome"))


def worded(*rows: tuple[str, str]) -> Wording:
    return Wording.of(q for q in questions(CHECK, CHECK.Spec(), [row(gold, asked) for asked, gold in rows])
                      if isinstance(q, Question))  # fmt: skip


def test_words_speak_against_a_gold_where_other_rows_that_say_them_call_another_tool():
    """By hand: of 5 words in all, book's rows have 20 and weather's 15, so one of five rows is 6 of 25 and 6 of 20, and
    one of none 1 of 20. `a` and `room` are book's alone, `in` and `rome` are in all rows."""
    wording = worded(*[BOOKED] * 5, *[RAIN] * 5)
    (question,) = questions(CHECK, CHECK.Spec(), [row(call("weather", city="Rome"))])
    assert isinstance(question, Question)
    other, odds = wording._odds(question, "weather")
    assert (other, odds) == ("book", pytest.approx((6 / 25 * 20) ** 2 * (6 / 25 * 20 / 6) ** 2))


@pytest.mark.parametrize("rows", [30, 40])
def test_words_are_heard_where_they_find_nine_golds_in_ten(rows):
    """All of 60 are found: the exact interval begins at 0.940; where words say nothing of the tool, none is heard."""
    assert worded(*[BOOKED] * rows, *[RAIN] * rows).heard
    assert not worded(*[("in Rome", BOOKED[1])] * rows, *[("in Rome", RAIN[1])] * rows).heard


def test_a_gold_of_another_tool_is_suspect_by_the_words_of_other_rows():
    """The model does not know `book` and says nonsense; the gold says `weather`, and the words are those of rooms."""
    wording = worded(*[BOOKED] * 30, *[RAIN] * 30)
    weather, nonsense = call("weather", city="Rome"), ("x", "y", call("book", city="Oslo"), "z")
    stands = standing(tried(weather, *nonsense, nats=-5.0), Standard(2.0, wording=wording))
    assert (stands.state, "call book, not weather" in stands.reason) == ("suspect", True)
    theirs = call("weather", city="Oslo"), call("weather", city="Lima")  # half of the answers call the gold's tool
    for t in (tried(weather, *theirs, "x", "y", nats=-5.0), tried(ROME, *nonsense, nats=-5.0)):
        assert standing(t, Standard(2.0, wording=wording)).state == "unsolved"


def test_a_refused_row_is_unasked():
    class Refuses(Scripted):
        def replies(self, asks, **options):
            return [[Reply("", 0, None, "refused", reason="too long")] * options["samples"] for _ in asks]

    (question,) = questions(CHECK, CHECK.Spec(), [row(ROME)])
    stands = standing(attempt(Refuses(lambda *a: ""), [question], SAMPLING)[0], Standard())
    assert (stands.state, stands.score, stands.reason) == ("unasked", -2.0, "too long")


def test_equal_calls_have_one_form():
    a = {"role": "assistant", "content": '{"name": "f", "arguments": {"a": 1, "b": 2}}'}
    b = {"role": "assistant", "content": "f(b=2, a=1)", "tool_calls": None}
    c = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": '{"b":2,"a":1}'}}],
    }
    assert same_form(a) == same_form(c) == same_form({"content": "[f(b=2, a=1)]"})
    assert same_form(b) in (same_form(a), "f(b=2, a=1)")
    assert same_form({"content": '<tool_call>{"name"'}) is None
    assert same_form({"content": " so \n it is "}) == "so it is"


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_interval_is_that_of_the_exact_binomial_test(passed, more):
    n = passed + more
    if n:
        want = stats.binomtest(passed, n).proportion_ci(0.95, "exact")
        assert clopper_pearson(passed, n) == pytest.approx((want.low, want.high), abs=1e-9)


def test_no_success_in_five_leaves_52_percent_open():
    """Two-sided: 1 - 0.025^(1/5)."""
    assert clopper_pearson(0, 5) == pytest.approx((0, 1 - 0.025 ** (1 / 5)))
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_scipy(p):
    assert benjamini_hochberg(np.array(p)) == pytest.approx(stats.false_discovery_control(p))


def test_features_of_a_question():
    gold = [call("book", city="Rome", nights=2, **{"class": "a"}), call("weather", city="Rome")]
    (question,) = questions(CHECK, CHECK.Spec(), [row("[" + ",".join(gold) + "]")])
    assert slices.features(question) == [
        "argument type: enum", "argument type: integer", "argument type: string", "arguments of a call: 1",
        "arguments of a call: 3 to 4", "calls expected: 2", "question: 0 to 250 characters", "tool: book",
        "tool: weather", "tools offered: 2", "turns before the answer: 1",
    ]  # fmt: skip
    (plain,) = [Question(({"role": "user", "content": "x" * 300},), {"content": "y"}, lambda _: PASSED)]
    assert slices.features(plain) == ["question: 251 to 1000 characters", "turns before the answer: 1"]


def test_planted_weaknesses_are_found_and_nothing_else():
    """200 rows over ten tools; two of them fail three times of four, the others one time of four."""
    rng = np.random.default_rng(0)
    of_rows, rates = [], []
    for i in range(200):
        weak = i % 10 in (3, 7)
        of_rows.append([f"tool: t{i % 10}", f"length: {rng.integers(5)}", "all"])
        rates.append(rng.binomial(8, 0.25 if weak else 0.75) / 8)
    found = slices.weak(of_rows, rates)
    assert {s.feature for s in found} == {"tool: t3", "tool: t7"}
    assert str(found[0]).startswith(f"{found[0].feature}: {found[0].rate:.0%} pass over 20 rows")


def test_chance_alone_names_hardly_anything():
    """Forty sets without any weakness: at most one in twenty names a slice, six at three standard deviations."""
    named = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        of_rows = [[f"a: {rng.integers(6)}", f"b: {rng.integers(4)}"] for _ in range(120)]
        named += bool(slices.weak(of_rows, (rng.binomial(8, 0.5, 120) / 8).tolist()))
    assert named <= 6


def test_too_few_rows_are_no_slice():
    assert slices.weak([["a"]] * 4 + [["b"]] * 50, [0.0] * 4 + [1.0] * 50) == []
    assert slices.weak([], []) == []
