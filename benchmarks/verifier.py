"""The verifier of tool calls: agreement with the leaderboard's own, speed, hostile answers. A part of `deficiency`.

Agreement is measured on texts: each gold, and at least ten mutants of it (`mutations`), as a model would have written
them. Mutants that hold code or values without a name are counted apart: the leaderboard evaluates the one and drops the
other, and we refuse both on purpose. Speeds are calls per CPU second of one thread, from text to verdict.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.hostile import REPEATED, hostile, watched
from benchmarks.leaderboard import NO_CALL, Case, Oracle, cases, load_oracle
from benchmarks.mutations import gold, mutants
from mixtura.toolcalls.expected import gold_calls
from mixtura.toolcalls.leaderboard import question_of
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.render import message, render
from mixtura.toolcalls.verify import Verifier

REFUSED = ("arithmetic", "bare name", "value without a name", "value without a name as well")  # endings of changes
# ending of a change → what the two do with it, and who is right
WHY = {
    "arithmetic": "the leaderboard runs eval() on the model's arithmetic; we compute nothing. Ours by intent",
    "bare name": "it takes a variable's name for a text; Python would raise NameError. Ours is right",
    "value without a name": "it drops the value unseen; no schema could place it. Ours is right",
    "value without a name as well": "it drops the value unseen; the call would fail. Ours is right",
    "decimal for an integer": "within objects and lists it compares by ==, so 12.0 is 12; at the top it refuses. "
    "Ours is consistent",
    "boolean as number": "within objects it compares by ==, so 0 is False. Ours is right",
    "boolean for a number": "within objects it compares by ==, so True is 1. Ours is right",
    "integer for a decimal": "it takes 26 for 26.0 alone, not in a list. Ours is right",
    "calls in another order": "its matching is greedy, and takes the wrong pair first. Ours is right",
}  # fmt: skip
NOISE = ("text in capitals", "text with other blanks", "text with forgiven signs", "text with an apostrophe")
FOLDING = (
    "it forgives signs and case in texts at two levels, and where the schema wants text; we do everywhere. A choice"
)
# its error → the classes of ours that say the same
SAME = {
    "missing_required": {"missing_required"},
    "unexpected_param": {"hallucinated_arg", "redundant_arg"},
    "missing_optional": {"missing_optional"},
    "wrong_func_name": {"hallucinated_tool", "wrong_tool"},
    "wrong_count": {"wrong_count", "no_call_when_needed"},
    "type_error": {"type_error"},
    "value_error": {"value_error"},
}


def measure(*, quick: bool, data: Path | None, repository: Path | None, seed: int = 0) -> dict[str, Any]:
    """Every figure of the verifier; agreement is None without the leaderboard's checker.

    Args:
        quick: fewer mutants and hostile answers.
        data: folder with the leaderboard's data; without it speeds are those of made-up questions.
        repository: checkout with the leaderboard's checker.
        seed: of mutants and hostile answers.
    """
    real = cases(data) if data else []
    oracle = load_oracle(repository) if repository else None
    found = speeds(real or made_up(2000), oracle)
    found |= (
        agreement(real, oracle, seeds=range(seed, seed + (1 if quick else 3)), most=12 if quick else 24)
        if real and oracle
        else {}
    )
    found |= no_call(cases(data, NO_CALL), oracle) if data and oracle else {}
    return {"verifier_agreement": None} | found | stand(20_000 if quick else 100_000, seed)


def made_up(count: int) -> list[Case]:
    """Questions with one or two calls of one to five arguments, where the leaderboard's are not at hand."""
    found = []
    for i in range(count):
        schemas = []
        for j in range(3):
            properties = {f"arg_{k}": {"type": ("string", "integer", "float")[k % 3]} for k in range(1 + (i + j) % 5)}
            schemas.append({"name": f"tool_{j}", "parameters": {"type": "dict", "properties": properties}})
        values = (f"value {i}", i, i + 0.5)
        names = [f"tool_{i % 3}", f"tool_{(i + 1) % 3}"][: 1 + i % 2]
        truth = [{n: {f"arg_{k}": [values[k % 3]] for k in range(1 + (i + int(n[-1])) % 5)}} for n in names]
        line = {"id": f"made_up_{i}", "question": [[{"role": "user", "content": "?"}]], "function": schemas}
        found.append(Case("parallel", question_of(line, truth), truth))
    return found


