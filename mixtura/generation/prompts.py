"""Asks and answers as tokens, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from mixtura.errors import InputError
from mixtura.generation.contract import Ask, Piece, turn_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "\u2420"  # stands where the first user turn says something else
UNFINISHED = "\ufffd"  # how a tokenizer shows part of a character


class Unaskable(ValueError):
    """A template that refuses a conversation; `str()` says why."""


@dataclass(frozen=True)
class Prompt:
    """Token ids of an ask, cut where other asks may go on differently.

    shared: system turns and tools, up to what the first user says; the same for every ask with the same tools.
    own: the rest of the conversation, up to where the answer starts.
    begun: the beginning of the answer.
    """

    shared: tuple[int, ...]
    own: tuple[int, ...]
    begun: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.shared) + len(self.own) + len(self.begun)

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """The cuts that hold a token, in order."""
        return [p for p in (self.shared, self.own, self.begun) if p]

    @property
    def last(self) -> int:
        """The token that the first sampled one follows."""
        return self.parts[-1][-1]


class Prompts:
    """A tokenizer with a chat template.

    Args:
        tokenizer: of the model.
        name: of the model, for errors.

    Raises:
        InputError: it has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        if not tokenizer.chat_template:
            step = "Train it on conversations first (`mixtura train` saves a template), or name an instruct model"
            raise InputError(f"model {name!r}", "must have a chat template to be asked", next_step=step)
        if not tokenizer.is_fast:
            raise InputError(f"model {name!r}", "must have a fast tokenizer (tokenizer.json)")
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def prompt(self, ask: Ask) -> Prompt:
        """Token ids of an ask.

        Raises:
            Unaskable: the template refuses it.
        """
        text = self._render(ask)
        ids, ends = self._tokens(text + ask.begun)
        shared = sum(1 for e in ends if e <= self._shared(ask, text))
        own = sum(1 for e in ends if e <= len(text))
        return Prompt(tuple(ids[:shared]), tuple(ids[shared:own]), tuple(ids[own:]))

    def answered(self, ask: Ask, answer: Mapping[str, Any], stops: frozenset[int]) -> Prompt:
        """Token ids of an ask and a given answer to it (as `begun`), up to the end token.

        Raises:
            Unaskable: the template refuses it, or the answer cannot be told from its prompt.
        """
        text = self._render(ask)
        try:
            turn = turn_of(answer)
        except InputError as e:
            raise Unaskable(str(e)) from e
        whole = self._render(replace(ask, messages=[*ask.messages, turn]), finished=True)
        if not whole.startswith(text):
            raise Unaskable("the template rewrites the prompt once it is answered")
        prompt = self.prompt(replace(ask, begun=whole[len(text) :]))
        end = next((i + 1 for i, t in enumerate(prompt.begun) if t in stops), len(prompt.begun))
        return replace(prompt, begun=prompt.begun[:end])

    def text(self, last: int, ids: list[int]) -> str:
        """What sampled tokens say after the token `last`: some tokenizers drop the first token's space otherwise."""
        before, after = self._decode([last]), self._decode([last, *ids])
        return after[len(before) :] if after.startswith(before) else self._decode(ids)

    def pieces(self, last: int, ids: list[int], log_probabilities: list[float]) -> tuple[Piece, ...]:
        """Each token's own characters; a character in several tokens stands at the last of them.

        `log_probabilities` may hold one more, of the end token.
        """
        text = self.text(last, ids)
        alone = [self._alone(i) for i in ids]
        if "".join(alone) != text:
            alone = self._one_by_one(last, ids, text)
        return tuple(Piece(t, p) for t, p in zip(alone, log_probabilities[: len(alone)], strict=True))

    def _one_by_one(self, last: int, ids: list[int], text: str) -> list[str]:
        found, done = [], 0
        for i in range(1, len(ids) + 1):
            now = self.text(last, ids[:i])
            while now and not text.startswith(now):  # part of a character shows as a stand-in
                now = now[:-1]
            end = len(text) if i == len(ids) else max(done, len(now))
            found.append(text[done:end])
            done = end
        return found

    def _alone(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._decode([token])
        return self._texts[token]

    def _decode(self, ids: list[int]) -> str:
        # control tokens stay: some models mark their calls with them
        made: Any = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return made

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids, and the character at which each token ends."""
        made: Any = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return made["input_ids"], [end for _, end in made["offset_mapping"]]

    def _shared(self, ask: Ask, text: str) -> int:
        """Characters of the rendered ask before what its first user says."""
        first = next((i for i, m in enumerate(ask.messages) if m.get("role") == "user"), None)
        if first is None:
            return 0
        other = [*ask.messages[:first], {"role": "user", "content": PLACEHOLDER}]
        try:
            return _alike(text, self._render(replace(ask, messages=other)))
        except Unaskable:
            return 0

    def _render(self, ask: Ask, *, finished: bool = False) -> str:
        tools: Any = ask.tools
        try:
            made: Any = self.tokenizer.apply_chat_template(
                ask.messages, tools=tools, tokenize=False, add_generation_prompt=not finished
            )
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as e:  # each has its own way to refuse
            raise Unaskable(str(e).splitlines()[0] if str(e) else type(e).__name__) from e
        return made


def _alike(a: str, b: str) -> int:
    """Characters with which both begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves: comparing slices is faster than characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
