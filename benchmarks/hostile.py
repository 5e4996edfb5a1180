"""Answers that no well-meaning model writes, and a watch over what judging them sets off.

Families of text, each of any size: random bytes, broken Unicode, brackets nested to any depth, huge numbers, unclosed
strings, markers over and over, code that leaves a trace where anything evaluates it, and golds with random edits.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CODE = (
    "__import__('os').system('touch TRACE')",
    "open('TRACE', 'w')",
    "exec(\"open('TRACE', 'w')\")",
    "eval('__import__(\\'os\\').mkdir(\\'TRACE\\')')",
    "(lambda: open('TRACE', 'w'))()",
    "[open('TRACE', 'w') for _ in (1,)]",
    "f\"{open('TRACE', 'w')}\"",
    "'{0.__class__}'.format(1)",
    "().__class__.__base__.__subclasses__()",
    "9**9**9",
    "1 << 10**9",
    "'x' * 10**10",
    "print('TRACE')",
    "{**open('TRACE', 'w')}",
    "x if open('TRACE', 'w') else y",
    "(y := open('TRACE', 'w'))",
    "await x",
    "`touch TRACE`",
    "$(touch TRACE)",
    "'; touch TRACE; '",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "%s%n",
    "__TRACE__",
    "import os",
)
TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<think>",
    "</think>",
    "```json\n",
    "```",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function=f>",
    "</function>",
    "<parameter=a>",
    "</parameter>",
    "Action: f\n",
    "Action Input: {}\n",
    "f(",
    ")",
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    "'''",
    '"""',
    "\\",
    "\\u",
    "\\x",
    "\\N{",
    "=",
    ",",
    ":",
    ";",
    " ",
    "\n",
    "a=1",
    "a=",
    '{"name": "f", "arguments": {',
    '{"name": ',
    "None",
    "True",
    "-",
    "+",
    "1",
    "1e",
    "0x",
    ".",
    "_",
    "é",
    "\x00",
    "\ud800",
    "\u202e",
    "\u0301",
    "\U0001f600",
    "(A)",
    "\\boxed{",
    "answer is ",
    "####",
    "1,234",
    "/",
    "r'",
    "f'",
    "#",
    "//",
)


def _bytes(rng: random.Random, size: int) -> str:
    return rng.randbytes(size).decode("latin-1")


def _escaped_bytes(rng: random.Random, size: int) -> str:
    return rng.randbytes(size).decode("utf-8", "surrogateescape")


def _unicode(rng: random.Random, size: int) -> str:
    return "".join(chr(rng.randrange(0x110000)) for _ in range(min(size, 2000)))


