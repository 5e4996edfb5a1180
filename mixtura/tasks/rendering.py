"""One step over one row: does the row belong to it, what is asked, what is answered, and is the answer valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from mixtura.errors import InputError
from mixtura.pipeline.builder import Row
from mixtura.tasks import schema, validity
from mixtura.tasks.pool import Step, Task
from mixtura.tasks.template import MissingField, Template, as_text, fields_of, found_in


@dataclass(frozen=True)
class Refusal:
    """Why a row gives nothing for a step: a code, and what tells a detail, which few rows need."""

    reason: str
    tell: Callable[[], str] = str

    @property
    def detail(self) -> str:
        """The detail."""
        return self.tell()


NO_STEP = Refusal("no-step")


@dataclass(frozen=True)
class Made:
    """What a row gives for a step: its inputs by name, in words, and the answer's text; None: a model writes it."""

    inputs: dict[str, str]
    answer: str | None


class Rendered:
    """A step, its templates and schema read once.

    Raises:
        InputError: the step names a check; checks judge a model's answers, and columns need none.
    """

    def __init__(self, task: Task) -> None:
        self.id, self.step = task.id, task.step
        step = task.step
        self.about = {"domain": task.domain, "action": f"{task.domain}/{task.action}", "kind": step.kind,
                      "target_source": "model" if step.made_by_model else "columns"}  # fmt: skip
        if step.checks and not step.made_by_model:
            named = [c.name for c in step.checks]
            raise InputError(f"step {task.id!r}", "must have no checks where its answers are columns", got=named)
        self._sources = None if step.rows.sources is None else frozenset(step.rows.sources)
        self._inputs = {n: Template(t) for n, t in step.input.items()}
        self._output = _templates(step)
        self._valid = validity.valid(step.output_schema)
        self._wordings = {lang: [Template(w) for w in ws] for lang, ws in step.instructions.items()}

    @staticmethod
    def fields(row: Row) -> dict[str, Any]:
        """What templates may name of a row; see `template.fields_of`."""
        return fields_of(row)

    def made(self, row: Row, fields: Mapping[str, Any]) -> Made | Refusal:
        """Inputs and answer, or why there are none."""
        if self._sources is not None and row["source"] not in self._sources:
            return NO_STEP
        for name, values in self.step.rows.where.items():
            if _value(fields, name) not in values:
                return NO_STEP
        try:
            inputs = {n: t.text(fields, self.step.words) for n, t in self._inputs.items()}
            if self._output is None:
                return Made(inputs, None)
            value = self._answer(fields)
        except MissingField as missing:
            return Refusal("missing-field", partial(str, missing.field))
        if not self._valid(value):
            return Refusal("schema", lambda: schema.problems(self.step.output_schema, value)[0])
        return Made(inputs, schema.write(self.step.output_schema, value))

    def languages(self, row: Row, draw: int, *, every: bool) -> list[str]:
        """Languages of the instruction: all, or the row's own where there is one, else one by the row's draw."""
        there = list(self._wordings)
        if every:
            return there
        own = (self.step.language or row.get("language") or "").split("-")[0].lower()
        alike = [lang for lang in there if lang.split("-")[0].lower() == own]
        return [alike[0] if alike else there[draw % len(there)]]

    def asked(self, made: Made, language: str, draw: int) -> tuple[str, int]:
        """The request and the number of its wording, which the row's draw decides.

        Inputs that the wording does not insert follow it: one alone as it is, several with their names.
        """
        wordings = self._wordings[language]
        number = (draw >> 8) % len(wordings)
        wording = wordings[number]
        rest = {n: v for n, v in made.inputs.items() if n not in wording.fields}
        said = [wording.text(made.inputs)] if wording.parts else []
        said += list(rest.values()) if len(rest) == 1 else [f"{n}: {v}" for n, v in rest.items()]
        return "\n\n".join(said), number

    def _answer(self, fields: Mapping[str, Any]) -> Any:
        output = self._output
        if isinstance(output, dict):
            return {n: t.value(fields, self.step.words) for n, t in output.items()}
        assert output is not None
        value = output.value(fields, self.step.words)
        return as_text(value).strip() if self._text else value

    @cached_property
    def _text(self) -> bool:
        return schema.is_text(self.step.output_schema)


def _templates(step: Step) -> Template | dict[str, Template] | None:
    if isinstance(step.output, dict):
        return {n: Template(t) for n, t in step.output.items()}
    return None if step.output is None else Template(step.output)


def _value(fields: Mapping[str, Any], name: str) -> Any:
    try:
        return found_in(fields, name)
    except MissingField:
        return None


def exchange(asked: str, answer: str) -> list[dict[str, Any]]:
    """The turns of a row."""
    return [
        {"role": "user", "content": asked, "tool_calls": None},
        {"role": "assistant", "content": answer, "tool_calls": None},
    ]
