"""Deficiency: rows that a model fails at, found by letting it try and checking what it says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt, ValidationError

from mixtura import registry
from mixtura.checking import Question, Uncheckable, dialogue
from mixtura.errors import InputError
from mixtura.generation import opening
from mixtura.generation.contract import Ask
from mixtura.generation.local import LocalModel
from mixtura.generation.opening import open_generator
from mixtura.mining import slices
from mixtura.mining.attempts import Sampling, Tried, ask_of, attempt, questions
from mixtura.mining.rates import clopper_pearson
from mixtura.mining.standing import Standard, Standing, standing
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of
from mixtura.toolcalls.parse import parse
from mixtura.verdict import PASSED

UNREAD = -2.0  # score of a row without a question or an answer to it
WHY = {
    "state": pl.String, "reason": pl.String, "pass_rate": pl.Float64, "pass_low": pl.Float64, "pass_high": pl.Float64,
    "passed": pl.Int32, "samples": pl.Int32, "error": pl.String, "errors": pl.String, "gold_loss": pl.Float64,
    "ifd": pl.Float64, "favourite": pl.String, "features": pl.List(pl.String),
}  # fmt: skip


class Spec(opening.Spec):
    """Options of deficiency: those of the generator, how answers are checked, and what makes a row deficient."""

    by: Literal["verified", "perplexity", "ifd"] = Field(
        default="verified",
        description="verified: answers that fail their check; perplexity: unlikely golds, as iTool ranks; ifd: golds "
        "that the question makes little likelier. The last two sample nothing, and check nothing.",
    )
    check: str = Field(
        default="tool_calls", description="How answers are judged: a check, such as tool_calls or exact."
    )
    check_options: dict[str, Any] = Field(default_factory=dict, description="Options of the check.")
    samples: PositiveInt = Field(
        default=8, description="Answers per row: more tell rare failures from none, and cost in proportion."
    )
    answer_tokens: PositiveInt = Field(default=256, description="Tokens of an answer at most; longer ones fail.")
    temperature: float = Field(
        default=1.0, ge=0, le=2, description="1 samples the model as it is; lower ones show fewer of its mistakes."
    )
    sample_rows: PositiveInt = Field(
        default=200, description="Rows of the pool's sample from which it learns what golds that are right cost."
    )


class Deficiency:
    """score = share of failed answers, ties by the gold's loss; rows whose gold looks wrong score -1, unread ones -2.

    Mode perplexity: iTool's ranking, the gold's perplexity as a quantile among those with (without) a call. Mode ifd:
    perplexity of the gold given the question over that of the gold alone; from 1 on the question does not help, and the
    row scores -1. Differs from iTool: verified failure ranks, perplexity only breaks ties, every row has a score.
    """

    name: ClassVar[str] = "deficiency"
    source: ClassVar[str] = "Zeng et al. 2025 (iTool), section 3.2; IFD: Li et al. 2024, section 2.2; verification ours"
    needs: ClassVar[Needs] = Needs(columns=("messages", "tools", "meta"), model=True)
    scale: ClassVar[Scale] = "rank"
    Spec: type[Spec] = Spec

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Learn from a sample of the pool what right golds cost; target and reference play no part.

        Raises:
            InputError: no such check, its options are wrong, or no conversation of the sample can be checked.
        """
        rows = rows_of(self.name, self.needs, sample, "sample").head(spec.sample_rows)
        found = _questions(spec, rows)
        asked = [q for q in found if isinstance(q, Question)]
        unread = Counter(q.code for q in found if isinstance(q, Uncheckable))
        if not asked and rows["messages"].drop_nulls().len():
            raise InputError(
                f"selector {self.name!r}",
                f"needs rows that the check {spec.check!r} can check",
                got=dict(unread),
                next_step="Name another check, or map messages, tools and answers in the recipe",
            )
        facts: dict[str, Any] = {"by": spec.by, "seed": seed, "sample_rows": len(found), "uncheckable": dict(unread)}
        if spec.by != "verified":
            return _fit_losses(spec, asked, facts)
        tried = attempt(open_generator(spec), asked, _sampling(spec, seed))
        standard = Standard.of(tried)
        standings = [standing(t, standard) for t in tried]
        facts |= _counted(tried, standings)
        return Fitted({"standard": standard.packed()}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score`, then `state` and what it rests on.

        `state` is mastered, partly, unsolved, suspect, unasked or uncheckable (`reason` says why it is set apart);
        `pass_rate` has its 95 % interval (Clopper-Pearson); `error` is the most frequent kind of failure, `errors` all
        of them with their numbers, as JSON; `gold_loss` in nats per token; `favourite` the answer given most often;
        `features` what slices are made of.
        """
        rows = rows_of(self.name, self.needs, shard, "shard")
        found = _questions(spec, rows)
        asked = [q for q in found if isinstance(q, Question)]
        if spec.by == "verified":
            tried = attempt(open_generator(spec), asked, _sampling(spec, int(fitted.facts["seed"]))) if asked else []
            standard = Standard.unpacked(fitted.arrays["standard"])
            made = iter([_why(t, standing(t, standard)) for t in tried])
        else:
            made = iter(_why_of_losses(spec, fitted, asked))
        empty = {name: None for name in ("score", *WHY)}
        read = [
            empty
            | (next(made) if isinstance(q, Question) else {"score": UNREAD, "state": "uncheckable", "reason": str(q)})
            for q in found
        ]
        table = pl.DataFrame(read, schema={"score": pl.Float64, **WHY})
        return rows.select("id").hstack(table)

    def summary(self, spec: Spec, scores: pl.DataFrame) -> dict[str, Any]:
        """What the card says of all scored rows: states, errors, and the slices where the model is weak."""
        found: dict[str, Any] = {"states": _counts(scores["state"])}
        if spec.by == "verified":
            judged = scores.filter(pl.col("state").is_in(["mastered", "partly", "unsolved"]))
            weak = slices.weak(judged["features"].to_list(), judged["pass_rate"].to_list())
            errors = Counter[str]()
            for text in judged["errors"]:
                errors.update(json.loads(text))
            found |= {"errors": dict(errors.most_common()), "weak": slices.facts(weak)}
        return found


def _sampling(spec: Spec, seed: int) -> Sampling:
    return Sampling(spec.samples, spec.answer_tokens, spec.temperature, seed)


def _questions(spec: Spec, rows: pl.DataFrame) -> list[Question | Uncheckable]:
    read = rows.select("messages", "tools", "meta").to_dicts()
    if spec.by != "verified":
        return [_unjudged(row) for row in read]
    check = registry.find("checks", spec.check)
    try:
        options = check.Spec.model_validate(spec.check_options)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, ("check_options", *first["loc"])))
        raise InputError(
            f"selector 'deficiency': {where}", f"must fit the check {spec.check!r}", got=first["msg"]
        ) from e
    return questions(check, options, read)


def _unjudged(row: dict[str, Any]) -> Question | Uncheckable:
    """What losses need of a row: a conversation that ends with an answer."""
    try:
        prompt, gold = dialogue(row)
        ask = Ask.of(prompt, row["tools"])
    except Uncheckable as e:
        return e
    except InputError as e:
        return Uncheckable("bad-tools", str(e))
    return Question(prompt, gold, lambda _: PASSED, tuple(ask.tools or ()))


def _why(tried: Tried, stands: Standing) -> dict[str, Any]:
    """One row's score and why-columns."""
    low, high = clopper_pearson(tried.passed, len(tried.attempts))
    kinds = dict(sorted(tried.kinds.items(), key=lambda i: (-i[1], i[0])))
    return {
        "score": stands.score,
        "state": stands.state,
        "reason": stands.reason or None,
        "pass_rate": tried.rate,
        "pass_low": low,
        "pass_high": high,
        "passed": tried.passed,
        "samples": len(tried.attempts),
        "error": next(iter(kinds), None),
        "errors": json.dumps(kinds),
        "gold_loss": tried.gold.loss if tried.gold else None,
        "favourite": tried.favourite[0],
        "features": slices.features(tried.question),
    }


def _counted(tried: Sequence[Tried], standings: Sequence[Standing]) -> dict[str, Any]:
    """Facts of the sample, for the card."""
    judged = [t for t, s in zip(tried, standings, strict=True) if s.score >= 0]
    weak = slices.weak([slices.features(t.question) for t in judged], [t.rate for t in judged])
    errors = sum((t.kinds for t in judged), Counter[str]())
    return {
        "sample_pass_rate": round(float(np.mean([t.rate for t in judged])), 6) if judged else None,
        "sample_states": dict(Counter(s.state for s in standings)),
        "sample_errors": dict(errors.most_common()),
        "sample_weak": slices.facts(weak),
    }


def _counts(column: pl.Series) -> dict[str, int]:
    return dict(sorted(Counter(column.to_list()).items()))


def _fit_losses(spec: Spec, asked: Sequence[Question], facts: dict[str, Any]) -> Fitted:
    """Sorted losses of the sample's golds, with a call and without."""
    losses, _ = _losses(spec, asked)
    called = np.array([bool(parse(q.gold).calls) for q in asked], bool)
    known = np.isfinite(losses)
    facts["sample_loss"] = round(float(losses[known].mean()), 6) if known.any() else None
    return Fitted({"with_call": np.sort(losses[known & called]), "without": np.sort(losses[known & ~called])}, facts)


def _why_of_losses(spec: Spec, fitted: Fitted, asked: Sequence[Question]) -> list[dict[str, Any]]:
    losses, ifd = _losses(spec, asked)
    made = []
    for question, loss, ratio in zip(asked, losses.tolist(), ifd.tolist(), strict=True):
        why: dict[str, Any] = {"features": slices.features(question)}
        if not np.isfinite(loss):
            made.append(why | {"score": UNREAD, "state": "unasked", "reason": "it does not fit the model's window"})
            continue
        usual = fitted.arrays["with_call" if parse(question.gold).calls else "without"]
        quantile = float(np.searchsorted(usual, loss) / len(usual)) if len(usual) else 0.5
        score = quantile if spec.by == "perplexity" else ratio if ratio < 1 else -1.0
        made.append(
            why | {"score": score, "state": "ranked", "gold_loss": loss, "ifd": ratio if ratio == ratio else None}
        )
    return made


def _losses(spec: Spec, asked: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """f64[n] nats per token of each gold, and f64[n] its IFD (NaN in mode perplexity); NaN where it does not fit."""
    model = open_generator(spec)
    local = model if isinstance(model, LocalModel) else getattr(model, "inner", None)
    if not isinstance(local, LocalModel):
        raise InputError(
            "selector 'deficiency'",
            f"needs a model here for by: {spec.by}",
            got=spec.server,
            next_step="Leave out server",
        )
    asks, golds = [ask_of(q) for q in asked], [q.gold for q in asked]
    given = np.array([np.nan if g is None else g.loss for g in local.likelihoods(asks, golds)])
    if spec.by == "perplexity":
        return given, np.full(len(given), np.nan)
    bare = np.array([np.nan if g is None else g.loss for g in local.alone(asks, golds)])
    return given, np.exp(given - bare)


SELECTOR = Deficiency()
