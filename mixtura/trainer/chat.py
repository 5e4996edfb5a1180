"""Conversations to tokens through a chat template, knowing which tokens are answers.

Where the template marks its answers (`{% generation %}`), its marks count. Elsewhere an answer is what the rendered
conversation has beyond the rendered prompt that the model would see at that turn; both prefixes are checked, row by
row. A template that rewrites the past (some drop an earlier turn's reasoning) gives one example per answer instead,
each exactly as the model would meet it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mixtura.errors import InputError
from mixtura.trainer.mixture import Row

ROLES = ("system", "user", "assistant", "tool")
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

# For tokenizers without a template: role marks, the answer and its end token trained on.
TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{- '<|tool|>' + tools | tojson + eos_token }}{%- endif %}
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
{{- raise_exception('role must be system, user, assistant or tool; got ' + message.role) }}
{%- endif %}
{{- '<|' + message.role + '|>' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content or '' }}
{%- if message.tool_calls %}{{- message.tool_calls | tojson }}{%- endif %}
{{- eos_token }}{%- endgeneration %}
{%- else %}{{- (message.content or '') + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""


class Refused(Exception):
    """A conversation that cannot be trained on; `reason` is the code it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True)
class Turns:
    """A rendered conversation.

    tokens: i32[n]; trained: bool[n]; spans: i64[n, 2], each token's characters in `text`, (0, 0) of a special token.
    """

    text: str
    tokens: np.ndarray
    trained: np.ndarray
    spans: np.ndarray

    def bytes_of(self, trained: np.ndarray) -> int:
        """UTF-8 bytes of the characters under the marked tokens; a character under two tokens counts once."""
        marked = np.zeros(len(self.text) + 1, bool)
        for begin, end in self.spans[: len(trained)][trained]:
            marked[begin:end] = True
        edges = np.flatnonzero(np.diff(marked, prepend=False))
        return sum(
            len(self.text[a:b].encode("utf-8", "surrogatepass")) for a, b in zip(edges[::2], edges[1::2], strict=True)
        )


class Chat:
    """A tokenizer with a chat template.

    Args:
        tokenizer: a fast one (offsets are needed); it is given `TEMPLATE` where it has none of its own.

    Raises:
        InputError: the tokenizer is a slow one, or knows no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise InputError("tokenizer", "must be a fast one (tokenizer.json)", got=type(tokenizer).__name__)
        if tokenizer.eos_token_id is None:
            raise InputError("tokenizer", "must have an end token (eos_token)", got=None)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = TEMPLATE
        self.tokenizer = tokenizer
        special: Any = tokenizer  # the library types a token id as a string or a list too
        self.end = int(special.eos_token_id)
        # without a start token a document follows the end of another, as in pre-training
        self.start = self.end if special.bos_token_id is None else int(special.bos_token_id)
        self._special = np.array(tokenizer.all_special_ids, np.int32)
        self._control = re.compile("|".join(re.escape(t) for t in tokenizer.all_special_tokens))

    def encode(self, row: Row, *, answers_only: bool) -> list[Turns]:
        """Render and tokenize one conversation.

        Returns:
            Usually one example; one per answer where the template rewrites the past.

        Raises:
            Refused: the template refuses the conversation, or an answer cannot be told from its prompt.
        """
        messages = row.messages or []
        self._check_content(messages)
        if not answers_only:
            text = self._render(row, messages)
            return [self._tokenize(text, [(0, len(text))])]
        if not any(m.get("role") == "assistant" for m in messages):
            raise Refused("no-answer")
        if not row.loss_turns and MARKS.search(self._template(row)):
            return [self._marked(row, messages)]
        return [self._tokenize(text, spans) for text, spans in self._differences(row, messages)]

    def answer(self, prompt: list[dict[str, Any]], answer: list[dict[str, Any]], tools: Any) -> Turns:
        """Render a prompt with one answer to it; only the answer's own assistant turns are trained on.

        Args:
            prompt: the turns before; those of an assistant among them are context.
            answer: the turns after, with at least one of an assistant.
            tools: parsed tool definitions, or None.

        Raises:
            Refused: as `encode`, or the template rewrites the answer's earlier turns.
        """
        messages = [*prompt, *answer]
        self._check_content(messages)
        if not any(m.get("role") == "assistant" for m in answer):
            raise Refused("no-answer")
        row = Row(messages=messages, tools=tools)
        examples = self._differences(row, messages, first=len(prompt))
        if len(examples) > 1:
            raise Refused("template-rewrites-the-answer")
        return self._tokenize(*examples[0])

    def _check_content(self, messages: list[dict[str, Any]]) -> None:
        """In a rendered conversation a spelt-out control token would become the token and forge a turn."""
        for message in messages:
            if hit := self._control.search(str(message.get("content") or "")):
                raise Refused("control-token-in-content", hit.group())

    def _template(self, row: Row) -> str:
        return self.tokenizer.get_chat_template(tools=row.tools)

    def _render(self, row: Row, messages: list[dict[str, Any]], **options: Any) -> Any:
        options = {"tokenize": False, "tools": row.tools} | options
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except (TemplateError, ValueError, TypeError, KeyError) as e:  # each template has its own way to refuse
            raise Refused("template-refuses", str(e)) from e

    def _marked(self, row: Row, messages: list[dict[str, Any]]) -> Turns:
        text = self._render(row, messages)
        made = self._render(
            row,
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
        trained = np.array(made["assistant_masks"], bool)
        return self._turns(text, made["input_ids"], made["offset_mapping"], trained)

    def _differences(
        self, row: Row, messages: list[dict[str, Any]], first: int = 0
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        """Texts with the spans of their answers, of the messages from `first` on."""
        whole = self._render(row, messages)
        examples, keeps_the_past = [], True
        for i, message in enumerate(messages):
            if i < first or message.get("role") != "assistant" or (row.loss_turns and i not in row.loss_turns):
                continue
            prompt = self._render(row, messages[:i], add_generation_prompt=True)
            answered = self._render(row, messages[: i + 1])
            if not answered.startswith(prompt):
                raise Refused("answer-not-separable", prompt[-80:])
            keeps_the_past &= whole.startswith(answered)
            examples.append((answered, [(len(prompt), len(answered))]))
        if keeps_the_past:
            return [(whole, [span for _, spans in examples for span in spans])]
        return examples

    def _tokenize(self, text: str, spans: list[tuple[int, int]]) -> Turns:
        made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = np.array(made["offset_mapping"], np.int64).reshape(-1, 2)
        trained = np.zeros(len(offsets), bool)
        for begin, end in spans:
            # a token that crosses an answer's edge belongs to the answer
            trained |= (offsets[:, 1] > begin) & (offsets[:, 0] < end)
        return self._turns(text, made["input_ids"], offsets, trained)

    def _turns(self, text: str, ids: Any, offsets: Any, trained: np.ndarray) -> Turns:
        tokens = np.array(ids, np.int32)
        spans = np.array(offsets, np.int64).reshape(-1, 2)
        spans[np.isin(tokens, self._special)] = 0
        return Turns(text, tokens, trained, spans)
