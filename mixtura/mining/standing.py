"""How a row stands with a model: mastered, partly or never solved, or set apart because its gold looks wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mixtura.mining.attempts import Tried
from mixtura.mining.quoting import misquoted, quoted
from mixtura.mining.wording import Wording
from mixtura.toolcalls.parse import parse

State = Literal["mastered", "partly", "unsolved", "suspect", "unasked"]

AGREE = 0.5  # share of the answers that must be one and the same before the model's word stands against the gold's
SURE = 0.99  # of rows that the model solves, so many have a likelier gold than one that is called unlikely
KNOWS = 0.5  # share of a tool's golds that the model must meet before its word on that tool counts
PRIOR = 2  # rows at the share over all tools that are added to each tool's own, so that one or two rows decide little


@dataclass(frozen=True)
class Standard:
    """What is usual of golds that are right, and what the model is a witness of.

    unlikely: nats per token; a gold above it is unlikely. inf where no row of the sample was solved: then no gold is
        called wrong for its likelihood.
    strange: tools that the model does not know: its agreement with itself on them says nothing of the gold.
    known: tools that it knows.
    knows_others: whether it is taken to know a tool that the sample did not show.
    quoted: arguments whose right values nearly always stand in the question.
    wording: which tool the words of a question ask for.
    """

    unlikely: float = float("inf")
    strange: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    knows_others: bool = True
    quoted: frozenset[str] = frozenset()
    wording: Wording = field(default_factory=Wording)

    @classmethod
    def of(cls, tried: Sequence[Tried]) -> Standard:
        """From a sample: golds that the model met itself are right, so their losses show what right ones cost."""
        sound = [t for t in tried if not t.broken]
        losses = [t.gold.loss for t in sound if t.gold is not None and t.passed]
        met, rows = Counter[str](), Counter[str]()
        for t in sound:
            for tool in tools_of(t):
                rows[tool] += 1
                met[tool] += bool(t.passed)
        overall = sum(bool(t.passed) for t in sound) / max(1, len(sound))
        strange = {n for n in rows if (met[n] + PRIOR * overall) / (rows[n] + PRIOR) < KNOWS}
        return cls(
            float(np.quantile(losses, SURE)) if losses else float("inf"),
            frozenset(strange),
            frozenset(rows) - strange,
            overall >= KNOWS,
            quoted(t.question for t in sound),
            Wording.of(t.question for t in sound),
        )

    def knows(self, tools: frozenset[str]) -> bool:
        """Whether the model is a witness for answers that call these."""
        return not tools & self.strange and (self.knows_others or tools <= self.known)

    def packed(self) -> np.ndarray:
        """u8[bytes], JSON: for `Fitted.arrays`, since the names of thousands of tools are no facts for a card."""
        sets = {k: sorted(getattr(self, k)) for k in ("strange", "known", "quoted")}
        facts = {"unlikely": self.unlikely, "knows_others": self.knows_others, "wording": self.wording.facts(), **sets}
        return np.frombuffer(json.dumps(facts).encode(), np.uint8)

    @classmethod
    def unpacked(cls, packed: np.ndarray) -> Standard:
        """What `packed` packed."""
        facts = json.loads(packed.tobytes())
        strange, known, quoted_names = (frozenset(facts[k]) for k in ("strange", "known", "quoted"))
        wording = Wording(**facts["wording"])
        return cls(facts["unlikely"], strange, known, facts["knows_others"], quoted_names, wording)


def tools_of(tried: Tried) -> frozenset[str]:
    """Names of the tools that a gold calls."""
    return frozenset(c.name for c in parse(tried.question.gold).calls)


@dataclass(frozen=True)
class Standing:
    """A row's state, why where it is set apart, and its deficiency."""

    state: State
    score: float
    reason: str = ""


def standing(tried: Tried, standard: Standard) -> Standing:
    """How a row stands.

    The deficiency is the share of failed answers; the gold's loss decides among equals. A row is suspect, and scores
    -1, where its gold breaks its own schemas or check; or where no answer met it, the model finds it unlikelier than
    nearly every gold it does meet, and one of three holds:

    1. at least half of the answers are one and the same valid one, which says something else and not only less, of a
       model that meets most golds of the tools called;
    2. the gold gives an argument a value that the question does not say, where that argument's golds nearly always do,
       and at least half of the answers agree on a value that it does say;
    3. the words of the question go with another of the tools offered, by the golds of other rows, and fewer than half
       of the answers call the gold's.

    A row that was not put to the model scores -2.

    Source: our own; the first is RHO-loss's idea (Mindermann et al. 2022: high loss may be a bad label) with the
    model's agreement with itself in place of a second model. A model that was never taught a tool agrees with itself
    there too, on what it knows instead: hence the condition.
    """
    if all(a.reply.finish == "refused" for a in tried.attempts):
        return Standing("unasked", -2.0, tried.attempts[0].reply.reason)
    if tried.broken:
        return Standing("suspect", -1.0, f"the gold fails its own check: {tried.broken[0]}")
    if reason := _doubt(tried, standard):
        return Standing("suspect", -1.0, reason[:400])
    n = len(tried.attempts)
    loss = tried.gold.loss if tried.gold else 0.0
    score = 1 - tried.rate + 0.5 / n * loss / (1 + loss)  # below one more failed answer
    state: State = "mastered" if tried.passed == n else "partly" if tried.passed else "unsolved"
    return Standing(state, score)


def _doubt(tried: Tried, standard: Standard) -> str:
    """Why the model's answers speak against the gold, or ''."""
    if tried.passed or tried.gold is None or tried.gold.loss <= standard.unlikely:
        return ""
    (said, times), n = tried.favourite, len(tried.attempts)
    if times >= max(2, AGREE * n) and tried.favourite_contradicts and standard.knows(tools_of(tried)):
        return f"{times} of {n} answers agree on another: {said}"
    return misquoted(tried, standard.quoted, AGREE) or standard.wording.doubt(tried, AGREE)