def speeds(
    questions: Sequence[Case], oracle: Oracle | None, sizes: Sequence[int] = (1000, 2000, 4000, 8000)
) -> dict[str, Any]:
    """Calls a second by form, of the best of three passes; and how the whole grows with the number of rows."""
    verifiers = [Verifier(c.question.tools, c.question.expected) for c in questions]
    golds = [gold_calls(c.question.expected) for c in questions]
    calls = sum(map(len, golds))
    forms: dict[str, list[Any]] = {
        "python": [render(g, "python") for g in golds],
        "json": [render(g, "json") for g in golds],
        "tags": [render(g, "tags") for g in golds],
        "message": [_on_the_wire(message(g)) for g in golds],
    }
    rates = {f: calls / _seconds(lambda v, a: v.verdict(a), verifiers, answers) for f, answers in forms.items()}
    wrong = [mutants(c.question, 1, 4) for c in questions]
    pairs = [(v, m.text) for v, ms in zip(verifiers, wrong, strict=True) for m in ms]
    made = sum(max(len(parse(text).calls), 1) for _, text in pairs)
    rates["mutants"] = made / _seconds(lambda v, a: v.verdict(a), *zip(*pairs, strict=True))
    for form, rate in rates.items():
        print(f"verify {form:<8} {rate:>10,.0f} calls/s", flush=True)
    exponent = _exponent(questions, sizes)
    print(f"cost by number of rows: exponent {exponent:.3f}", flush=True)
    found = {"verifier_calls_per_s": min(rates.values()), "verifier_row_exponent": exponent}
    if oracle:
        theirs = calls / _seconds(oracle, questions, forms["python"], passes=1)
        print(f"leaderboard     {theirs:>10,.0f} calls/s of the same texts", flush=True)
        found["verifier_speedup_vs_leaderboard"] = rates["python"] / theirs
    return found | {f"verifier_{f}_per_s": r for f, r in rates.items()}


def _on_the_wire(turn: dict[str, Any]) -> dict[str, Any]:
    """A message as a server sends it: arguments are JSON in a string."""
    functions = [c["function"] for c in turn["tool_calls"]]
    return turn | {"tool_calls": [{"function": f | {"arguments": json.dumps(f["arguments"])}} for f in functions]}


def _seconds(judge: Callable[..., Any], *columns: Sequence[Any], passes: int = 3) -> float:
    best = math.inf
    for _ in range(passes):
        start = time.process_time()
        for row in zip(*columns, strict=True):
            judge(*row)
        best = min(best, time.process_time() - start)
    return best


def _exponent(questions: Sequence[Case], sizes: Sequence[int]) -> float:
    """Of CPU seconds over rows, by least squares on logarithms: from schemas and golds to verdicts."""
    rows = [questions[i % len(questions)] for i in range(max(sizes))]
    texts = [gold(c.question) for c in rows]

    def whole(n: int) -> float:
        return _seconds(lambda c, t: Verifier(c.question.tools, c.question.expected).verdict(t), rows[:n], texts[:n])

    return _slope([(math.log(n), math.log(whole(n))) for n in sizes])


def _slope(points: Sequence[tuple[float, float]]) -> float:
    x, y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def agreement(questions: Sequence[Case], oracle: Oracle, *, seeds: Sequence[int], most: int) -> dict[str, Any]:
    """How often both say valid or both invalid, on golds and on mutants; each difference with its reason.

    Args:
        questions: with the leaderboard's own golds.
        oracle: its checker.
        seeds: of the mutants, each up to `most` of a case; a mutant that two seeds make counts once.
        most: mutants of a case and a seed.
    """
    alike: Counter[bool] = Counter()
    alike_refused: Counter[bool] = Counter()
    same_class: Counter[bool] = Counter()
    differences: dict[str, list[tuple[str, str]]] = defaultdict(list)
    classes: Counter[str] = Counter()
    golds: Counter[tuple[bool, bool]] = Counter()
    fewest, valid = most, 0
    for case in questions:
        verifier = Verifier(case.question.tools, case.question.expected)
        golds[verifier.verdict(gold(case.question)).passed, oracle(case, gold(case.question)).valid] += 1
        made = list({m.text: m for seed in seeds for m in mutants(case.question, seed, most)}.values())
        fewest = min(fewest, len(made))
        for mutant in made:
            ours, theirs = verifier.verdict(mutant.text), oracle(case, mutant.text)
            refused = mutant.change.endswith(REFUSED)
            (alike_refused if refused else alike)[ours.passed == theirs.valid] += 1
            valid += theirs.valid
            classes[ours.error] += 1
            if ours.passed != theirs.valid:
                differences[_why(mutant.change)].append((case.question.id, mutant.text))
            elif not refused and (names := _same(theirs.error)):
                same_class[ours.error in names] += 1
    _tell(golds, alike, alike_refused, same_class, classes, differences)
    everything = alike + alike_refused
    return {
        "verifier_agreement": _share(alike),
        "verifier_agreement_with_code": _share(everything),
        "verifier_class_agreement": _share(same_class),
        "verifier_golds_passed": golds[True, True] / golds.total(),
        "verifier_golds_nobody_passes": golds[False, False],
        "verifier_golds_judged_differently": golds[True, False] + golds[False, True],
        "verifier_mutants": everything.total(),
        "verifier_mutants_valid": valid,
        "verifier_fewest_mutants_of_a_case": fewest,
    }


