"""Read the calls of an answer, whatever family of models wrote it.

| form | looks like | written by |
|---|---|---|
| message | `{"role": "assistant", "tool_calls": [...]}`, `function_call`, content parts of type `tool_use` | servers |
| tags | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` | Hermes, Qwen |
| xml | `<function=NAME><parameter=KEY>VALUE</parameter></function>`, within those tags or alone | Qwen Coder |
| json | `{"name": ..., "parameters": {...}}`, a list of them, or several in a row | Llama, Mistral |
| python | `[f(a=1), g(b='x')]`, `f(a=1)` | the leaderboard, ToolACE, API-Bank, Llama |
| react | `Action: NAME` and `Action Input: {...}` | ToolAlpaca, RoTBench |

Around them: reasoning that ends in `</think>` is left out, and so are code fences, the markers of families
(`[TOOL_CALLS]`, `<|python_tag|>`, `API-Request:`), and prose before tags or a fenced call. Other prose is an answer
without calls. Nothing raises: what tries to be a call and cannot be read is a `Reading` with a `problem`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixtura.toolcalls.call import MAX_CALLS, MAX_TEXT, Call, Form, Reading, Unreadable, bounded, checked, no_surrogate
from mixtura.toolcalls.json_text import call_of, calls_in, json_calls, json_value, json_values, looks_like_call
from mixtura.toolcalls.python_text import python_calls, starts_like_calls

TAGS = (("<tool_call>", "</tool_call>"), ("<TOOLCALL>", "</TOOLCALL>"), ("<function_call>", "</function_call>"))
MARKERS = ("[TOOL_CALLS]", "<|python_tag|>", "API-Request:", "<functioncall>")
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "</s>", "<end_of_turn>")
FENCE = re.compile(r"```[ \t]*(?:json|python|tool_call|tool_code)?[ \t]*\n(.*?)(?:\n[ \t]*)?```", re.DOTALL)
FUNCTION = re.compile(r"\s*<function=([^<>\n]{1,256})>")
PARAMETER = re.compile(r"\s*<parameter=([^<>\n]{1,256})>\n?")
NAMED = re.compile(r"""["'](?:name|api|api_name|tool_name|function)["']\s*:""")
ACTION = re.compile(r"^Action:[ \t]*([^\n]{1,256})$", re.MULTILINE)
ACTION_INPUT = re.compile(r"\s*Action[ _]Input:[ \t]*")


def parse(answer: str | Mapping[str, Any]) -> Reading:
    """The calls of an answer: its text, or a message as servers return it.

    Never raises: an answer of any other type, or beyond the bounds of `call`, is unreadable.
    """
    try:
        if isinstance(answer, str):
            return _text(answer)
        if isinstance(answer, Mapping):
            return _message(answer)
        return Reading(problem=f"an answer must be text or a message, not {type(answer).__name__}")
    except Unreadable as e:
        return Reading(problem=str(e))


def _message(message: Mapping[str, Any]) -> Reading:
    calls = message.get("tool_calls")
    if isinstance(calls, str) and calls:
        calls = json_value(calls)  # as rows keep them
    if calls is None and isinstance(message.get("function_call"), Mapping):
        calls = [message["function_call"]]
    content = message.get("content")
    if calls is None and isinstance(content, list):
        parts = [p for p in content if isinstance(p, Mapping)]
        calls = [p for p in parts if p.get("type") == "tool_use"] or None
        content = "\n".join(p["text"] for p in parts if isinstance(p.get("text"), str))
    if calls:
        if not isinstance(calls, Sequence) or len(calls) > MAX_CALLS:
            raise Unreadable(f"tool_calls must be a list of at most {MAX_CALLS}")
        found = [call_of(c) for c in calls]
        for call in found:
            bounded(call.name)
            bounded(call.arguments)
        return Reading(tuple(found), "message")
    return _text(content) if isinstance(content, str) else Reading()


def _text(text: str) -> Reading:
    if len(text) > MAX_TEXT:
        raise Unreadable(f"the answer is longer than {MAX_TEXT} characters")
    if not text.isascii():
        no_surrogate(text)
    text = _without_reasoning(text).strip()
    for token in END_TOKENS:
        text = text.removesuffix(token)
    if text[:1] in ("'", '"') and len(text) > 2 and text[0] == text[-1] and starts_like_calls(text[1:-1]):
        text = text[1:-1]  # the whole answer in quotes
    if starts_like_calls(text):  # before tags and fences, which may stand in its strings
        return Reading(tuple(python_calls(text)), "python")
    if not text.startswith(("{", "[")):
        for opening, closing in TAGS:
            if opening in text:
                return _tagged(text, opening, closing)
    marked = next((m for m in MARKERS if text.startswith(m)), "")
    text = text[len(marked) :].strip()
    if not marked and (action := ACTION.search(text)):
        return _react(text, action)
    if text.startswith("<function="):
        return Reading(tuple(_xml(text)), "xml")
    if marked or text.startswith(("{", "[")):
        return _bare(text, marked)
    fenced = FENCE.search(text) if "```" in text else None
    return _bare(fenced[1].strip(), marked) if fenced else Reading()


def _without_reasoning(text: str) -> str:
    _, ended, answer = text.partition("</think>")
    if ended:
        return answer
    if text.lstrip().startswith("<think>"):
        raise Unreadable("the reasoning does not end")
    return text


def _bare(text: str, marked: str) -> Reading:
    """Text that is a call from the first to the last character, or none; after a marker it must be one."""
    if starts_like_calls(text):
        return Reading(tuple(python_calls(text)), "python")
    if text.startswith("{") or (text.startswith("[") and text[1:].lstrip().startswith("{")):
        return _json(text, marked)
    if marked and text != "[]":
        raise Unreadable(f"no call after {marked}")
    return Reading()


def _json(text: str, marked: str) -> Reading:
    """JSON is a call where it has a name and arguments; JSON of another kind is an answer like prose."""
    try:
        values = json_values(text)
    except Unreadable:
        if marked or NAMED.search(text):
            raise
        return Reading()
    flat = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not marked and not looks_like_call(flat):
        return Reading()
    return Reading(tuple(calls_in(flat)), "json")


def _tagged(text: str, opening: str, closing: str) -> Reading:
    """What stands between tags; text before, between and after them is prose."""
    found: list[Call] = []
    form: Form = "tags"
    at = text.find(opening)
    while at >= 0:
        start = at + len(opening)
        end = text.find(closing, start)
        if end < 0:
            raise Unreadable(f"{opening} is not closed")
        inner = text[start:end].strip()
        if inner.startswith("<function="):
            form = "xml"
            found += _xml(inner)
        else:
            found += python_calls(inner) if starts_like_calls(inner) else json_calls(inner)
        if len(found) > MAX_CALLS:
            raise Unreadable(f"there are more than {MAX_CALLS} calls")
        at = text.find(opening, end)
    return Reading(tuple(found), form)


def _xml(text: str) -> list[Call]:
    """Functions and their parameters; a value is JSON where it reads as JSON, else text."""
    found: list[Call] = []
    at = 0
    while opening := FUNCTION.match(text, at):
        at = opening.end()
        arguments: dict[str, Any] = {}
        while parameter := PARAMETER.match(text, at):
            end = text.find("</parameter>", parameter.end())
            if end < 0:
                raise Unreadable("<parameter> is not closed")
            if parameter[1] in arguments:
                raise Unreadable(f"argument {parameter[1]!r} is given twice")
            arguments[parameter[1]] = _loose(text[parameter.end() : end].removesuffix("\n"))
            at = end + len("</parameter>")
        end = text.find("</function>", at)
        if end < 0 or text[at:end].strip():
            raise Unreadable("<function> is not closed")
        at = end + len("</function>")
        found.append(checked(Call(opening[1].strip(), arguments)))
        if len(found) > MAX_CALLS:
            raise Unreadable(f"there are more than {MAX_CALLS} calls")
    if not found or text[at:].strip():
        raise Unreadable("text between functions")
    return found


def _loose(text: str) -> Any:
    try:
        return json_value(text)
    except Unreadable:
        return text


def _react(text: str, action: re.Match[str]) -> Reading:
    """The first action: what stands behind its input was made up before the tool had answered."""
    given = ACTION_INPUT.match(text, action.end())
    if given is None:
        raise Unreadable("an action without an input")
    rest = text[given.end() :].strip()
    end = rest.find("\nObservation:")
    arguments = json_value((rest if end < 0 else rest[:end]).strip() or "{}")
    if not isinstance(arguments, dict):
        raise Unreadable("the arguments must be an object")
    return Reading((checked(Call(action[1].strip(), arguments)),), "react")
