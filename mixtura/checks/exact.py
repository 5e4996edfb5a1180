"""Exact match: the answer is one of the right texts, after the differences that the recipe forgives."""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar, Literal

from pydantic import Field

from mixtura import checking
from mixtura.checking import Message, Question, Row, accepted_texts, dialogue, text_of
from mixtura.verdict import PASSED, Verdict, failed

BLANKS = re.compile(r"\s+")
NO_WORD = re.compile(r"[^\w\s]|_")

Forgive = Literal["nothing", "blanks", "case", "punctuation"]


class Spec(checking.Spec):
    """What counts as the same text."""

    forgive: Forgive = Field(
        "blanks",
        description="nothing; blanks: runs of white space, and at the ends; case: these and capital letters; "
        "punctuation: these and every sign that is no letter or digit.",
    )
    answers: str | None = Field(None, description="Key of meta with the right text or texts; else the last turn.")


class Exact:
    """Equality of texts, in Unicode's NFC."""

    name: ClassVar[str] = "exact"
    Spec: type[Spec] = Spec

    def question(self, spec: Spec, row: Row) -> Question:
        """Any of the accepted texts is right."""
        prompt, gold = dialogue(row)
        right = {forgiven(t, spec.forgive) for t in accepted_texts(spec.answers, row, gold)}

        def judge(answer: str | Message) -> Verdict:
            said = forgiven(text_of(answer), spec.forgive)
            if said in right:
                return PASSED
            return failed("no_answer") if not said else failed("wrong_answer", got=said, want=sorted(right))

        return Question(prompt, gold, judge)


def forgiven(text: str, forgive: Forgive) -> str:
    """A text without the differences that are forgiven."""
    text = unicodedata.normalize("NFC", text)
    if forgive == "nothing":
        return text
    if forgive == "punctuation":
        text = NO_WORD.sub(" ", text)
    text = BLANKS.sub(" ", text).strip()
    return text if forgive == "blanks" else text.casefold()


CHECK = Exact()
