"""Conversations of every dialect in one form: role, content, tool_calls."""

from __future__ import annotations

import re
from typing import Any

import orjson

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
    "function_call": "assistant",
}  # fmt: skip

SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")  # the transcripts of Bai et al. 2022 (hh-rlhf)


class Misfit(ValueError):
    """A record does not fit the shape of its file; `str()` is `code: sentence`, as in quarantine."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code


def turn(role: str, content: str | None, tool_calls: str | None = None) -> dict[str, Any]:
    """One message; `tool_calls` is JSON."""
    return {"role": role, "content": content, "tool_calls": tool_calls}


def text_of(value: Any, key: str = "the value") -> str:
    """Text, or a list of texts joined by newlines.

    Raises:
        Misfit: it is anything else.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise Misfit("null", f"{key} is null where others of its file have text")
    try:
        if isinstance(value, list):
            return "\n".join(value)
    except TypeError:
        pass  # not only texts
    raise Misfit("wrong-type", f"{key} must be text; the record has {type(value).__name__}")


def conversation(value: Any) -> list[dict[str, Any]]:
    """Turns of OpenAI (`role`, `content`) or ShareGPT (`from`, `value`) in one form.

    Args:
        value: a list of turns, one turn, a JSON string of such a list, or a Human/Assistant transcript.

    Raises:
        Misfit: no turn, an unknown role, or content that is no text.
    """
    if isinstance(value, str):
        return transcript(value) or _from_json(value)
    turns = [value] if isinstance(value, dict) else value
    if isinstance(turns, list) and turns and all(isinstance(t, list) for t in turns):  # BFCL: a list for each step
        turns = [t for step in turns for t in step]
    if not isinstance(turns, list):
        raise Misfit("wrong-type", f"a conversation must be a list of turns; the record has {type(value).__name__}")
    if not turns:
        raise Misfit("empty", "the conversation has no turn")
    return [_turn(t) for t in turns]


def transcript(text: str) -> list[dict[str, Any]]:
    """Turns of a transcript whose paragraphs start with `Human:` and `Assistant:`; [] where the text is none."""
    pieces = SPEAKER.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        return []
    return [turn(ROLES[who.lower()], said) for who, said in zip(pieces[1::2], pieces[2::2], strict=True)]


def pair_of_answers(prompt: list[dict[str, Any]], chosen: Any, rejected: Any) -> dict[str, Any]:
    """A preference row: `messages` is what both answers share, `chosen` and `rejected` are the rest of each.

    Args:
        prompt: turns known from a column of their own; may be empty.
        chosen: an answer's text, a turn, turns, or a transcript that repeats the prompt.
        rejected: the same.

    Raises:
        Misfit: see `conversation`.
    """
    both = [_as_turns(a) for a in (chosen, rejected)]
    if prompt:
        asked = [t for t in prompt if t["role"] != "system"]
        if all(len(a) > len(asked) and a[: len(asked)] == asked for a in both):  # the answers repeat the prompt
            both = [a[len(asked) :] for a in both]
    else:
        shared, most = 0, min(len(a) for a in both) - 1
        while shared < most and both[0][shared] == both[1][shared]:
            shared += 1
        prompt, both = both[0][:shared], [a[shared:] for a in both]
    return {"messages": prompt or None, "chosen": both[0], "rejected": both[1]}


def _as_turns(answer: Any) -> list[dict[str, Any]]:
    if isinstance(answer, str):
        return transcript(answer) or [turn("assistant", answer)]
    return conversation(answer)


def _turn(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise Misfit("wrong-type", f"a turn must be an object; the record has {type(said).__name__}")
    speaker = said.get("role") or said.get("from")
    speaker = speaker.lower() if isinstance(speaker, str) else speaker
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise Misfit("bad-role", f"a turn's role must be one of {sorted(set(ROLES))}; the record has {speaker!r}")
    content = said["content"] if "content" in said else said.get("value")
    if speaker == "function_call":
        return turn(role, None, _calls(content))
    calls = said.get("tool_calls")
    calls = _calls(calls, wrap=False) if calls else None
    if content is None and calls is None:
        raise Misfit("null", "a turn has neither content nor tool_calls")
    return turn(role, None if content is None else _content(content), calls)


def _content(content: Any) -> str:
    """Text, or the text parts of OpenAI's list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Misfit("wrong-type", f"a turn's content must be text; the record has {type(content).__name__}")
    texts = [p if isinstance(p, str) else _part(p) for p in content]
    return "\n".join(texts)


def _part(part: Any) -> str:
    text = (part.get("text") or part.get("value")) if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise Misfit("not-text", "a turn has a part that is no text, such as an image")
    return text


def _calls(calls: Any, *, wrap: bool = True) -> str:
    """Tool calls as JSON in OpenAI's form; ShareGPT has bare `{name, arguments}`."""
    try:
        value = orjson.loads(calls) if isinstance(calls, str) else calls
    except orjson.JSONDecodeError as e:
        raise Misfit("bad-tool-call", f"a tool call must be JSON ({e})") from e
    value = value if isinstance(value, list) else [value]
    if not all(isinstance(c, dict) for c in value):
        raise Misfit("bad-tool-call", "a tool call must be an object")
    if wrap:
        value = [c if "function" in c else {"type": "function", "function": c} for c in value]
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _from_json(text: str) -> list[dict[str, Any]]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise Misfit("wrong-type", "a conversation must be a list of turns; the record has text") from e
    if not isinstance(value, list):
        raise Misfit("wrong-type", "a conversation must be a list of turns; the record has text")
    return conversation(value)
