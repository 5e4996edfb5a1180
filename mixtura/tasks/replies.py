"""A model's answer to a step: what it is told about the form, and whether what it says may be used.

Nothing is mended but what is no part of an answer: reasoning before it, a code fence around it, white space. What then
does not fit the step's schema is no answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import orjson

from mixtura.checking import text_of
from mixtura.generation.contract import Reply
from mixtura.generation.insisting import Problem
from mixtura.tasks import schema, validity

FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\Z", re.DOTALL)
# how models say no in place of an answer; kept narrow, as answers may be sorry and may say what cannot be done
NO = re.compile(
    r"\W*(as an ai\b|(i[’']?m|i am) (very )?sorry,? but i (can|am|do)|(sorry|apologies),? (but )?i (can|am)"
    r"|i ((can[’']?t|cannot|can not|won[’']?t|will not)|(am|[’']m) (unable|not able) to) "
    r"(help|assist|comply|fulfil|provide|answer|do that|discuss|continue)"
    r"|(很|非常)?抱歉，?(但)?(我)?(无法|不能)|对不起，?(但)?(我)?(无法|不能))",
    re.IGNORECASE,
)
LONGEST_SENTENCE = 400


class Reader:
    """Reads answers to one step.

    Args:
        output_schema: of the step.
    """

    def __init__(self, output_schema: Mapping[str, Any]) -> None:
        self.schema = dict(output_schema)
        self.text = schema.is_text(self.schema)
        self._valid = validity.valid(self.schema)

    @property
    def form(self) -> str:
        """What the model is told about the form of its answer; no part of the row that is made."""
        said = orjson.dumps(self.schema).decode()
        if not self.text:
            return f"Answer with JSON alone that fits this JSON Schema, without a code fence:\n{said}"
        if labels := self.schema.get("enum"):
            return "Answer with exactly one of these and nothing else:\n" + "\n".join(labels)
        rules = "" if set(self.schema) <= {"type", "minLength"} else f" The text must fit this JSON Schema: {said}"
        return f"Answer with the text of the answer alone.{rules}"

    def read(self, reply: Reply) -> str | Problem:
        """The answer's text as a row has it, which `schema.parse` gives a valid value of; or what is wrong."""
        if reply.finish == "refused":
            return Problem("declined", reply.reason or "the model did not take it", final=True)
        if reply.finish == "length":
            return Problem("cut-off", f"it was cut off after {reply.tokens} tokens; be shorter")
        said = _one_form(text_of(reply.text))
        if said.startswith("<think>"):
            return Problem("unfinished", "it ends before its reasoning does")
        if not self.text and (fenced := FENCE.match(said)):
            said = fenced[1].strip()
        if not said:
            return Problem("empty", "it is empty")
        if "\ufffd" in said:
            return Problem("broken-text", "it has characters that cannot be read")
        if self.text and "enum" not in self.schema and NO.match(said):
            return Problem("refusal", "it is no answer but a refusal", final=True)
        return self._checked(said)

    def _checked(self, said: str) -> str | Problem:
        try:
            # written anew and read once more: what a row holds is checked, not what the model wrote
            text = _one_form(schema.write(self.schema, schema.parse(self.schema, said)))
            value = schema.parse(self.schema, text)
        except (
            ValueError,
            TypeError,
        ) as e:  # orjson's own errors, for what is too deep to be written, are of both kinds
            return Problem("not-json", str(e)[:LONGEST_SENTENCE])
        if not self._valid(value):
            return Problem("schema", "; ".join(schema.problems(self.schema, value))[:LONGEST_SENTENCE])
        return text


def _one_form(text: str) -> str:
    """As clean will leave it, so that a length that was checked stays."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
