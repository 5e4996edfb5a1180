"""Conversations to tokens through any chat template, knowing whose words each token is.

The contents of the turns are marked with two characters that the conversation does not hold, and rendered; where the
marks lie, the turns lie. That takes two renderings, whatever the template does around the contents. A template that
looks into the contents (some drop an earlier turn's reasoning) shows by a lost mark, or by a text that differs from
the plain rendering: then an answer is what its conversation has beyond its prompt, and a template that rewrites the
past gives a reading per answer, each as the model would meet it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mixtura.errors import InputError
from mixtura.pipeline.attention.options import FIRST, RESPONSE, SYSTEM, TEMPLATE, TOOL, USER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KIND_OF = {"system": SYSTEM, "user": USER, "tool": TOOL, "assistant": RESPONSE}
PRIVATE = range(0xE000, 0xF8FF)  # code points without a meaning: marks

# For tokenizers without a template: the text form of a mixture, with an end token after each answer.
PLAIN_TEMPLATE = """\
{{- bos_token or '' }}
{%- for message in messages %}
{{- message.role | capitalize + ': ' + (message.content or '') }}
{%- if message.tool_calls %}{{- message.tool_calls | tojson }}{%- endif %}
{%- if message.role == 'assistant' %}{{- eos_token or '' }}{%- endif %}
{{- '\\n\\n' if not loop.last }}
{%- endfor %}
{%- if add_generation_prompt %}{{- ('\\n\\n' if messages else '') + 'Assistant: ' }}{%- endif %}"""

# Why an answer has no score.
EMPTY, TRUNCATED, NO_USER = "empty-answer", "truncated", "no-user-text"


class Refused(Exception):
    """A conversation that cannot be read; `reason` is the code it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True)
class Answer:
    """Tokens `begin` to `end` (exclusive) of a reading: an answer and the end token that follows it.

    turn: its position in the conversation's messages.
    """

    turn: int
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Reading:
    """Tokens as the model meets them.

    tokens: i32[n]; kinds: i8[n], places in `KINDS`; answers: those that can be scored, in order.
    """

    tokens: np.ndarray
    kinds: np.ndarray
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Read:
    """One conversation.

    turns: positions of the answers in its messages.
    readings: usually one, which holds every answer that can be scored.
    unscored: turn → reason, for the others.
    refused: why there is no reading at all.
    """

    turns: tuple[int, ...]
    readings: tuple[Reading, ...] = ()
    unscored: dict[int, str] = field(default_factory=dict)
    refused: str | None = None


Span = tuple[int, int]  # characters, end exclusive


