"""Multiple-choice rows: a question, its options under letters, a cue; the answer is the right option's letter.

`Form` writes the prompt, for rows and for `generation/letters.py`, which scores a model on them: the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import keys
from mixtura.pipeline.multiple_choice import LETTERS, Form
from mixtura.pipeline.packed_text import pack, unpack
from mixtura.tasks.template import MissingField, Template, as_text, fields_of, found_in

MOST_DISTRACTORS = 50_000  # answers that distractors are drawn from


class Spec(contract.Spec):
    """Options of choices."""

    question: str = Field(default="{prompt}", description="The question: a template over the row's fields.")
    answer: str = Field(
        default="{completion}",
        description="The right option: a template whose value is its text, its letter, or its position from 0.",
    )
    options: str | None = Field(
        default=None, description="The field with the list of options; by default they are drawn from other answers."
    )
    count: int = Field(
        default=4, ge=2, le=len(LETTERS), description="Options of a question, where they are drawn from other answers."
    )
    among: str = Field(
        default="{task}", description="Wrong options are drawn from rows for which this template reads the same."
    )
    cue: str = Field(default="Answer:", description="What stands before the letter, in the language of the question.")
    order: Literal["hashed", "given"] = Field(
        default="hashed", description="'hashed': the right letter says nothing; 'given': as the list has them."
    )


class Choices:
    """Source: PalmX 2025 (arXiv:2509.02550), prompt of the task's repository.

    Differs: options may be drawn from other rows' answers; their order is hashed, so that the right one's letter is
    uniform; rows whose options repeat are refused.
    """

    name: ClassVar[str] = "choices"
    source: ClassVar[str] = "PalmX 2025, arXiv:2509.02550, its prompt; options' order is hashed"
    needs: ClassVar[Needs] = Needs()
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """The answers that wrong options are drawn from, by group, each once."""
        if spec.options is not None:
            return Fitted()
        answer, among = Template(spec.answer), Template(spec.among)
        found: set[tuple[str, str]] = set()
        for shard in shards:
            for row in shard.rows.iter_rows(named=True):
                fields = fields_of(row)
                if (said := _text(answer, fields)) is not None:
                    found.add((_text(among, fields) or "", said.strip()))
        pairs = sorted(found)
        if len(pairs) > MOST_DISTRACTORS:
            order = np.argsort(keys(pl.Series([f"{g}\0{a}" for g, a in pairs]), means.seed, "choices/pool"))
            pairs = sorted(pairs[i] for i in order[:MOST_DISTRACTORS].tolist())
        if not pairs:
            raise InputError("builder 'choices'", "needs rows with an answer", next_step="Change options.answer")
        groups, answers = zip(*pairs, strict=True)
        return Fitted({**pack("group", groups), **pack("answer", answers)}, {"answers": len(pairs)})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """One question a row."""
        built, form = Built(self.name), Form(cue=spec.cue)
        question, answer, among = Template(spec.question), Template(spec.answer), Template(spec.among)
        pool: dict[str, list[str]] = {}
        if spec.options is None:
            for group, said in zip(unpack(fitted.arrays, "group"), unpack(fitted.arrays, "answer"), strict=True):
                pool.setdefault(group, []).append(said)
        draws = keys(shard.rows["id"], means.seed, "choices").tolist()
        for row, draw in zip(shard.rows.iter_rows(named=True), draws, strict=True):
            fields = fields_of(row)
            try:
                asked, right = question.text(fields), answer.value(fields)
                if spec.options is None:
                    right = as_text(right).strip()
                    options = _drawn(pool.get(_text(among, fields) or "", []), right, spec.count, draw)
                else:
                    options, right = _given(found_in(fields, spec.options), right)
            except MissingField as missing:
                built.refuse(row, "missing-field", missing.field)
                continue
            except ValueError as wrong:
                built.refuse(row, "no-choice", str(wrong))
                continue
            order = (
                np.random.default_rng(draw).permutation(len(options)) if spec.order == "hashed" else range(len(options))
            )
            options = [options[i] for i in order]
            letter = LETTERS[options.index(right)]
            turns = [
                {"role": "user", "content": form.prompt(asked, options), "tool_calls": None},
                {"role": "assistant", "content": letter, "tool_calls": None},
            ]
            about = {"prompt_id": "letters", "options": options, "answer": options.index(right)}
            built.add([row], messages=turns, task=row["task"], about=about)
        return built


def _text(template: Template, fields: Mapping[str, Any]) -> str | None:
    try:
        return template.text(fields)
    except MissingField:
        return None


def _drawn(pool: list[str], right: str, count: int, draw: int) -> list[str]:
    """The right answer and others of its group, by a draw that is the row's own; the pool is sorted."""
    if len(pool) < count:
        raise ValueError(f"{len(pool)} different answers in its group, {count} needed")
    rng = np.random.default_rng([draw, 1])
    chosen = [right]
    while len(chosen) < count:
        if (other := pool[int(rng.integers(len(pool)))]) not in chosen:
            chosen.append(other)
    return chosen


def _given(options: Any, right: Any) -> tuple[list[str], str]:
    """Options and the right one's text, which the row gives as text, letter or position.

    Raises:
        ValueError: there are not 2 to 10 different options, or none of them is right.
    """
    if isinstance(options, Mapping):
        right = options.get(right, right) if isinstance(right, str) else right
        options = list(options.values())
    if not isinstance(options, list):
        raise ValueError("options must be a list")
    texts = [as_text(o).strip() for o in options]
    if not 2 <= len(texts) <= len(LETTERS) or len({t.casefold() for t in texts}) != len(texts) or not all(texts):
        raise ValueError(f"2 to {len(LETTERS)} different options are needed")
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(texts):
        return texts, texts[right]
    said = as_text(right).strip()
    if said in texts:
        return texts, said
    if len(said) == 1 and said.upper() in LETTERS[: len(texts)]:
        return texts, texts[LETTERS.index(said.upper())]
    raise ValueError("the right answer is none of the options")


BUILDER = Choices()
