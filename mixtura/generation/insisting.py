"""Ask until an answer can be used: what is wrong with one is told to the model, and what stays wrong is refused.

All asks of a round go out together, so that a server is kept busy; a round asks again only where the last one failed.
Each ask is a function of the one before and its reply: with kept replies (`Cached`) a broken run continues for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mixtura.generation.contract import Ask, Generator, Reply

MOST_CHARS = 4_000  # of a bad answer that the model is shown again
AGAIN = "That answer cannot be used: {problem}.\n\nAnswer again, with the corrected answer alone."


@dataclass(frozen=True)
class Problem:
    """Why an answer cannot be used.

    code: words joined by hyphens, for a ledger.
    sentence: for the model, and for people.
    final: no other answer is asked for.
    """

    code: str
    sentence: str
    final: bool = False


@dataclass(frozen=True)
class Request:
    """An ask, and what to make of a reply.

    read: the answer's text in its final form, or what is wrong with it.
    judge: the question to put to the model about that text; None where its word is not wanted.
    """

    ask: Ask
    read: Callable[[Reply], str | Problem]
    judge: Callable[[str], Ask] | None = None


@dataclass(frozen=True)
class Answer:
    """What came of a request: `text` where it is valid, else the last `problem`; `tries` replies were asked for."""

    tries: int
    text: str = ""
    problem: Problem | None = None


@dataclass(frozen=True)
class Insistence:
    """How answers are asked for.

    tries: replies to one request, at most.
    max_tokens: longest answer, in tokens.
    temperature: 0 takes the likeliest token.
    seed: of the samples; each try has its own.
    """

    tries: int
    max_tokens: int
    temperature: float
    seed: int

    def replies(self, generator: Generator, asks: Sequence[Ask], at: int = 0) -> list[Reply]:
        """One reply to each ask, of try number `at`."""
        if not asks:
            return []
        made = generator.replies(
            asks, samples=1, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed + at
        )
        return [reply for (reply,) in made]


def insist(generator: Generator, requests: Sequence[Request], how: Insistence) -> list[Answer]:
    """An answer to each request, in order.

    Raises:
        InputError, GenerationError: as `Generator.replies`.
    """
    asks = [r.ask for r in requests]
    answers: list[Answer] = [Answer(0) for _ in requests]
    left = list(range(len(requests)))
    for at in range(how.tries):
        replies = dict(zip(left, how.replies(generator, [asks[i] for i in left], at), strict=True))
        read = {i: requests[i].read(reply) for i, reply in replies.items()}
        read |= _judged(generator, requests, read, how, at)
        for i, found in read.items():
            good = isinstance(found, str)
            answers[i] = Answer(at + 1, found) if good else Answer(at + 1, problem=found)
        left = [i for i, found in read.items() if isinstance(found, Problem) and not found.final]
        for i in left:
            asks[i] = _again(requests[i].ask, replies[i], answers[i].problem)
    return answers


def _judged(
    generator: Generator, requests: Sequence[Request], read: dict[int, str | Problem], how: Insistence, at: int
) -> dict[int, str | Problem]:
    """Of the answers that a judge is to see: those that it does not say yes to."""
    questions = {
        i: judge(text) for i, text in read.items() if isinstance(text, str) and (judge := requests[i].judge) is not None
    }
    said = replace(how, temperature=0.0).replies(generator, list(questions.values()), at)
    return {
        i: Problem("judged-wrong", "a reviewer found it wrong")
        for i, reply in zip(questions, said, strict=True)
        if not says_yes(reply)
    }


def says_yes(reply: Reply) -> bool:
    """Whether a judge's reply is yes: its first word, or its last one where it thinks aloud; any other is no."""
    words = reply.text.rpartition("</think>")[2].split()
    ends = {w.strip("*_.,:;!\"'()").casefold() for w in (*words[:1], *words[-1:])}
    return reply.finish == "stop" and "yes" in ends and "no" not in ends


def _again(ask: Ask, reply: Reply, problem: Problem | None) -> Ask:
    """The first ask, the bad answer, and what is wrong with it; earlier answers are left out, so it stays short."""
    sentence = problem.sentence if problem else ""
    turns = [
        {"role": "assistant", "content": reply.text[:MOST_CHARS] or "(nothing)"},
        {"role": "user", "content": AGAIN.format(problem=sentence)},
    ]
    return replace(ask, messages=[*ask.messages, *turns])
