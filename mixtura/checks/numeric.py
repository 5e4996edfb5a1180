r"""Numbers: the answer's last number, or the one in a known place, equals the gold's.

Numbers are read as text and compared as decimals, exactly or within a relative tolerance: `1,234.50`, `-3`, `2e3`,
`45%` (the sign is left out), `3/4`, `\frac{3}{4}`. A place is `####` (GSM8K, Cobbe et al. 2021) or `\boxed{}` (MATH,
Hendrycks et al. 2021); where the answer does not use it, it gives no number.
"""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException
from typing import ClassVar, Literal

from pydantic import Field

from mixtura import checking
from mixtura.checking import Message, Question, Row, Uncheckable, accepted_texts, dialogue, text_of
from mixtura.verdict import PASSED, Verdict, failed

MAX_DIGITS = 400
# the sign, whole part with or without thousands, decimals, exponent; then maybe `/ denominator`
NUMBER = re.compile(
    r"(?<![\w.])([-+−]?)[ \t]?[$€£]?(\d{1,3}(?:,\d{3})+(?![\d,])|\d++)?(\.\d++)?"
    r"(?:[eE]([-+]?\d{1,3})(?!\w)|(?![eE][-+]?\d))(?:[ \t]?/[ \t]?(\d+)(?![\w.]))?"
)
FRACTION = re.compile(r"\\[dt]?frac\{(\d{1,30})\}\{(\d{1,30})\}")
MARK = "####"
BOXED = "\\boxed{"


class Spec(checking.Spec):
    """Where the number stands and how near it must be."""

    place: Literal["last", "hashes", "boxed"] = Field(
        "last",
        description="last: the last number; hashes: the first after the last ####; boxed: in the last \\boxed{}.",
    )
    tolerance: float = Field(0.0, ge=0, le=1, description="Largest relative difference; 0 compares exactly.")
    answers: str | None = Field(None, description="Key of meta with the right number or numbers; else the last turn.")


class Numeric:
    """Equality of one number."""

    name: ClassVar[str] = "numeric"
    Spec: type[Spec] = Spec

    def question(self, spec: Spec, row: Row) -> Question:
        """Any of the accepted numbers is right; the gold's is read like an answer's."""
        prompt, gold = dialogue(row)
        place = spec.place if spec.answers is None else "last"
        texts = accepted_texts(spec.answers, row, gold)
        right = [n for t in texts if (n := number_in(t, place)) is not None]
        if not right:
            raise Uncheckable("no-number", f"the gold has no number in the place {place!r}")
        near = Decimal(spec.tolerance)

        def judge(answer: str | Message) -> Verdict:
            said = number_in(text_of(answer), spec.place)
            if said is None:
                return failed("no_answer")
            if any(abs(said - r) <= near * abs(r) for r in right):
                return PASSED
            return failed("wrong_answer", got=str(said), want=[str(r) for r in right])

        return Question(prompt, gold, judge)


def number_in(text: str, place: str = "last") -> Decimal | None:
    """The number of an answer, or None where there is none."""
    if place == "hashes":
        _, found, text = text.rpartition(MARK)
        text = text if found else ""
    elif place == "boxed":
        text = _boxed(text)
    numbers = [n for n in NUMBER.finditer(FRACTION.sub(r"\1/\2", text)) if n[2] or n[3]]
    if not numbers:
        return None
    sign, whole, decimals, exponent, denominator = numbers[0 if place == "hashes" else -1].groups()
    digits = (whole or "0").replace(",", "") + (decimals or "")
    if len(digits) > MAX_DIGITS or len(denominator or "") > MAX_DIGITS:
        return None
    try:
        value = Decimal(digits).scaleb(int(exponent or 0))
        value = value / Decimal(denominator) if denominator else value
    except DecimalException:  # division by zero, or beyond the range of decimals
        return None
    return -value if sign in ("-", "−") else value


def _boxed(text: str) -> str:
    r"""What the last `\boxed{}` holds, with its inner braces."""
    start = text.rfind(BOXED)
    if start < 0:
        return ""
    at = start + len(BOXED)
    depth = 1
    for end in range(at, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[at:end]
    return ""


CHECK = Numeric()