def no_call(questions: Sequence[Case], oracle: Oracle) -> dict[str, Any]:
    """The questions where no call is right: prose, calls of each tool, and calls that are cut off."""
    alike: Counter[tuple[str, bool]] = Counter()
    for case in questions:
        verifier = Verifier(case.question.tools, case.question.expected)
        calls = [f"[{name}({next(iter(t.arguments.properties), 'x')}=1)]" for name, t in case.question.tools.items()]
        texts = [("prose", "None of these tools can do that."), ("prose", "[]"), *(("call", c) for c in calls)]
        for kind, text in [*texts, *(("call that is cut off", c[:-2]) for c in calls)]:
            alike[kind, verifier.verdict(text).passed == oracle(case, text).valid] += 1
    for kind in sorted({k for k, _ in alike}):
        print(f"no call is right: {kind}: {alike[kind, True]} of {alike[kind, True] + alike[kind, False]} judged alike")
    right, total = (
        sum(n for (k, a), n in alike.items() if k != "call that is cut off" and a in s) for s in ({True}, {True, False})
    )
    return {"verifier_no_call_agreement": right / total}


def _same(error: str) -> set[str]:
    """Our classes that say what its error says; none for a matching, where it names no class, or a failed decoding."""
    first, _, rest = error.partition(":")
    return SAME.get(rest if first.endswith(("checker", "no_order")) else first, set())


def _why(change: str) -> str:
    """The reason of a difference by the last part of the change."""
    last = change.rpartition(": ")[2]
    return FOLDING if last in NOISE else WHY.get(last, f"not explained: {last}")


def _share(counted: Counter[bool]) -> float | None:
    return counted[True] / counted.total() if counted else None


def _tell(
    golds: Counter[tuple[bool, bool]],
    alike: Counter[bool],
    alike_refused: Counter[bool],
    same_class: Counter[bool],
    classes: Counter[str],
    differences: dict[str, list[tuple[str, str]]],
) -> None:
    both, total = golds[True, True], golds.total()
    print(f"golds: {both} of {total} pass in both, {golds[False, False]} in neither", flush=True)
    print(f"mutants without code: {alike[True]} of {alike.total()} judged alike")
    print(f"mutants with code or nameless values: {alike_refused[True]} of {alike_refused.total()} judged alike")
    print(f"classes: {same_class[True]} of {same_class.total()} named alike")
    print("our classes: " + ", ".join(f"{k or 'passed'} {n}" for k, n in classes.most_common()))
    for why, examples in sorted(differences.items(), key=lambda item: -len(item[1])):
        case, text = min(examples, key=lambda e: len(e[1]))
        print(f"  {len(examples):>5} {why}\n        e.g. {case}: {text[:150]}", flush=True)


def stand(count: int, seed: int) -> dict[str, Any]:
    """Judge hostile answers: exceptions, audit events, and the worst growth of time with an answer's length."""
    question = question_of(
        {"id": "h", "question": [[]], "function": [{"name": "f", "parameters": {"properties": {"a": {}}}}]},
        [{"f": {"a": [[1, 2]]}}],
    )
    verifiers = [Verifier(question.tools, question.expected, mode) for mode in ("strict", "normalised")]
    answers = list(hostile(count, seed))
    verifiers[0].verdict(answers[0])
    raised: Counter[str] = Counter()
    start = time.process_time()
    with watched() as seen:
        for answer in answers:
            for verifier in verifiers:
                try:
                    str(verifier.verdict(answer))
                except Exception as e:  # noqa: BLE001 - to be counted
                    raised[type(e).__name__] += 1
    spent = time.process_time() - start
    growth = {family: _growth(make) for family, make in REPEATED.items()}
    worst = max(growth, key=growth.__getitem__)
    print(
        f"hostile: {count:,} answers, {sum(raised.values())} exceptions {dict(raised)}, {len(seen)} events {seen[:3]}"
    )
    print(f"hostile: {spent:.1f} s of CPU; worst growth {growth[worst]:.2f} ({worst})", flush=True)
    return {
        "hostile_answers": count,
        "hostile_exceptions": sum(raised.values()),
        "hostile_events": len(seen),
        "hostile_worst_exponent": growth[worst],
        "hostile_worst_family": worst,
    }


def _growth(make: Callable[[int], str]) -> float:
    """Exponent of CPU time over length, from 32,000 to 256,000 characters; 0 where both are too quick to tell."""
    short, long = make(32_000), make(256_000)
    a, b = (_seconds(parse, [text]) for text in (short, long))
    return math.log(b / a) / math.log(len(long) / len(short)) if b > 1e-3 else 0.0
