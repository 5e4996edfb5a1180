"""Calls as text or as a message, in the form that a model or a trainer expects; `parse` reads each of them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mixtura.toolcalls.call import Call

Style = Literal["python", "json", "tags"]


def render(calls: Sequence[Call], style: Style = "python") -> str:
    """The text of an answer that makes these calls.

    Args:
        calls: at least one; values without a name can only be written as Python.
        style: python: `[f(a=1)]`, the leaderboard's; json: a list of `{name, arguments}`; tags: Hermes'.
    """
    if style == "python":
        return f"[{', '.join(map(_python, calls))}]"
    objects = [json.dumps({"name": c.name, "arguments": dict(c.arguments)}, ensure_ascii=False) for c in calls]
    if style == "json":
        return f"[{', '.join(objects)}]"
    return "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)


def message(calls: Sequence[Call], content: str | None = None) -> dict[str, Any]:
    """An assistant's turn as chat templates take it: arguments are objects."""
    return {"role": "assistant", "content": content, "tool_calls": [_function(c) for c in calls]}


def _function(call: Call) -> Mapping[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _python(call: Call) -> str:
    given = [*map(repr, call.positional), *(f"{k}={v!r}" for k, v in call.arguments.items())]
    return f"{call.name}({', '.join(given)})"
