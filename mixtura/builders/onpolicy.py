"""Preference pairs from the current model: of its own samples, one that is right and one that is wrong.

The wrong answers are kept on purpose: a negative gradient on what the model itself would say moves it where offline
targets cannot. Every stored answer is complete; one that was cut off serves as neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from mixtura.checking import Question
from mixtura.generation import options
from mixtura.generation.contract import Ask, Reply
from mixtura.generation.judging import check_of, in_order, questions
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.recipe.model import digest


class Spec(options.Spec):
    """Options of onpolicy: those of the model, how often it is asked, and how answers are judged."""

    check: str = Field(description="The check that judges answers, such as numeric, exact, choice, tool_calls.")
    check_options: dict[str, Any] = Field(default_factory=dict, description="Options of the check.")
    samples: Annotated[int, Field(ge=2, le=1024)] = Field(
        default=8, description="Answers to each row; more find pairs in rows that are nearly always right or wrong."
    )
    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = Field(
        default=1.0, description="1 samples the model as it is; only then are the stored log-probabilities its own."
    )
    max_answer_tokens: PositiveInt = Field(default=512, description="Longest answer; one that is cut off is not used.")
    least_right: PositiveInt = Field(
        default=1,
        description="Samples of a row that must be right, else none counts as right: higher gives fewer pairs that are "
        "right by luck, as a weak model's last number is at times where answers are short.",
    )
    pairs: PositiveInt = Field(default=1, description="Most pairs of one row; no answer is in two of them.")
    gold_as_chosen: bool = Field(
        default=False,
        description="Where no sample counts as right, prefer the gold. Such a pair is not on-policy, and says so.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.least_right > self.samples:
            raise ValueError("least_right must be at most samples")
        return self


class OnPolicy:
    """Source: Tajwar et al. 2024 (arXiv:2404.14367), abstract and section on on-policy sampling with negative gradient.

    Differs: right and wrong come from a check rather than from a reward model, so a pair's margin is 1; of the wrong
    answers the likeliest are taken, as they are what the model must unlearn; answers that differ in white space and
    case alone count once.
    """

    name: ClassVar[str] = "onpolicy"
    source: ClassVar[str] = "Tajwar et al. 2024, arXiv:2404.14367: on-policy pairs, losers kept"
    needs: ClassVar[Needs] = Needs(generator=True)
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Check the options; nothing is learned."""
        check_of(self.name, spec.check, spec.check_options)
        return Fitted({}, {"check": spec.check, "samples": spec.samples})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """At most `pairs` pairs for each row, the likeliest answers first."""
        built = Built(self.name)
        asked = list(questions(spec, built, shard.rows.iter_rows(named=True)))
        asks = [Ask.of(row["messages"][:-1], row.get("tools")) for row, _ in asked]
        replies = means.generator.replies(
            asks, samples=spec.samples, max_tokens=spec.max_answer_tokens, temperature=spec.temperature, seed=means.seed
        )
        hash_ = digest(means.generator.identity)[:16]
        for (row, question), said in zip(asked, replies, strict=True):
            self._pairs(spec, built, row, question, said, hash_)
        return in_order(built, shard.rows["id"])

    def _pairs(
        self, spec: Spec, built: Built, row: Mapping[str, Any], question: Question, said: list[Reply], hash_: str
    ) -> None:
        whole = [r for r in said if r.finish == "stop" and (r.text.strip() or r.calls)]
        verdicts = [question.judge(r.message) for r in whole]
        right = _ranked(r for r, v in zip(whole, verdicts, strict=True) if v.passed)
        wrong = _ranked(r for r, v in zip(whole, verdicts, strict=True) if not v.passed)
        gold = row["messages"][-1]
        if not whole:
            return built.refuse(row, "no-whole-answer", f"{len(said)} answers cut off, empty or refused")
        if not wrong:
            return built.refuse(row, "all-right", f"{len(whole)} of {len(whole)}")
        if not right and not spec.gold_as_chosen:
            return built.refuse(row, "all-wrong", f"{len(whole)} of {len(whole)}")
        if (passed := sum(v.passed for v in verdicts)) < spec.least_right:
            if not spec.gold_as_chosen:
                return built.refuse(row, "too-few-right", f"{passed} of {len(said)}, needed {spec.least_right}")
            right = []
        errors = {id(r): v.kind for r, v in zip(whole, verdicts, strict=True)}
        shared = {
            "judge": spec.check,
            "generator_hash": hash_,
            "temperature": spec.temperature,
            "pass_rate": round(passed / len(said), 4),  # cut off is not right
        }
        winners: list[Reply | None] = list(right) or [None]
        for winner, loser in list(zip(winners, wrong, strict=False))[: spec.pairs]:
            about = shared | {"rejected_error": errors[id(loser)], "logp_ref_rejected": _rounded(loser)}
            about |= {"on_policy": winner is not None, "margin": 1.0, "logp_ref_chosen": _rounded(winner)}
            built.add(
                [row],
                messages=row["messages"][:-1],
                chosen=[winner.message if winner else gold],
                rejected=[loser.message],
                tools=row.get("tools"),
                task=row.get("task"),
                about=about,
            )
        return None


def _ranked(replies: Iterable[Reply]) -> list[Reply]:
    """Different answers, likeliest first; where a server does not say how likely, the oftenest first."""
    found: dict[str, tuple[int, Reply]] = {}
    for r in replies:
        key = " ".join(f"{r.text} {r.calls or ''}".split()).casefold()
        count, first = found.get(key, (0, r))
        found[key] = count + 1, first
    order = sorted(found.items(), key=lambda f: (-(f[1][1].log_probability or 0.0), -f[1][0], f[0]))
    return [reply for _, (_, reply) in order]


def _rounded(reply: Reply | None) -> float | None:
    return None if reply is None or reply.log_probability is None else round(reply.log_probability, 4)


BUILDER = OnPolicy()
