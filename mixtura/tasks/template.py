"""What a task's templates read of a row, and how they are filled.

A template only inserts values: no attribute, index or format is evaluated. `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
MISSING = object()


class MissingField(ValueError):
    """A row lacks a field that a template inserts, or the field is empty; `field` names it."""

    def __init__(self, field: str) -> None:
        super().__init__(f"the row has no {field!r}")
        self.field = field


class Template:
    """Text with `{field}` in it.

    Args:
        pattern: the text; one without any `{field}` stands for itself.
    """

    def __init__(self, pattern: str) -> None:
        self.parts: list[tuple[bool, str]] = []  # (is a field, its name or the literal text)
        at = 0
        for found in PLACEHOLDER.finditer(pattern):
            self.parts.append((False, pattern[at : found.start()]))
            self.parts.append((True, found[1]) if found[1] else (False, found[0][0]))
            at = found.end()
        self.parts.append((False, pattern[at:]))
        self.parts = [p for p in self.parts if p[0] or p[1]]
        self.fields = tuple(name for is_field, name in self.parts if is_field)
        self.alone = len(self.parts) == 1 and self.parts[0][0]

    def value(self, fields: Mapping[str, Any], words: Mapping[str, Mapping[str, str]] | None = None) -> Any:
        """The field's own JSON value where the template is nothing but it, else the filled text.

        Args:
            fields: from `fields_of`.
            words: field → value → the words that stand for it.

        Raises:
            MissingField: a field is missing, null or blank.
        """
        if self.alone:
            return _worded(self.fields[0], found_in(fields, self.fields[0]), words)
        return "".join(
            as_text(_worded(part, found_in(fields, part), words)) if is_field else part for is_field, part in self.parts
        )

    def text(self, fields: Mapping[str, Any], words: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """The filled text; see `value`."""
        return as_text(self.value(fields, words))


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What templates may name of a row.

    Args:
        row: columns of `rows.ROW`.

    Returns:
        Each column that its file had beyond the mapped ones (`meta`) under its own name; then, and over it: `text`,
        `prompt` (last user turn), `completion` (last assistant turn, or the chosen one), `system`, `conversation`
        (every turn, `role: content`), `task`, `language`, `source`. What a row has not is absent.
    """
    fields: dict[str, Any] = orjson.loads(row["meta"]) if row.get("meta") else {}
    fields = dict(fields) if isinstance(fields, dict) else {"meta": fields}
    turns = [*(row.get("messages") or []), *(row.get("chosen") or [])]
    said = {t["role"]: t.get("content") for t in turns}  # the last of each role
    own = {
        "text": row.get("text"),
        "prompt": said.get("user"),
        "completion": said.get("assistant"),
        "system": said.get("system"),
        "conversation": "\n".join(f"{t['role']}: {t.get('content') or ''}" for t in turns) or None,
        **{k: row.get(k) for k in ("task", "language", "source")},
    }
    return fields | {k: v for k, v in own.items() if v is not None}


def found_in(fields: Mapping[str, Any], name: str) -> Any:
    """A field's value; `a.b` is the key b of an object a, unless a field has that whole name.

    Raises:
        MissingField: there is none, or it is null or blank.
    """
    value = fields.get(name, MISSING)
    if value is MISSING:
        value = fields
        for part in name.split("."):
            value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    if value is MISSING or value is None or (isinstance(value, str) and not value.strip()):
        raise MissingField(name)
    return value


def as_text(value: Any) -> str:
    """A value in running text: text as it is, texts line by line, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return "\n".join(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _worded(name: str, value: Any, words: Mapping[str, Mapping[str, str]] | None) -> Any:
    """The words for a value, where the task gives words for this field; a value without words is missing."""
    if words is None or name not in words:
        return value
    if (said := words[name].get(as_text(value))) is None:
        raise MissingField(name)
    return said
