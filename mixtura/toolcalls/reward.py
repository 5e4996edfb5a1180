"""Grade a verdict: how near a wrong answer came, for a search or a preference margin.

After TL-Training (Ye et al. 2025, arXiv 2412.15495, the table of rewards in the authors' code), first that fits wins:

| a call | reward |
|---|---|
| unreadable, missing where one is needed, made where none is, or of a tool that is not offered | -2 |
| of the wrong tool, or one too many or too few | -1.5 |
| names arguments that do not exist, and gives one too many, and lacks one | -1.8 |
| names arguments that do not exist, and gives one too many or lacks one | -1.3 |
| gives one too many and lacks one | -1 |
| names arguments that do not exist | -0.8 |
| gives one too many, or lacks one | -0.5 |
| has the right names, and a wrong value or type | -0.25 |
| right | +1 |

What differs: theirs judges one call per answer; ours is the mean over the calls that an answer makes or should make. A
value without a name counts as an argument that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixtura.verdict import Failure, Verdict

RIGHT, VALUE, WRONG_TOOL, WORST = 1.0, -0.25, -1.5, -2.0
WHOLE = {"parse_error", "no_call_when_needed", "call_when_not_needed"}
INVENTED = {"hallucinated_arg", "positional_arg"}
LACKING = {"missing_required", "missing_optional"}
# (invented, redundant, lacking) arguments → reward
ARGUMENTS = {
    (True, True, True): -1.8, (True, True, False): -1.3, (True, False, True): -1.3, (True, False, False): -0.8,
    (False, True, True): -1.0, (False, True, False): -0.5, (False, False, True): -0.5, (False, False, False): VALUE,
}  # fmt: skip


def graded_reward(verdict: Verdict, calls: int = 1) -> float:
    """The reward of an answer, in [-2, 1].

    Args:
        verdict: of `toolcalls.verify`.
        calls: that a right answer makes; with several, those that are right count for the mean.
    """
    if verdict.passed:
        return RIGHT
    if verdict.error in WHOLE:
        return WORST
    by_call: dict[int | None, list[Failure]] = {}
    for failure in verdict.failures:
        by_call.setdefault(failure.call, []).append(failure)
    count = next((f for f in by_call.pop(None, []) if f.error == "wrong_count"), None)
    made, wanted = (count.got, count.want) if count else (max(calls, 1), max(calls, 1))
    surplus = abs(made - wanted)
    graded = [_of_call(failures) for failures in by_call.values()]
    right = max(min(made, wanted) - len(graded), 0)
    return (sum(graded) + surplus * WRONG_TOOL + right * RIGHT) / (len(graded) + surplus + right)


def _of_call(failures: Sequence[Failure]) -> float:
    errors = {f.error for f in failures}
    if "hallucinated_tool" in errors:
        return WORST
    if "wrong_tool" in errors:
        return WRONG_TOOL
    return ARGUMENTS[bool(errors & INVENTED), "redundant_arg" in errors, bool(errors & LACKING)]
