"""Each class of error by hand, the matching against all permutations, and what must not change a verdict."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.toolcalls.call import Call, Reading
from mixtura.toolcalls.expected import Expected, ExpectedCall, expected_of, gold_calls
from mixtura.toolcalls.tools import read_tools
from mixtura.toolcalls.values import Accepted
from mixtura.toolcalls.verify import CLASSES, Verifier, schema_failures

TOOLS = read_tools(
    [
        {
            "name": "book",
            "parameters": {
                "type": "object",
                "required": ["city", "nights"],
                "properties": {
                    "city": {"type": "string"},
                    "nights": {"type": "integer"},
                    "price": {"type": "number"},
                    "pets": {"type": "boolean"},
                    "board": {"type": "string", "enum": ["none", "half", "full"], "default": "none"},
                    "dates": {"type": "array", "items": {"type": "string"}},
                    "guest": {"type": "object", "properties": {"age": {"type": "integer"}}},
                },
            },
        },
        {"name": "cancel", "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}}},
    ]
)
GOLD = (
    "book(city='St. Moritz', nights=2, price=10, pets=True, board='half', dates=['May 1', 'May 2'], guest={'age': 30})"
)
RIGHT = Verifier(TOOLS, expected_of(Verifier.read(GOLD), TOOLS))
CASES = {
    "parse_error": "book(city=Rome)",
    "no_call_when_needed": "I would book that.",
    "wrong_count": f"[{GOLD}, cancel(id=1)]",
    "hallucinated_tool": "reserve(city='St. Moritz')",
    "wrong_tool": "cancel(id=1)",
    "positional_arg": GOLD.replace("city=", ""),
    "missing_required": GOLD.replace("nights=2, ", ""),
    "hallucinated_arg": GOLD.replace("(", "(town='x', ", 1),
    "missing_optional": GOLD.replace("pets=True, ", ""),
    "type_error:integer": GOLD.replace("nights=2", "nights=2.0"),
    "type_error:boolean": GOLD.replace("pets=True", "pets=1"),
    "type_error:number": GOLD.replace("price=10", "price='10'"),
    "type_error:string": GOLD.replace("'St. Moritz'", "7"),
    "type_error:array": GOLD.replace("['May 1', 'May 2']", "[1, 2]"),
    "type_error:object": GOLD.replace("{'age': 30}", "30"),
    "value_error:string": GOLD.replace("St. Moritz", "Davos"),
    "value_error:integer": GOLD.replace("nights=2", "nights=3"),
    "value_error:number": GOLD.replace("price=10", "price=10.5"),
    "value_error:boolean": GOLD.replace("pets=True", "pets=False"),
    "value_error:enum": GOLD.replace("'half'", "'quarter'"),
    "value_error:array": GOLD.replace("['May 1', 'May 2']", "['May 2', 'May 1']"),
    "value_error:object": GOLD.replace("{'age': 30}", "{'age': 31}"),
}


def test_the_gold_passes_in_every_mode():
    for mode in ("strict", "normalised"):
        verdict = Verifier(TOOLS, RIGHT.expected, mode).verdict(GOLD)
        assert verdict.passed
        assert str(verdict) == "passed"


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("mode", ["strict", "normalised"])
def test_each_error_has_its_class(kind, mode):
    verdict = Verifier(TOOLS, RIGHT.expected, mode).verdict(CASES[kind])
    assert verdict.kind == kind
    assert kind.partition(":")[0] in str(verdict)


def test_a_call_where_none_is_right():
    none = Verifier(TOOLS, Expected(()))
    assert none.verdict("No tool fits.").passed
    assert none.verdict(GOLD).kind == "call_when_not_needed"
    assert none.verdict("book(city=Rome)").kind == "parse_error"


def test_an_argument_of_the_schema_that_is_not_asked_for():
    plain = Verifier(TOOLS, expected_of(Verifier.read("book(city='Rome', nights=1)"), TOOLS))
    assert plain.verdict("book(city='Rome', nights=1, pets=True)").kind == "redundant_arg"
    assert plain.verdict("book(city='Rome', nights=1, board='none')").passed  # the default, said aloud
    assert plain.verdict("book(city='Rome', nights=1, board='full')").kind == "value_error:string"
    spelled = Verifier(TOOLS, expected_of(Verifier.read("book(city='Rome', nights=1, board='none')"), TOOLS))
    assert spelled.verdict("book(city='Rome', nights=1)").passed  # the default, left out


def test_every_class_has_a_case():
    assert {k.partition(":")[0] for k in CASES} | {"call_when_not_needed", "redundant_arg"} == set(CLASSES)


def test_all_failures_are_told_the_first_class_first():
    verdict = RIGHT.verdict("book(city='Davos', nights='2', price=10, town=1)")
    kinds = [f.kind for f in verdict.failures]
    assert kinds[0] == "hallucinated_arg"
    assert set(kinds) >= {"missing_optional", "type_error:integer", "value_error:string"}
    assert [CLASSES.index(f.error) for f in verdict.failures] == sorted(
        CLASSES.index(f.error) for f in verdict.failures
    )
    about = {f.argument: f for f in verdict.failures}
    assert (about["city"].got, about["city"].want) == ("Davos", "St. Moritz")
    assert about["nights"].call == 0


@pytest.mark.parametrize("noise", ["st moritz", "ST. MORITZ", "St.Moritz", "St_Moritz", "St-Moritz,", "St/Mor^it*z"])
def test_noise_passes_normalised_and_fails_strict(noise):
    answer = GOLD.replace("St. Moritz", noise)
    assert RIGHT.verdict(answer).passed
    assert Verifier(TOOLS, RIGHT.expected, "strict").verdict(answer).kind == "value_error:string"


@pytest.mark.parametrize(("written", "passes"), [("10", True), ("10.0", True), ("True", False), ("'10'", False)])
def test_a_whole_number_is_a_number(written, passes):
    assert RIGHT.verdict(GOLD.replace("price=10", f"price={written}")).passed == passes


def test_true_is_not_one():
    one = Verifier(TOOLS, Expected((ExpectedCall("cancel", {"id": Accepted((1,))}),)))
    assert one.verdict("cancel(id=1)").passed
    assert one.verdict("cancel(id=True)").kind == "type_error:integer"
    assert one.verdict("cancel(id=1.0)").kind == "type_error:integer"
    untyped = Verifier({}, one.expected)  # nothing says what the value must be
    assert untyped.verdict("cancel(id=1)").passed
    assert not untyped.verdict("cancel(id=True)").passed


def test_greedy_matching_would_fail_here():
    """Golds accept {1, 2} and {1}; the answer 1, 2 must be matched crosswise (methods/deficiency, 10)."""
    two = Expected((ExpectedCall("cancel", {"id": Accepted((1, 2))}), ExpectedCall("cancel", {"id": Accepted((1,))})))
    assert Verifier(TOOLS, two).verdict("[cancel(id=1), cancel(id=2)]").passed
    assert not Verifier(TOOLS, Expected(two.calls, ordered=True)).verdict("[cancel(id=1), cancel(id=2)]").passed


@given(
    st.lists(st.frozensets(st.integers(0, 3), min_size=1), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_matching_against_all_permutations(golds, answers):
    """Right iff some permutation of the answers fits the golds one by one."""
    expected = Expected(tuple(ExpectedCall("cancel", {"id": Accepted(tuple(g))}) for g in golds))
    verdict = Verifier(TOOLS, expected).verdict_of(Reading(tuple(Call("cancel", {"id": a}) for a in answers)))
    fits = len(golds) == len(answers) and any(
        all(a in g for a, g in zip(p, golds, strict=True)) for p in itertools.permutations(answers)
    )
    assert verdict.passed == fits
    if len(golds) == len(answers):
        least = min(sum(a not in g for a, g in zip(p, golds, strict=True)) for p in itertools.permutations(answers))
        assert len(verdict.failures) == least
    else:
        assert verdict.kind == "wrong_count"


@given(st.permutations(range(4)))
def test_order_changes_nothing(order):
    calls = [Call("cancel", {"id": i}) for i in range(3)] + [Call("book", {"city": "Rome", "nights": 1})]
    verifier = Verifier(TOOLS, expected_of(calls, TOOLS))
    assert verifier.verdict_of(Reading(tuple(calls[i] for i in order))).passed
    wrong = [*calls[:2], Call("cancel", {"id": 9}), calls[3]]
    verdict = verifier.verdict_of(Reading(tuple(wrong[i] for i in order)))
    assert [(f.kind, f.got, f.want) for f in verdict.failures] == [("value_error:integer", 9, 2)]
    assert verdict.failures[0].call == order.index(2)


def test_a_gold_is_its_own_answer():
    assert gold_calls(RIGHT.expected) == list(Verifier.read(GOLD))


def test_a_gold_that_breaks_its_schema_is_seen_without_another():
    kinds = {
        "reserve()": "hallucinated_tool",
        "book(city='Rome')": "missing_required",
        "book(city='Rome', nights=1, town=2)": "hallucinated_arg",
        "book(city='Rome', nights='two')": "type_error:integer",
        "book(city='Rome', nights=1, board='quarter')": "value_error:enum",
        "book('Rome', nights=1)": "positional_arg",
        GOLD: None,
    }
    for text, kind in kinds.items():
        found = schema_failures(Verifier.read(text), TOOLS)
        assert (found[0].kind if found else None) == kind, text


def test_a_gold_whose_tool_is_not_offered_is_right_for_nobody():
    expected = Expected((ExpectedCall("reserve", {}),))
    assert Verifier(TOOLS, expected).verdict("reserve()").kind == "hallucinated_tool"
    assert Verifier({}, expected).verdict("reserve()").passed  # nothing is known of what is offered


def test_objects_accept_alternatives_key_by_key():
    """The leaderboard's form of an object: each key has accepted values, and '' says it may be left out."""
    guest = {"age": Accepted((30, 31)), "name": Accepted(("Ann",), omittable=True)}
    expected = Expected((ExpectedCall("book", {"guest": Accepted((guest,))}),))
    verifier = Verifier({}, expected)
    assert verifier.verdict("book(guest={'age': 31})").passed
    assert verifier.verdict("book(guest={'age': 30, 'name': 'ANN'})").passed
    for wrong in ("{'age': 32}", "{'name': 'Ann'}", "{'age': 30, 'name': 'Bo'}", "{'age': 30, 'sex': 'f'}"):
        assert not verifier.verdict(f"book(guest={wrong})").passed, wrong
