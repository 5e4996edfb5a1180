"""Targets in the model's own words: its own answer where that is right, its own paraphrase of the gold, else the gold.

Fine-tuning moves a model least where the targets are what it would say anyway, so it forgets least of what it could do
before. The model that answers must therefore be the very model that is to be tuned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from mixtura.checking import Question
from mixtura.errors import InputError
from mixtura.generation import options
from mixtura.generation.contract import Ask, Judge, Likelihood, Reply
from mixtura.generation.judging import check_of, in_order, questions
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.recipe.model import digest
from mixtura.tasks.template import Template

PARAPHRASE = (
    "{request}\n\nA correct answer is given below. Say it in your own words, and keep its conclusion and its final "
    "result exactly.\n\nCorrect answer:\n{gold}"
)


class Spec(options.Spec):
    """Options of selfanswer: those of the model, and how its answers are judged."""

    check: str = Field(description="The check that judges answers, such as numeric, exact, choice, tool_calls.")
    check_options: dict[str, Any] = Field(default_factory=dict, description="Options of the check.")
    paraphrase: str = Field(
        default=PARAPHRASE,
        description="Second ask, where the first answer is wrong; {request} and {gold} are inserted.",
    )
    paraphrase_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.5,
        description="A paraphrase with fewer than this share of the gold's characters is wrong, whatever the check "
        "says: it gives the result and leaves out what leads to it. 0 takes any.",
    )
    max_answer_tokens: PositiveInt = Field(default=512, description="Longest answer; one that is cut off is wrong.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.0, description="0 takes the likeliest answer; the paper does not say."
    )
    gold: bool = Field(
        default=True, description="Whether rows whose answers are both wrong keep the gold; false drops them."
    )


@dataclass
class _Try:
    """One row on its way to a target."""

    row: Mapping[str, Any]
    question: Question
    ask: Ask
    own: Reply | None = None
    paraphrase: Reply | None = None


class SelfAnswer:
    """Source: S3FT (arXiv:2502.08130), method figure: own answer if judged right, own paraphrase if right, else gold.

    Differs: the judge is a named check, so that who judged is written down; replies that were cut off are wrong; each
    row says where its target comes from, who made and judged it, and how likely gold and own answer were. The
    paraphrase is judged by the same check as the answer, and is wrong where it is far shorter than the gold: a small
    model's of GSM8K were mostly bare results, which a check of numbers passes. The wording of its prompt is ours: the
    paper's is unknown.
    """

    name: ClassVar[str] = "selfanswer"
    source: ClassVar[str] = "S3FT, arXiv:2502.08130: own answer, own paraphrase or gold, by judge"
    needs: ClassVar[Needs] = Needs(generator=True)
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Check the options; nothing is learned.

        Raises:
            InputError: no such check, an impossible option of it, or a paraphrase that does not show the gold.
        """
        check_of(self.name, spec.check, spec.check_options)
        if not set(Template(spec.paraphrase).fields) >= {"gold", "request"}:
            raise InputError(
                f"builder {self.name!r}: paraphrase", "must insert {request} and {gold}", got=spec.paraphrase
            )
        return Fitted({}, {"check": spec.check})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """One row for each row that can be checked: at most two replies are asked for."""
        built = Built(self.name)
        tries = list(_tries(spec, built, shard))
        self._ask(spec, means, tries, [t.ask for t in tries], "own")
        wrong = [t for t in tries if not _right(t, t.own)]
        self._ask(spec, means, wrong, [_paraphrase_ask(spec, t) for t in wrong], "paraphrase")
        golds = _likelihoods(means.generator, tries)
        about = {"judge": spec.check, "generator_hash": digest(means.generator.identity)[:16]}
        for t, gold in zip(tries, golds, strict=True):
            self._add(spec, built, t, about | ({"gold_logp": round(gold.log_probability, 4)} if gold else {}))
        return in_order(built, shard.rows["id"])

    def _ask(self, spec: Spec, means: Means, tries: list[_Try], asks: list[Ask], what: str) -> None:
        replies = means.generator.replies(
            asks, samples=1, max_tokens=spec.max_answer_tokens, temperature=spec.temperature, seed=means.seed
        )
        for t, (reply,) in zip(tries, replies, strict=True):
            setattr(t, what, reply)

    def _add(self, spec: Spec, built: Built, t: _Try, about: dict[str, Any]) -> None:
        found = _chosen(spec, t)
        about |= {"own_finish": t.own.finish} if t.own else {}
        if found is None and not spec.gold:
            return built.refuse(t.row, "wrong-twice", "neither its answer nor its paraphrase passed")
        name, reply = found or ("gold", None)
        for key, r in (("own_logp", t.own), ("logp", reply)):
            if r is not None and r.log_probability is not None:
                about[key] = round(r.log_probability, 4)
        target = t.row["messages"][-1] if reply is None else reply.message
        built.add(
            [t.row], messages=[*t.row["messages"][:-1], target], tools=t.row.get("tools"), task=t.row.get("task"),
            about=about | {"target_source": name},
        )  # fmt: skip
        return None


def _tries(spec: Spec, built: Built, shard: Shard) -> Iterable[_Try]:
    for row, question in questions(spec, built, shard.rows.iter_rows(named=True)):
        yield _Try(row, question, Ask.of(row["messages"][:-1], row.get("tools")))


def _chosen(spec: Spec, t: _Try) -> tuple[str, Reply] | None:
    """The own answer if it is right, else the paraphrase if that is and says as much as the gold."""
    if t.own is not None and _right(t, t.own):
        return "self", t.own
    if t.paraphrase is not None and _right(t, t.paraphrase) and _whole(spec, t.row["messages"][-1], t.paraphrase):
        return "paraphrase", t.paraphrase
    return None


def _whole(spec: Spec, gold: Mapping[str, Any], reply: Reply) -> bool:
    """Calls of tools are whole if they are right."""
    return bool(reply.calls) or len(reply.text.strip()) >= spec.paraphrase_share * len((gold["content"] or "").strip())


def _right(t: _Try, reply: Reply | None) -> bool:
    return reply is not None and reply.finish == "stop" and t.question.judge(reply.message).passed


def _paraphrase_ask(spec: Spec, t: _Try) -> Ask:
    """The same conversation, its last turn asking for the gold in other words."""
    *before, last = t.row["messages"][:-1]
    gold = t.row["messages"][-1]
    said = {"request": last["content"] or " ", "gold": gold["content"] or gold["tool_calls"] or " "}
    asked = {**last, "content": Template(spec.paraphrase).text(said)}
    return Ask.of([*before, asked], t.row.get("tools"))


def _likelihoods(generator: Any, tries: list[_Try]) -> list[Likelihood | None]:
    """How likely each gold is under the model, where it can say so."""
    if not isinstance(generator, Judge) or not tries:
        return [None] * len(tries)
    return generator.likelihoods([t.ask for t in tries], [t.row["messages"][-1] for t in tries])


BUILDER = SelfAnswer()
