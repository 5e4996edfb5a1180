r"""Calls as Python writes them, `[f(a=1), g.h(b='x')]`, read without `ast` and without `eval`.

The leaderboard's own parser builds a syntax tree and evaluates arithmetic of the model's (`eval(ast.unparse(...))`).
Here only literals are values: an expression, an attribute, a lambda, a nested call or a bare name is unreadable, and
nothing is ever computed. One pass, each character looked at a bounded number of times.

The grammar, after Python's reference (2.4 literals, 6.3.4 calls), with MAX_DEPTH for nesting:
    calls   = "[" [call {"," call} [","]] "]" | call {("," | ";" | newline) call}
    call    = name "(" [item {"," item} [","]] ")"        item = [name "="] value
    value   = {string} | ["-" | "+"] number | True | False | None | list | tuple | dict | "(" value ")"
Dashes are allowed in names, since tools are named so; between brackets spaces too (`[Get Forecast(city="Rome")]`).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from mixtura.toolcalls.call import (
    MAX_ARGUMENTS,
    MAX_CALLS,
    MAX_DEPTH,
    MAX_DIGITS,
    Call,
    Unreadable,
    bounded,
    checked,
    no_surrogate,
)

BLANK = re.compile(r"\s*")
NAME = re.compile(r"[^\W\d][\w-]*(?:\.[^\W\d][\w-]*)*(?=\s*\()")  # of a tool, as Python or OpenAI allow it
LOOSE_NAME = re.compile(r"[^\W\d][^()\[\]{}'\"=,;\n]{0,127}(?=\()")  # with spaces, only between brackets
KEYWORD = re.compile(r"\s*([^\W\d][\w-]*)\s*=(?!=)")
# an argument that is nearly every argument: a name and a plain scalar, up to the comma or the closing parenthesis
SIMPLE = re.compile(
    r"\s*([^\W\d][\w-]*)\s*=\s*"
    r"(?:'([^'\\\n\r]*)'|\"([^\"\\\n\r]*)\"|(-?(?:0|[1-9][0-9]{0,17}))|(-?[0-9]{1,17}\.[0-9]{1,17})|(True|False|None))"
    r"\s*([,)])"
)
STRING = re.compile(  # possessive: what does not end is not tried again from behind
    r"([rRuU]?)(?:"
    r'"""([^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+)"""|' + r"'''([^'\\]*+(?:(?:\\.|'(?!''))[^'\\]*+)*+)'''|"
    r'"([^"\\\n\r]*+(?:\\.[^"\\\n\r]*+)*+)"|' + r"'([^'\\\n\r]*+(?:\\.[^'\\\n\r]*+)*+)')",
    re.DOTALL,
)
NUMBER = re.compile(r"[-+]?\s*(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9.][0-9_.]*(?:[eE][-+]?[0-9_]+)?)")
WORD = re.compile(r"(?:True|False|None)\b")
ESCAPE = re.compile(
    r"\\(\n|[\\'\"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}]{1,100}\}|.)", re.DOTALL
)
PLAIN_ESCAPES = {"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {
    c: c for c in "\\'\""
}
WORDS = {"True": True, "False": False, "None": None}


def starts_like_calls(text: str) -> bool:
    """Whether a text sets out to be Python calls: `f(` or `[f(`; an empty list counts as no call."""
    if text.startswith("["):
        start = BLANK.match(text, 1).end()  # type: ignore[union-attr]
        return bool(NAME.match(text, start) or LOOSE_NAME.match(text, start))
    name = NAME.match(text)
    return bool(name) and text[name.end() : name.end() + 1] == "("  # type: ignore[union-attr]


def python_calls(text: str) -> list[Call]:
    """Every call of a text that is nothing but calls.

    Raises:
        Unreadable: it is anything else.
    """
    return _Reader(text).calls()


def python_value(text: str) -> Any:
    """A text that is one literal, such as a dict with single quotes.

    Raises:
        Unreadable: it is anything else.
    """
    reader = _Reader(text)
    value = reader.value(0)
    reader.end()
    return bounded(value)


class _Reader:
    """A text and how far it was read."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def blank(self) -> str:
        """Skip white space; the next character, or ''."""
        here = self.text[self.at : self.at + 1]
        if "!" <= here <= "~":  # nearly always there is none
            return here
        self.at = BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at : self.at + 1]

    def fail(self, why: str) -> Unreadable:
        return Unreadable(f"{why} at character {self.at}")

    def end(self) -> None:
        if self.blank():
            raise self.fail("text after the end")

    def calls(self) -> list[Call]:
        closing = ""
        if self.blank() == "[":
            self.at, closing = self.at + 1, "]"
        found: list[Call] = []
        while not (closing and self.blank() == closing):
            found.append(self.call(loose=bool(closing)))
            if len(found) > MAX_CALLS:
                raise Unreadable(f"there are more than {MAX_CALLS} calls")
            before = self.at
            separator = self.blank()
            if separator == "," or (separator == ";" and not closing):
                self.at += 1
            elif closing:
                if separator != closing:
                    raise self.fail("no comma between calls")
            elif not separator or "\n" not in self.text[before : self.at]:
                break
            if not closing and not self.blank():
                break
        self.at += bool(closing)
        self.end()
        return found

    def call(self, *, loose: bool) -> Call:
        self.blank()
        name = NAME.match(self.text, self.at) or (LOOSE_NAME.match(self.text, self.at) if loose else None)
        if name is None:
            raise self.fail("no call")
        self.at = name.end()
        self.blank()
        self.at += 1
        arguments: dict[str, Any] = {}
        positional: list[Any] = []
        while (simple := SIMPLE.match(self.text, self.at)) or self.blank() != ")":
            if simple:
                key, value, after = _plain_argument(simple)
                self.at = simple.end()
                closed = after == ")"
            else:
                keyword = KEYWORD.match(self.text, self.at)
                if keyword:
                    self.at = keyword.end()
                key, value = keyword and keyword[1], self.value(0)
                closed = self.comma_or(")")
            if key is None:
                positional.append(value)
            elif key in arguments:
                raise self.fail(f"argument {key!r} is given twice")
            else:
                arguments[key] = value
            if closed:
                break
            if len(positional) > MAX_ARGUMENTS:
                raise Unreadable(f"a call has more than {MAX_ARGUMENTS} arguments")
        else:
            self.at += 1
        return checked(Call(name[0].strip(), arguments, tuple(positional)))

    def comma_or(self, closing: str) -> bool:
        """Past a comma, or past the closing bracket: then True. A comma may stand before the bracket."""
        if self.blank() == ",":
            self.at += 1
            if self.blank() != closing:
                return False
        if self.blank() != closing:
            raise self.fail(f"no comma and no {closing!r}")
        self.at += 1
        return True

    def value(self, depth: int) -> Any:
        lead = self.blank()
        if depth >= MAX_DEPTH and lead in "[{(" and lead:
            raise Unreadable(f"values nest deeper than {MAX_DEPTH}")
        if lead in "\"'" and lead:
            return self.string()
        if lead == "[":
            return self.items("]", depth)[0]
        if lead == "{":
            return self.entries(depth)
        if lead == "(":
            items, comma = self.items(")", depth)
            return items[0] if len(items) == 1 and not comma else tuple(items)
        if word := WORD.match(self.text, self.at):
            self.at = word.end()
            return WORDS[word[0]]
        if STRING.match(self.text, self.at):
            return self.string()
        return self.number()

    def items(self, closing: str, depth: int) -> tuple[list[Any], bool]:
        """Values up to the closing bracket, and whether a comma stood behind the last."""
        self.at += 1
        found: list[Any] = []
        if self.blank() == closing:
            self.at += 1
            return found, False
        while True:
            found.append(self.value(depth + 1))
            comma = self.blank() == ","
            if self.comma_or(closing):
                return found, comma

    def entries(self, depth: int) -> dict[str, Any]:
        self.at += 1
        found: dict[str, Any] = {}
        if self.blank() == "}":
            self.at += 1
            return found
        while True:
            key = self.value(depth + 1)
            if type(key) is not str:
                raise self.fail("an object has a key that is no text")
            if self.blank() != ":":
                raise self.fail("no colon")
            self.at += 1
            found[key] = self.value(depth + 1)
            if self.comma_or("}"):
                return found

    def string(self) -> str:
        """One literal, or several in a row, which Python joins."""
        parts = []
        while found := STRING.match(self.text, self.at):
            self.at = found.end()
            prefix, *bodies = found.groups()
            body = next(b for b in bodies if b is not None)
            parts.append(body if prefix in ("r", "R") or "\\" not in body else ESCAPE.sub(_unescaped, body))
            if self.blank() not in ('"', "'", "r", "R", "u", "U"):
                break
        if not parts:
            raise self.fail("a string does not end")
        return "".join(parts)

    def number(self) -> int | float:
        found = NUMBER.match(self.text, self.at)
        if found is None:
            raise self.fail("no literal")
        written = "".join(found[0].split())
        if len(written) > MAX_DIGITS:
            raise Unreadable(f"a number has more than {MAX_DIGITS} digits")
        after = self.text[found.end() : found.end() + 1]
        if after.isalnum() or after == "_":
            raise self.fail("no number")
        self.at = found.end()
        try:
            whole = written.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") or not set(written) & set(".eE")
            return int(written, 0) if whole else float(bounded(float(written)))
        except ValueError as e:
            raise self.fail("no number") from e


def _plain_argument(found: re.Match[str]) -> tuple[str, Any, str]:
    """Key, value, and what stands behind it, of a match of SIMPLE."""
    key, single, double, integer, decimal, word, after = found.groups()
    if single is not None:
        return key, single, after
    if double is not None:
        return key, double, after
    if integer is not None:
        return key, int(integer), after
    return key, WORDS[word] if decimal is None else float(decimal), after


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code in PLAIN_ESCAPES:
        return PLAIN_ESCAPES[code]
    try:
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code[0] in "xuU" and len(code) > 1:
            char = chr(int(code[1:], 16))
            no_surrogate(char)
            return char
        if code[0] == "N" and len(code) > 1:
            return unicodedata.lookup(code[2:-1])
    except (ValueError, OverflowError, KeyError) as e:
        raise Unreadable(f"a string has the bad escape \\{code}") from e
    if code in ("x", "u", "U", "N"):
        raise Unreadable(f"a string has the bad escape \\{code}")
    return f"\\{code}"  # Python keeps the backslash of an escape that it does not know