class Transcriber:
    """A tokenizer with its chat template, or `PLAIN_TEMPLATE` where it has none.

    Args:
        tokenizer: a fast one, for its offsets; it is not changed.
        window: tokens that the model reads; an answer that ends beyond has no score.

    Raises:
        InputError: the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        if not tokenizer.is_fast:
            raise InputError("tokenizer", "must be a fast one (tokenizer.json)", got=type(tokenizer).__name__)
        self.tokenizer, self.window = tokenizer, window
        self._special = frozenset(tokenizer.all_special_ids)
        self._control = tuple(t for t in tokenizer.all_special_tokens if t.strip())

    def read(
        self, messages: Sequence[dict[str, Any]], tools: list[Any] | None = None, *, needs_user: bool = True
    ) -> Read:
        """Render and tokenize one conversation.

        Args:
            messages: `role`, `content` and, parsed, `tool_calls`; roles as in `mixtura.rows`.
            tools: parsed tool definitions, for the template.
            needs_user: whether an answer before which the user said nothing is left unscored.

        Returns:
            Its readings; where there is none, `refused` says `control-token-in-content` (it would become the token and
            forge a turn), `template-refuses` or `turns-not-separable`.
        """
        messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
        turns = tuple(i for i, m in enumerate(messages) if m["role"] == "assistant")
        if not turns:
            return Read(turns)
        try:
            self._check_contents(messages)
            pieces = self._marked(messages, tools) or self._differences(messages, tools)
        except Refused as e:
            return Read(turns, refused=e.reason, unscored=dict.fromkeys(turns, e.reason))
        unscored = {i: EMPTY for i in turns if not _says_something(messages[i])}
        read = [self._tokenize(messages, piece, unscored, needs_user=needs_user) for piece in pieces]
        return Read(turns, tuple(r for r in read if r.answers), unscored)

    def _check_contents(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            content = message.get("content") or ""
            if hit := next((t for t in self._control if t in content), None):
                raise Refused("control-token-in-content", hit)

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            made = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=None if self.tokenizer.chat_template else PLAIN_TEMPLATE,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as e:  # each refuses in its own way
            raise Refused("template-refuses", str(e)) from e
        return str(made)

    def _marked(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> list[_Piece]:
        """One piece, or none where the marks do not come through as they went in."""
        if any(m.get("tool_calls") for m in messages if m["role"] == "assistant"):
            return []  # calls are rendered beside the content, where no mark can be put
        held = {c for m in messages for c in m.get("content") or ""}
        opening, closing = islice((chr(c) for c in PRIVATE if chr(c) not in held), 2)
        said = [i for i, m in enumerate(messages) if (m.get("content") or "").strip()]
        marked = list(messages)
        for i in said:
            content = messages[i]["content"]
            core = content.strip()  # templates trim: outside of the marks
            marked[i] = messages[i] | {"content": content.replace(core, f"{opening}{core}{closing}", 1)}
        text = self._render(messages, tools)
        spans = _between(self._render(marked, tools), opening, closing)
        if spans is None or len(spans) != len(said):
            return []
        clean = [text[a:b] == messages[i]["content"].strip() for i, (a, b) in zip(said, spans, strict=True)]
        if not all(clean):
            return []
        answers = tuple(i for i in said if messages[i]["role"] == "assistant")
        return [_Piece(text, dict(zip(said, spans, strict=True)), answers)]

    def _differences(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> list[_Piece]:
        """An answer is what `messages[: i + 1]` renders beyond the prompt of `messages[:i]`."""
        whole = self._render(messages, tools)
        found: list[tuple[int, str, Span]] = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or not _says_something(message):
                continue
            prompt = self._render(messages[:i], tools, prompt=True)
            answered = self._render(messages[: i + 1], tools)
            if not answered.startswith(prompt):
                raise Refused("turns-not-separable", prompt[-80:])
            found.append((i, answered, (len(prompt), len(answered.rstrip()))))
        if all(whole.startswith(answered) for _, answered, _ in found):
            answers = {i: span for i, _, span in found}
            return [_Piece(whole, _contents(messages, whole, answers), tuple(answers), ends_inside=True)]
        return [
            _Piece(answered, _contents(messages[: i + 1], answered, {i: span}), (i,), ends_inside=True)
            for i, answered, span in found
        ]

    def _tokenize(
        self, messages: list[dict[str, Any]], piece: _Piece, unscored: dict[int, str], *, needs_user: bool
    ) -> Reading:
        """The piece's reading; answers that it cannot give go into `unscored`."""
        made = self.tokenizer(piece.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: Any = made["input_ids"]
        tokens = np.array(ids, np.int32)
        offsets = np.array(made["offset_mapping"], np.int64).reshape(-1, 2)
        kinds = np.full(len(tokens), TEMPLATE, np.int8)
        answers = []
        # a token that two turns share belongs to the answer: it is learned as a part of it
        for i, span in sorted(piece.spans.items(), key=lambda item: messages[item[0]]["role"] == "assistant"):
            begin, end = _under(offsets, span)
            if i in piece.answers and end > begin:
                if not piece.ends_inside and end < len(tokens) and int(tokens[end]) in self._special:
                    end += 1  # the token that ends the turn is the answer's own
                answers.append(Answer(i, begin, end))
            kinds[begin:end] = KIND_OF[messages[i]["role"]]
        kinds[:1] = FIRST
        for answer in answers:
            if answer.end > self.window:
                unscored[answer.turn] = TRUNCATED
            elif needs_user and not (kinds[: answer.begin] == USER).any():
                unscored[answer.turn] = NO_USER
        kept = sorted((a for a in answers if a.turn not in unscored), key=lambda a: a.begin)
        n = min(len(tokens), self.window)
        return Reading(tokens[:n], kinds[:n], tuple(kept))


@dataclass(frozen=True)
class _Piece:
    """A rendered conversation.

    spans: characters of each turn's content, by position in the messages.
    answers: the turns among them that are to be scored.
    ends_inside: whether the span of an answer holds the token that ends it.
    """

    text: str
    spans: dict[int, Span]
    answers: tuple[int, ...]
    ends_inside: bool = False


def _says_something(message: dict[str, Any]) -> bool:
    return bool((message.get("content") or "").strip() or message.get("tool_calls"))


def _between(marked: str, opening: str, closing: str) -> list[Span] | None:
    """What lies between marks, as characters of the text without them; None where they do not alternate."""
    spans: list[Span] = []
    at, removed = 0, 0
    while (begin := marked.find(opening, at)) >= 0:
        end = marked.find(closing, begin)
        if end < 0 or marked.find(opening, begin + 1, end) >= 0:
            return None
        spans.append((begin - removed, end - removed - 1))
        at, removed = end + 1, removed + 2
    return spans if marked.count(closing) == len(spans) else None


def _contents(messages: list[dict[str, Any]], text: str, answers: dict[int, Span]) -> dict[int, Span]:
    """Spans of all contents: each at its last occurrence that leaves the later ones their place.

    Raises:
        Refused: the content of a turn that is no answer is not to be found.
    """
    spans = dict(answers)
    limit = len(text)
    for i in reversed(range(len(messages))):
        core = (messages[i].get("content") or "").strip()
        if i not in answers and core:
            begin = text.rfind(core, 0, limit)
            if begin >= 0:
                spans[i] = (begin, begin + len(core))
            elif messages[i]["role"] != "assistant":  # an earlier answer may have been rewritten
                raise Refused("turns-not-separable", core[:80])
        limit = spans[i][0] if i in spans else limit
    return spans


def _under(offsets: np.ndarray, span: Span) -> Span:
    """The run of tokens that touch some characters; (0, 0) where none does."""
    touched = np.flatnonzero((offsets[:, 1] > span[0]) & (offsets[:, 0] < span[1]))
    return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 0)