def _tokens(rng: random.Random, size: int) -> str:
    return "".join(rng.choice(TOKENS) for _ in range(size // 4))


def _edited(rng: random.Random, size: int) -> str:
    """Calls in every form with pieces cut out, doubled or replaced."""
    text = rng.choice(SEEDS) * rng.choice([1, 1, 1, 1 + size // 200])
    for _ in range(rng.randint(1, 6)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + 20)
        text = text[:a] + rng.choice(["", text[a:b] * 2, rng.choice(TOKENS), rng.choice(CODE)]) + text[b:]
    return text


def _code(rng: random.Random, size: int) -> str:
    del size
    code = rng.choice(CODE)
    return rng.choice(
        [
            "{}",
            "f(a={})",
            "[f(a=[{}])]",
            "[f({})]",
            "f(a='x', b={{'k': {}}})",
            "[{}(a=1)]",
            "f({}=1)",
            "f(**{})",
            "<tool_call>{}</tool_call>",
            '{{"name": "f", "arguments": {}}}',
            "```python\n{}\n```",
            "f(a='''{}''' {})",
            "<function=f><parameter=a>{}</parameter></function>",
            "Action: f\nAction Input: {}",
        ]
    ).replace("{}", code)


SEEDS = (
    "[f(a=1, b='x'), g(c=[1, 2, {'k': None}])]",
    '<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": "x"}}\n</tool_call>',
    '[{"name": "f", "arguments": {"a": [1.5, true, null]}}]',
    "The answer is (B), that is 1,234.5.",
    "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    'Thought: x\nAction: f\nAction Input: {"a": 1}\n',
    '```json\n{"name": "f", "arguments": {}}\n```',
)

# what repeats → a text of about that many characters; where time is not linear in it, an answer can stall the judge
REPEATED: dict[str, Callable[[int], str]] = {
    "lists": lambda n: "f(a=" + "[" * n,
    "closed lists": lambda n: "f(a=" + "[" * (n // 2) + "]" * (n // 2) + ")",
    "parentheses": lambda n: "[f(a=" + "(" * n,
    "dicts": lambda n: "f(a=" + "{'a':" * (n // 5),
    "bare brackets": lambda n: "[" * n,
    "bare braces": lambda n: "{" * n,
    "json lists": lambda n: '{"name": "f", "arguments": {"a": ' + "[" * n,
    "json objects": lambda n: '{"name": "f", "arguments": ' + '{"a": ' * (n // 6),
    "python quotes": lambda n: "{'name': 'f', 'arguments': {'a': " + "[" * n,
    "digits": lambda n: f"f(a={'9' * n})",
    "json digits": lambda n: '{"name": "f", "arguments": {"a": ' + "9" * n + "}}",
    "hexadecimal": lambda n: f"f(a=0x{'f' * n})",
    "decimals": lambda n: f"f(a=0.{'1' * n}e{'9' * 9})",
    "exponent": lambda n: f"f(a=1e{'9' * n})",
    "signs": lambda n: f"f(a={'-' * n}1)",
    "string that does not end": lambda n: "f(a='" + "x" * n,
    "three quotes that do not end": lambda n: "f(a='''" + "x'" * (n // 2),
    "backslashes": lambda n: "f(a='" + "\\" * n + "')",
    "escapes": lambda n: "f(a='" + "\\u00e9" * (n // 6) + "')",
    "bad escapes": lambda n: "f(a='" + "\\N{x" * (n // 4) + "')",
    "strings in a row": lambda n: "f(a=" + "'x' " * (n // 4) + ")",
    "values without a name": lambda n: "f(" + "1," * (n // 2) + ")",
    "arguments": lambda n: "f(" + ",".join(f"a{i}=1" for i in range(n // 10)) + ")",
    "calls": lambda n: "[" + "f()," * (n // 4) + "]",
    "names": lambda n: "a." * (n // 2) + "f(a=1)",
    "dashes": lambda n: "a-" * (n // 2),
    "blanks": lambda n: "f(a" + " " * n + "b",
    "blanks before": lambda n: " " * n + "x",
    "newlines": lambda n: "f(a=1)" + "\n" * n + "x",
    "open tags": lambda n: "<tool_call>" * (n // 11),
    "pairs of tags": lambda n: "<tool_call></tool_call>" * (n // 23),
    "closing tags": lambda n: "<tool_call>" + "</tool_call>" * (n // 12),
    "reasoning": lambda n: "<think>" * (n // 7),
    "ends of reasoning": lambda n: "</think>" * (n // 8),
    "fences": lambda n: "```json\n" * (n // 8),
    "fences with blanks": lambda n: "```  \n  \n" * (n // 9),
    "open fence": lambda n: "```json\n" + "\n   " * (n // 4),
    "functions": lambda n: "<function=f></function>" * (n // 23),
    "parameters": lambda n: "<function=f>" + "<parameter=a>" * (n // 13),
    "actions": lambda n: "Action: f\n" * (n // 10),
    "inputs": lambda n: "Action: f\nAction Input: " + "\nObservation" * (n // 12),
    "markers": lambda n: "[TOOL_CALLS]" * (n // 12),
    "json in a row": lambda n: '{"name": "f", "arguments": {}} ' * (n // 31),
    "json strings": lambda n: '{"name": "f", "arguments": {"a": "' + "x" * n,
    "json keys": lambda n: '{"name": "f", "arguments": {' + '"a": 1, ' * (n // 8) + '"b": 2}}',
    "names in json": lambda n: '{"name":' * (n // 8),
    "null bytes": lambda n: "\x00" * n,
    "marks on a letter": lambda n: "a" + "\u0301" * n,
    "numbers": lambda n: "1,234.5 " * (n // 8),
    "slashes": lambda n: "1/" * (n // 2),
    "groups of digits": lambda n: "1" + ",111" * (n // 4) + "x",
    "letters in brackets": lambda n: "(A) " * (n // 4),
    "statements": lambda n: "answer is " * (n // 10),
    "boxes": lambda n: "\\boxed{" * (n // 7),
    "hashes": lambda n: "####" * (n // 4),
    "prose": lambda n: "so it goes " * (n // 11),
}
RANDOM = (_bytes, _escaped_bytes, _unicode, _tokens, _edited, _edited, _code, _code)


def hostile(count: int, seed: int) -> Iterator[str]:
    """As many hostile answers; one in twenty is of a repeated family, up to 10,000 deep, the others up to 400 long."""
    rng = random.Random(seed)
    families = list(REPEATED.values())
    for i in range(count):
        if i % 20:
            yield RANDOM[i % len(RANDOM)](rng, rng.choice([10, 60, 400]))
        else:
            yield families[i // 20 % len(families)](rng.choice([50, 1000, 10_000]))


WATCHED = (
    "compile",
    "exec",
    "import",
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pickle.",
    "marshal.",
    "code.",
    "shutil.",
    "urllib.",
    "webbrowser.",
)
_watching: list[list[str]] = []


@contextmanager
def watched() -> Iterator[list[str]]:
    """What the interpreter's audit events say that the block did: compile, run, import or open anything.

    The hook stays for the life of the process, as Python has it, and does nothing outside of a block.
    """
    if not _watching:
        _watching.append([])
        sys.addaudithook(_hook)
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def _hook(event: str, details: tuple[Any, ...]) -> None:
    if len(_watching) > 1 and event.startswith(WATCHED):
        _watching[-1].append(f"{event} {details[:1]!r}"[:200])
