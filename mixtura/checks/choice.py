r"""Multiple choice: which option an answer names, by its letter or by its text.

Read in this order, first that finds exactly one option wins: a statement (`the answer is (B)`, `Answer: B`,
`\boxed{B}`), a letter that leads (`B`, `B.`, `(B) because`), the text of an option as the whole answer, the one letter
in brackets, the one option whose text occurs. Where two are named, the answer is ambiguous, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from mixtura import checking
from mixtura.checking import Message, Question, Row, Uncheckable, dialogue, meta_of, text_of
from mixtura.checks.exact import forgiven
from mixtura.verdict import PASSED, Verdict, failed

LETTERS = "ABCDEFGHIJ"
STATED = re.compile(
    r"\b(?:answer|choice|option)(?:\s+(?:is|would be|must be))?\s*:?\s*\**\s*\(?([A-J])\)?(?![\w'’])"
    r"(?:\s*(?:or|and|/)\s*\(?([A-J])\)?(?![\w'’]))?"
    r"|\\boxed\{\s*(?:\\text\{)?\(?([A-J])\)?\}",
    re.IGNORECASE,
)
LEADING = re.compile(r"\(?([A-J])\)?(?:[.):,]|\s*$|\s+(?=[-–—(]|because\b|since\b|is\b|as\b))")
BRACKETED = re.compile(r"\(([A-J])\)")
OPTION = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]+(\S.*)$", re.MULTILINE)


class Spec(checking.Spec):
    """Where options and the right one stand."""

    options: str | None = Field(
        None, description="Key of meta with the list of options; else lines `A. text` of the last question."
    )
    answers: str | None = Field(
        None, description="Key of meta with the right one: a letter, an option's text, or its position from 0."
    )


class Choice:
    """The option that an answer names is the right one."""

    name: ClassVar[str] = "choice"
    Spec: type[Spec] = Spec

    def question(self, spec: Spec, row: Row) -> Question:
        """Options come from `meta` or from the question; the right one from `meta` or from the gold's text."""
        prompt, gold = dialogue(row)
        meta = meta_of(row)
        options = meta.get(spec.options) if spec.options else offered(text_of(prompt[-1]))
        if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
            raise Uncheckable("no-options", f"a choice needs 2 to {len(LETTERS)} options")
        options = [str(o) for o in options]
        right = _right(meta.get(spec.answers) if spec.answers else text_of(gold), options)

        def judge(answer: str | Message) -> Verdict:
            said = named(text_of(answer), options)
            if said == [right]:
                return PASSED
            if len(said) != 1:
                return failed("ambiguous" if said else "no_answer", got=[LETTERS[s] for s in said] or None)
            return failed("wrong_answer", got=LETTERS[said[0]], want=LETTERS[right])

        return Question(prompt, gold, judge)


def offered(question: str) -> list[str]:
    """The options that a question lists, A to J in order; [] where it lists none."""
    found = OPTION.findall(question)
    letters = [letter for letter, _ in found]
    return [text.strip() for _, text in found] if letters == list(LETTERS[: len(letters)]) else []


def named(answer: str, options: Sequence[str]) -> list[int]:
    """Positions of the options that an answer names; more than one where it is ambiguous."""
    letters = LETTERS[: len(options)]
    stated = [letter.upper() for groups in STATED.findall(answer) for letter in groups]
    if found := _positions(stated, letters):
        return found
    bracketed = _positions(BRACKETED.findall(answer), letters)
    if (leading := LEADING.match(answer)) and leading[1] in letters:
        return sorted({letters.index(leading[1]), *bracketed})
    said = forgiven(answer, "punctuation")
    texts = [forgiven(o, "punctuation") for o in options]
    if said and (whole := [i for i, t in enumerate(texts) if t == said]):
        return whole
    if bracketed:
        return bracketed
    within = [i for i, t in enumerate(texts) if t and f" {t} " in f" {said} "]
    return [i for i in within if not any(i != j and texts[i] in texts[j] for j in within)]  # `red` within `dark red`


def _positions(found: Sequence[str], letters: str) -> list[int]:
    return sorted({letters.index(f) for f in found if f and f in letters})


def _right(value: Any, options: Sequence[str]) -> int:
    """Position of the right option.

    Raises:
        Uncheckable: the gold names none or several.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    if isinstance(value, str) and len(found := named(value.strip(), options)) == 1:
        return found[0]
    raise Uncheckable("no-answer", f"the gold names no single option; it is {value!r}"[:200])


CHECK = Choice()
