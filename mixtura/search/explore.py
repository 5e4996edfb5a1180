"""Look for answers to questions: by tree search, by the best and worst of n, or by plain sampling.

Every tree takes one step per round and all leaves of a round are asked together, so a search over many questions is as
busy as sampling; a tree that has nothing left, or has its pairs, rests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from mixtura.checking import Question
from mixtura.generation.contract import Generator, Reply
from mixtura.mining.attempts import Attempt, Sampling, ask_of, judged
from mixtura.recipe.model import digest
from mixtura.search.steps import Step
from mixtura.search.tree import Tree
from mixtura.toolcalls.parse import parse
from mixtura.toolcalls.reward import RIGHT, WORST, graded_reward
from mixtura.verdict import Verdict


class Search(BaseModel):
    """How answers are looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["tree", "best_of", "samples"] = Field(
        default="tree",
        description="tree: Monte Carlo tree search over the model's own steps; best_of: the best and the nearest miss "
        "of n answers; samples: the first right and the first wrong of n.",
    )
    step: Step = Field(default="argument", description="What a step of the tree is: a call, an argument, a sentence.")
    simulations: PositiveInt = Field(default=8, description="Nodes that a tree expands; more find rarer answers.")
    width: PositiveInt = Field(default=4, description="Answers from each expanded node; more try more of its steps.")
    depth: PositiveInt = Field(default=6, description="Steps from the root at most; what comes after is one step.")
    exploration: float = Field(default=1.0, ge=0, description="Higher tries what the model likes and was tried little.")
    samples: PositiveInt = Field(default=8, description="n of best_of and samples.")
    temperature: float = Field(default=1.0, gt=0, le=2, description="Higher ones find stranger answers.")
    max_tokens: PositiveInt = Field(default=256, description="Tokens of an answer at most.")
    enough: PositiveInt = Field(default=2, description="Near misses of a question after which its tree rests.")


@dataclass(frozen=True)
class Answer:
    """A whole answer that was found.

    attempt: its reply, the log probability that of all its tokens; reward: in [-2, 1]; times: how often it was found.
    """

    attempt: Attempt
    reward: float
    times: int = 1

    @property
    def right(self) -> bool:
        """Whether the check passes it."""
        return self.attempt.verdict.passed

    @property
    def complete(self) -> bool:
        """Whether the model ended it: one that was cut off would teach a trainer to stop there."""
        return self.attempt.reply.finish == "stop" and bool(self.attempt.reply.text.strip() or self.attempt.reply.calls)


@dataclass(frozen=True)
class Explored:
    """What was found for one question.

    answers: different ones, in the order found; rollouts: answers that were sampled; tokens: that were sampled.
    """

    question: Question
    answers: tuple[Answer, ...]
    rollouts: int
    tokens: int


class _Hunt:
    """The search of one question."""

    def __init__(self, question: Question, spec: Search) -> None:
        self.question, self.spec = question, spec
        self.tree = Tree(depth=spec.depth, exploration=spec.exploration, step=spec.step)
        self.grade = grade(question)
        self.found: dict[tuple[str, str | None], Answer] = {}
        self.rollouts = self.tokens = 0

    @property
    def rests(self) -> bool:
        """Whether it has a right answer and enough near misses, or nothing but right ones in two expansions."""
        whole = [a for a in self.found.values() if a.complete]
        misses = sum(not a.right for a in self.found.values())
        if self.rollouts >= 2 * self.spec.width and not misses:
            return True
        return any(a.right for a in whole) and sum(not a.right for a in whole) >= self.spec.enough

    def take(self, begun: str, before: float | None, replies: Sequence[Reply]) -> list[float]:
        """Judge continuations of `begun`; their values, in [0, 1]."""
        values = []
        for attempt in judged(self.question, [_whole(begun, before, r) for r in replies]):
            reward = self.grade(attempt.verdict)
            key = (attempt.reply.text, attempt.reply.calls)
            known = self.found.get(key)
            self.found[key] = replace(known, times=known.times + 1) if known else Answer(attempt, reward)
            values.append((reward - WORST) / (RIGHT - WORST))
        self.rollouts += len(replies)
        self.tokens += sum(r.tokens for r in replies)
        return values

    @property
    def explored(self) -> Explored:
        return Explored(self.question, tuple(self.found.values()), self.rollouts, self.tokens)


def explore(model: Generator, questions: Sequence[Question], spec: Search, seed: int) -> list[Explored]:
    """Look for answers; one result per question, in order, whichever others are searched beside it."""
    hunts = [_Hunt(q, spec) for q in questions]
    if spec.by != "tree":
        sampling = Sampling(spec.samples, spec.max_tokens, spec.temperature, seed)
        for hunt, replies in zip(hunts, model.replies([ask_of(q) for q in questions], **sampling.options), strict=True):
            hunt.take("", 0.0, replies)
        return [h.explored for h in hunts]
    for number in range(spec.simulations):
        ways = [(h, path) for h in hunts if not h.rests and (path := h.tree.select())]
        if not ways:
            break
        sampling = Sampling(spec.width, spec.max_tokens, spec.temperature, _seed(seed, number))
        asks = [ask_of(h.question, path[-1].text) for h, path in ways]
        for (hunt, path), replies in zip(ways, model.replies(asks, **sampling.options), strict=True):
            leaf = path[-1]
            hunt.tree.expand(path, replies, hunt.take(leaf.text, leaf.log_probability, replies))
    return [h.explored for h in hunts]


def grade(question: Question) -> Callable[[Verdict], float]:
    """From a verdict on an answer to this question to its reward, in [-2, 1].

    Tool calls by the graded table (`toolcalls.reward`); of other checks a wrong answer is worth 0 and an unreadable
    one -2, as there is nothing between.
    """
    calls = len(parse(question.gold).calls)

    def tool_call(verdict: Verdict) -> float:
        return graded_reward(verdict, calls)

    def plain(verdict: Verdict) -> float:
        return RIGHT if verdict.passed else WORST if verdict.error in ("no_answer", "ambiguous") else 0.0

    return tool_call if question.tools else plain


def _whole(begun: str, before: float | None, reply: Reply) -> Reply:
    """A continuation together with what it continues."""
    known = before is not None and reply.log_probability is not None
    nats = before + reply.log_probability if known else None  # type: ignore[operator]
    return replace(reply, text=begun + reply.text, log_probability=nats, pieces=())


def _seed(seed: int, number: int) -> int:
    """Of a round: the root's samples are those of plain sampling, later rounds have their own."""
    return seed if not number else int(digest([seed, number])[:8], 16)
