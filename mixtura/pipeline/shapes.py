"""From a record as the file has it to the content of a row.

A recipe's `columns` map records explicitly. Without them the usual shapes are recognised by their keys: Alpaca,
ShareGPT, OpenAI messages, prompt and completion, plain text, and preference pairs. A file that could be two of them is
an error that names the choices; a record that does not fit the shape of its file is that record's misfit alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from mixtura.errors import InputError, nearest
from mixtura.pipeline.turns import Misfit, conversation, pair_of_answers, text_of, turn
from mixtura.recipe import Columns, Source

Value = Mapping[str, Any]
Content = Callable[[Value], dict[str, Any]]

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
CONVERSATIONS = ("messages", "conversations", "conversation")
ANSWERS = ("output", "response")  # of Alpaca's instruction
COMPLETIONS = ("completion", "response")  # of a prompt


class Shape:
    """What the records of one file become.

    Args:
        content: from a record to the row's content (`text` or `messages`, ...) and `meta`; it raises `Misfit`.
        together: the same of many records, column by column, where the shape is that of documents; it may raise
            `Misfit`, `KeyError` or `TypeError` where a record is unusual.
    """

    def __init__(self, content: Content, together: Callable[[list[Value]], dict[str, list[Any]]] | None = None) -> None:
        self.content, self.together = content, together

    def __call__(self, value: Value) -> dict[str, Any]:
        """One record's row.

        Raises:
            Misfit: it does not fit.
        """
        return self.content(value)

    def many(self, values: list[Value]) -> dict[str, list[Any]] | None:
        """What `[self(v) for v in values]` holds, by column; None where the records must be looked at one by one."""
        if self.together is None:
            return None
        try:
            return self.together(values)
        except (Misfit, KeyError, TypeError):  # one of them is unusual: whose misfit it is, and which, `self` says
            return None


def recognise(columns: Iterable[str], name: str) -> Shape:
    """The shape of a file, from the columns of its first good records.

    Args:
        columns: every key that occurs in them.
        name: of the file, for errors.

    Raises:
        InputError: the columns fit two shapes.
    """
    have = set(columns)
    fits: dict[str, Shape] = {}
    conversations = [c for c in CONVERSATIONS if c in have]
    preference = {"chosen", "rejected"} <= have
    if preference:
        prompt = next((c for c in ("prompt", "instruction", "question") if c in have), None)
        rivals = [c for c in (prompt, *conversations) if c]
        for key in rivals or [None]:
            fits[f"preference pair with prompt {key!r}" if key else "preference pair"] = _preference(key, have)
    else:
        for key in conversations:
            fits[f"conversation in {key!r}"] = _conversation(key, have)
        for answer in ANSWERS:
            if {"instruction", answer} <= have:
                fits[f"instruction and {answer}"] = _alpaca(answer)
        for completion in COMPLETIONS:
            if {"prompt", completion} <= have:
                fits[f"prompt and {completion}"] = _pair("prompt", completion)
        if "text" in have:
            fits["text"] = _text("text")
    if len(fits) > 1:
        raise InputError(
            f"file {name!r}",
            "must have columns of one shape",
            got=" or ".join(fits),
            next_step="Say which by columns of the source, such as {text: text} or {messages: messages}",
        )
    return next(iter(fits.values()), _unknown(sorted(have)))


def mapped(columns: Columns) -> Shape:
    """The shape that a recipe maps: each value a column or a template of `{columns}`."""
    fields = {k: _Field(f"columns.{k}", v) for k, v in columns.model_dump(exclude_none=True).items()}
    used = frozenset(c for f in fields.values() for c in f.columns)
    extras = {k: fields[k] for k in ("task", "language", "license", "split_group") if k in fields}
    content = _mapped_content(fields)

    def shape(value: Value) -> dict[str, Any]:
        row = content(value)
        for key, field in extras.items():
            row[key] = field.text(value, blank=True) or None
        row["meta"] = _meta(value, used)
        return row

    def together(values: list[Value]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"text": fields["text"].texts(values)}
        for key, field in extras.items():
            found[key] = [field.text(v, blank=True) or None for v in values]
        return found | {"meta": [_meta(v, used) for v in values]}

    return Shape(shape, together if "text" in fields else None)


def shape_of(spec: Source, first: Sequence[Value], name: str) -> Shape:
    """The shape of one file: mapped by the recipe, or recognised from the first good records.

    Raises:
        InputError: see `recognise`.
    """
    if spec.columns is not None:
        return mapped(spec.columns)
    return recognise((k for value in first for k in value), name)


def _mapped_content(fields: Mapping[str, _Field]) -> Content:
    if "text" in fields:
        text = fields["text"].text
        return lambda value: {"text": text(value)}
    tools = fields.get("tools")

    def content(value: Value) -> dict[str, Any]:
        head = []
        if "system" in fields and (system := fields["system"].text(value, blank=True)):
            head = [turn("system", system)]
        if "messages" in fields:
            head += conversation(fields["messages"].get(value))
        if "prompt" in fields:
            prompt = fields["prompt"].get(value)
            head += conversation(prompt) if isinstance(prompt, list) else [turn("user", text_of(prompt))]
        row: dict[str, Any] = {"messages": head}
        if "chosen" in fields:
            row |= pair_of_answers(head, fields["chosen"].get(value), fields["rejected"].get(value))
        elif "completion" in fields:
            head.append(_answer(fields["completion"].get(value)))
        if tools is not None:
            row["tools"] = _tools(value.get(tools.columns[0]))
        return row

    return content


class _Field:
    """A column, or a template of columns. Templates only insert values: no attribute, index or format is evaluated."""

    def __init__(self, key: str, pattern: str) -> None:
        self.key = key
        self.parts: list[tuple[bool, str]] = []  # (is a column, its name or the literal text)
        at = 0
        for found in PLACEHOLDER.finditer(pattern):
            self.parts.append((False, pattern[at : found.start()]))
            self.parts.append((True, found[1]) if found[1] else (False, found[0][0]))
            at = found.end()
        if at == 0:
            self.parts = [(True, pattern)]
        else:
            self.parts.append((False, pattern[at:]))
        self.columns = tuple(name for is_column, name in self.parts if is_column)
        self.plain = len(self.parts) == 1
        self.template = "".join("%s" if is_column else part.replace("%", "%%") for is_column, part in self.parts)

    def get(self, value: Value) -> Any:
        """The column's value, or the filled template.

        Raises:
            Misfit: a column is missing.
        """
        try:
            if self.plain:
                return value[self.columns[0]]
            found = [value[c] for c in self.columns]
            return self.template % tuple([v if type(v) is str else _inserted(v) for v in found])
        except KeyError as e:
            missing = str(e.args[0])
            said = f"{self.key} names column {missing!r}, but the record has {sorted(value)}"
            advice = _within(missing, value) or nearest(missing, value)
            raise Misfit("missing-column", f"{said}. {advice}" if advice else said) from e

    def text(self, value: Value, *, blank: bool = False) -> str:
        """The same as text; with `blank`, null and missing become ''.

        Raises:
            Misfit: it is null, missing or no text.
        """
        if blank and self.plain and value.get(self.columns[0]) is None:
            return ""
        found = self.get(value)
        if type(found) is str:  # nearly always
            return found
        if isinstance(found, bool | int | float) and blank:
            return _inserted(found)
        return text_of(found, self.key)

    def texts(self, values: list[Value]) -> list[str]:
        """What `text` finds in many records.

        Raises:
            KeyError: a record lacks a column.
            TypeError: a column that stands alone has other than text.
        """
        found = [[v[c] for v in values] for c in self.columns]
        if self.plain:
            return _only_texts(found[0])
        filled = [c if set(map(type, c)) == {str} else list(map(_inserted, c)) for c in found]
        return [self.template % parts for parts in zip(*filled, strict=True)]


def _only_texts(found: list[Any]) -> list[str]:
    if set(map(type, found)) <= {str}:
        return found
    raise TypeError("other than text")


def _within(column: str, value: Value) -> str:
    """Advice where the record is a whole file whose array holds the rows; else ''."""
    holds = (k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict) and column in v[0])
    found = next(holds, None)
    return f"The rows are in {found!r}: set format: json and options: {{records: {found}}}" if found else ""


def _inserted(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return "\n".join(value)
    return orjson.dumps(value, default=_as_json, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()


def _text(key: str) -> Shape:
    used = frozenset({key})

    def shape(value: Value) -> dict[str, Any]:
        text = value.get(key)
        if type(text) is not str:
            text = text_of(_need(value, key), key)
        return {"text": text, "meta": _meta(value, used)}

    def together(values: list[Value]) -> dict[str, list[Any]]:
        return {"text": _only_texts([v[key] for v in values]), "meta": [_meta(v, used) for v in values]}

    return Shape(shape, together)


def _conversation(key: str, have: set[str]) -> Shape:
    used = frozenset({key, "tools", "system"} if "system" in have else {key, "tools"})

    def shape(value: Value) -> dict[str, Any]:
        head = _system(value) if "system" in used else []
        row = {"messages": head + conversation(_need(value, key)), "meta": _meta(value, used)}
        if value.get("tools"):
            row["tools"] = _tools(value["tools"])
        return row

    return Shape(shape)


def _alpaca(answer: str) -> Shape:
    used = frozenset({"instruction", "input", answer, "system", "history"})

    def shape(value: Value) -> dict[str, Any]:
        prompt = text_of(_need(value, "instruction"), "instruction")
        if (given := value.get("input")) is not None and text_of(given, "input"):
            prompt = f"{prompt}\n\n{given}" if prompt else given
        messages = _system(value)
        for past in value.get("history") or []:
            if not (isinstance(past, list) and len(past) == 2):
                raise Misfit("wrong-type", "history must hold pairs of an instruction and an answer")
            messages += [turn("user", text_of(past[0], "history")), turn("assistant", text_of(past[1], "history"))]
        messages += [turn("user", prompt), _answer(_need(value, answer))]
        return {"messages": messages, "meta": _meta(value, used)}

    return Shape(shape)


def _pair(prompt: str, completion: str) -> Shape:
    used = frozenset({prompt, completion, "system"})

    def shape(value: Value) -> dict[str, Any]:
        asked = _need(value, prompt)
        head = conversation(asked) if isinstance(asked, list) else [turn("user", text_of(asked, prompt))]
        messages = [*_system(value), *head, _answer(_need(value, completion))]
        return {"messages": messages, "meta": _meta(value, used)}

    return Shape(shape)


def _preference(prompt: str | None, have: set[str]) -> Shape:
    used = frozenset({"chosen", "rejected", "tools", "system"} | ({prompt} if prompt else set()))

    def shape(value: Value) -> dict[str, Any]:
        head = _system(value)
        if prompt:
            asked = _need(value, prompt)
            head += conversation(asked) if isinstance(asked, list) else [turn("user", text_of(asked, prompt))]
            if prompt == "instruction" and value.get("input"):
                head[-1] = turn("user", f"{asked}\n\n{text_of(value['input'], 'input')}")
        row = pair_of_answers(head, _need(value, "chosen"), _need(value, "rejected"))
        if value.get("tools"):
            row["tools"] = _tools(value["tools"])
        row["meta"] = _meta(value, used | {"input"} if prompt == "instruction" else used)
        return row

    return Shape(shape)


def _unknown(have: list[str]) -> Shape:
    def shape(value: Value) -> dict[str, Any]:
        raise Misfit("no-shape", f"the columns {have} are no known shape. Map them by columns of the source")

    return Shape(shape)


def _need(value: Value, key: str) -> Any:
    if key not in value:
        raise Misfit("missing-column", f"the record lacks {key!r}, which others of its file have")
    return value[key]


def _system(value: Value) -> list[dict[str, Any]]:
    system = value.get("system")
    return [turn("system", text_of(system, "system"))] if system else []


def _answer(completion: Any) -> dict[str, Any]:
    if isinstance(completion, list):
        turns = conversation(completion)
        if len(turns) != 1:
            raise Misfit("wrong-type", "a completion must be one turn")
        return turns[0]
    answer = text_of(completion, "completion")
    if not answer.strip():
        raise Misfit("empty-answer", "the answer is empty, so there is nothing to learn from")
    return turn("assistant", answer)


def _tools(tools: Any) -> str | None:
    if tools is None or tools == "":
        return None
    try:
        value = orjson.loads(tools) if isinstance(tools, str) else tools
    except orjson.JSONDecodeError as e:
        raise Misfit("wrong-type", f"tools must be JSON ({e})") from e
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=_as_json).decode() if value else None


def _meta(value: Value, used: frozenset[str]) -> str | None:
    rest = dict(value)
    for key in used:
        rest.pop(key, None)
    return as_json(rest).decode() if rest else None


def as_json(value: Any) -> bytes:
    """JSON with sorted keys, of whatever a file can hold: dates as ISO, decimals and bytes as text."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=_as_json)
    except orjson.JSONEncodeError:
        return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _as_json(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """Only what JSON has: for integers beyond 64 bits, keys that are no strings, and broken strings."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if value is None or isinstance(value, bool | float) else _as_json(value)
