"""Conjugate prompts: the same request made to look far from the fine-tuning distribution, for evaluation alone.

What a model still does for `7h3 54m3` request and no longer for the plain one, fine-tuning hid rather than erased. A
probe shares its original's answer and never enters training: every row of its split group goes to the test split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard

Kind = Literal["leetspeak", "pig_latin", "capitals", "backwards"]

LEET = str.maketrans("aeiost", "431057")
PLAIN = str.maketrans("431057", "aeiost")
WORD = re.compile(r"[A-Za-z]+")
HEAD = re.compile(r"[^aeiouAEIOU]+")
PIG = re.compile(r"([A-Za-z]*)-([A-Za-z]*)ay\b")


def leetspeak(text: str) -> str:
    """`test` → `7357`; lower case only, so that it can be read back."""
    return text.translate(LEET)


def from_leetspeak(text: str) -> str:
    """The inverse of `leetspeak` on text without these digits."""
    return text.translate(PLAIN)


def pig_latin(text: str) -> str:
    """`string` → `ing-stray`, `apple` → `apple-ay`: the hyphen says where the word began."""
    return WORD.sub(lambda m: _pig(m[0]), text)


def from_pig_latin(text: str) -> str:
    """The inverse of `pig_latin` on text without hyphens of its own."""
    return PIG.sub(lambda m: m[2] + m[1], text)


def _pig(word: str) -> str:
    head = HEAD.match(word)
    cut = head.end() if head else 0
    return f"{word[cut:]}-{word[:cut]}ay"


def _mirrored(text: str) -> str:
    return "\n".join(line[::-1] for line in text.split("\n"))


TRANSFORMS: dict[Kind, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "leetspeak": (leetspeak, from_leetspeak),
    "pig_latin": (pig_latin, from_pig_latin),
    "capitals": (str.upper, str.lower),
    "backwards": (_mirrored, _mirrored),
}


class Spec(contract.Spec):
    """Options of probes."""

    transforms: list[Kind] = Field(
        default=["leetspeak", "pig_latin", "backwards"], min_length=1, description="Each gives a probe of every row."
    )
    lower_case: bool = Field(
        default=True, description="Put the request into lower case first; without it, one with capitals is seldom "
        "read back and gives no probe."
    )  # fmt: skip


class Probes:
    """Source: arXiv:2309.10105 (conjugate prompting), sections 4 and 5; transforms verified in the authors' code.

    Differs: a transform must be read back exactly, else the row gives no such probe (Pig Latin has a hyphen, so that it
    can be); translation, which needs a model, is not here; the answer stays in plain language.
    """

    name: ClassVar[str] = "probes"
    source: ClassVar[str] = "Understanding catastrophic forgetting via implicit inference, arXiv:2309.10105"
    needs: ClassVar[Needs] = Needs()
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Nothing to learn."""
        return Fitted()

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """The last request of each conversation, transformed."""
        built = Built(self.name)
        for row in shard.rows.iter_rows(named=True):
            turns = row["messages"] or []
            if len(turns) < 2 or turns[-1]["role"] != "assistant" or turns[-2]["role"] != "user":
                built.refuse(row, "no-request", "a probe needs a request and an answer")
                continue
            asked = turns[-2]["content"] or ""
            asked = asked.lower() if spec.lower_case else asked
            for kind in spec.transforms:
                self._probe(built, row, turns, asked, kind)
        return built

    def _probe(
        self, built: Built, row: dict[str, Any], turns: Sequence[dict[str, Any]], asked: str, kind: Kind
    ) -> None:
        there, back = TRANSFORMS[kind]
        probe = there(asked)
        if back(probe) != asked or probe == asked:
            built.refuse(row, "not-invertible", kind)
            return
        changed = [*turns[:-2], turns[-2] | {"content": probe}, turns[-1]]
        about = {"prompt_id": kind, "evaluate_only": True}
        built.add([row], messages=changed, task=row["task"], about=about)


BUILDER = Probes()
