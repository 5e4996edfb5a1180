"""Sub-task rows: each step of a task pool, made from a row's own columns, or by a model whose answers are checked.

Every row says its `task_id` (`domain/action/step`, column `task`), the wording and the language of its instruction, and
where its answer comes from. No row leaves that its step's output schema or checks refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from mixtura.checking import Question, Uncheckable
from mixtura.errors import InputError
from mixtura.generation import options
from mixtura.generation.contract import Ask, Reply
from mixtura.generation.insisting import Answer, Insistence, Problem, Request, insist
from mixtura.generation.judging import check_of, in_order
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import keys
from mixtura.recipe.model import digest
from mixtura.tasks import pool as task_pool
from mixtura.tasks.rendering import Refusal, Rendered, exchange
from mixtura.tasks.replies import Reader
from mixtura.tasks.template import Template

JUDGE = (
    "A request and an answer to it are given below. Is the answer right, complete, and nothing but an answer to this "
    "request? Reply with yes or no alone.\n\nRequest:\n{request}\n\nAnswer:\n{answer}"
)


class Spec(options.Spec):
    """Options of subtask; those of the model count for steps without an output, which a model writes."""

    tasks: str = Field(description="The task pool file: a path, as the recipe's files are named.")
    steps: list[str] | None = Field(
        default=None, description="Build these only: `action` or `action/step`; by default every step."
    )
    languages: Literal["match", "each"] = Field(
        default="match",
        description="Language of the instruction: 'match' the row's own where the step has it, else one by hash; "
        "'each': a row for every language.",
    )
    model: str | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]: other builders cannot do without
        default=None,
        min_length=1,
        description="Who writes the answers of steps without an output: a folder or hub name of a causal LM, or its "
        "name at `server`. Steps with an output need none.",
    )
    without_model: Literal["refuse", "skip"] = Field(
        default="refuse", description="Steps that a model must write, where none is named: stop, or leave them out."
    )
    tries: Annotated[int, Field(ge=1, le=16)] = Field(
        default=3,
        description="Answers of the model to one row, at most: it is told what was wrong with the last one. More lose "
        "fewer rows and cost more.",
    )
    max_answer_tokens: PositiveInt = Field(default=512, description="Longest answer; one that is cut off is not used.")
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.0, description="Of the model's answers; 0 takes the likeliest."
    )
    judge: bool = Field(
        default=False,
        description="Ask the model about each valid answer whether it is right, and use those alone to which it says "
        "yes; a second ask a row.",
    )
    judge_prompt: str = Field(default=JUDGE, description="That question; {request} and {answer} are inserted.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.server and not self.model:
            raise ValueError("model must be named where a server is: it is the model's name there")
        if set(Template(self.judge_prompt).fields) != {"request", "answer"}:
            raise ValueError("judge_prompt must insert {request} and {answer}, and nothing else")
        return self


@dataclass
class _Draft:
    """A row that is to be made of `row` for `step`; `answer` is None until a model has written it."""

    row: Mapping[str, Any]
    step: _Step
    asked: str
    answer: str | None
    about: dict[str, Any]


class Subtask:
    """Source: AnyTaskTune (arXiv:2407.07094): field, actions, steps, one data set for each pair of action and step.

    Differs: the paper lets a model write every row and publishes no split; here a step may read columns that are there,
    every answer fits a declared schema, budgets and caps are by hash, and rows of one parent share a split. A model's
    answer is asked for again with what was wrong, and refused where it stays wrong. What the model is told about the
    form of its answer is no part of the row: the model that is tuned learns it from the answers.
    """

    name: ClassVar[str] = "subtask"
    source: ClassVar[str] = "AnyTaskTune, arXiv:2407.07094; answers from columns or a model, fitting a declared schema"
    needs: ClassVar[Needs] = Needs(files=("tasks",), generator=True)
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """The hash up to which each step takes rows, so that its cap and budget hold over all of them.

        Of a step that a model writes, these are the rows that it is asked about: what it answers is not known yet.
        """
        steps = _steps(spec, means)
        found: dict[str, list[tuple[str, int]]] = {t.id: [] for t in steps}
        for shard in shards:
            draws = {t.id: _draws(shard, t.id, means.seed) for t in steps}
            for i, row in enumerate(shard.rows.iter_rows(named=True)):
                fields = Rendered.fields(row)
                for step in steps:
                    if not isinstance(step.made(row, fields), Refusal):
                        found[step.id].append((row["source"], draws[step.id][i]))
        facts = {t.id: _limits(t, found[t.id]) for t in steps}
        return Fitted(facts={"steps": facts, "rows": {t.id: len(found[t.id]) for t in steps}})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """Rows of every step, in the order of their parents."""
        built, steps = Built(self.name), _steps(spec, means)
        draws = {t.id: _draws(shard, t.id, means.seed) for t in steps}
        drafts: list[_Draft] = []
        for i, row in enumerate(shard.rows.iter_rows(named=True)):
            why: dict[str, str] = {}
            mine = _drafts(spec, fitted, steps, row, {t.id: draws[t.id][i] for t in steps}, why)
            for reason, detail in why.items():
                if reason != "no-step" or (not mine and len(why) == 1):
                    built.refuse(row, reason, detail)
            drafts += mine
        _write(spec, means, built, [d for d in drafts if d.answer is None])
        for d in drafts:
            if d.answer is not None:
                spoken = d.step.step.language or d.row["language"]
                turns = exchange(d.asked, d.answer)
                built.add([d.row], messages=turns, task=d.step.id, language=spoken, about=d.about)
        return in_order(built, shard.rows["id"])


class _Step(Rendered):
    """A step with what reads and checks a model's answers to it."""

    def __init__(self, task: task_pool.Task) -> None:
        super().__init__(task)
        self.reader = Reader(task.step.output_schema)
        self.checks = [(c.name, *check_of(Subtask.name, c.name, c.options)) for c in task.step.checks]

    def request(self, spec: Spec, draft: _Draft) -> Request:
        """What the model is asked.

        Raises:
            Uncheckable: the row does not say what a check of the step needs.
        """
        gold = next((t for t in reversed(draft.row["messages"] or []) if t["role"] == "assistant"), None)
        pair = exchange(draft.asked, "")
        asked = {**draft.row, "messages": [pair[0], gold or pair[1]]}
        questions = [(name, check.question(own, asked)) for name, check, own in self.checks]
        turn = {"role": "user", "content": f"{draft.asked}\n\n{self.reader.form}"}
        judge = partial(_judged, spec.judge_prompt, draft.asked) if spec.judge else None
        form = None if self.reader.text else self.reader.schema
        return Request(Ask([turn], form=form), partial(self._read, questions), judge)

    def _read(self, questions: list[tuple[str, Question]], reply: Reply) -> str | Problem:
        found = self.reader.read(reply)
        for name, question in questions:
            if isinstance(found, str) and not (verdict := question.judge(found)).passed:
                # not what was wanted: the model would copy the gold
                found = Problem("check", f"it does not pass the check {name!r} ({verdict.error})")
        return found


def _drafts(
    spec: Spec,
    fitted: Fitted,
    steps: list[_Step],
    row: Mapping[str, Any],
    draws: Mapping[str, int],
    why: dict[str, str],
) -> list[_Draft]:
    """What a row is to give; `why` takes the reasons of steps to which it gives nothing."""
    fields, drafts = Rendered.fields(row), []
    for step in steps:
        made = step.made(row, fields)
        if isinstance(made, Refusal):
            if made.reason not in why:
                why[made.reason] = f"{step.id}: {made.detail}"
            continue
        draw, here = draws[step.id], fitted.facts["steps"][step.id]
        if draw > min(here.get("*", draw), here.get(row["source"], draw)):
            why.setdefault("over-budget", step.id)
            continue
        for language in step.languages(row, draw, every=spec.languages == "each"):
            asked, wording = step.asked(made, language, draw)
            about = step.about | {"prompt_id": f"{language}-{wording}", "prompt_language": language}
            drafts.append(_Draft(row, step, asked, made.answer, about))
    return drafts


def _write(spec: Spec, means: Means, built: Built, drafts: list[_Draft]) -> None:
    """Let the model write the answers; what it cannot is refused."""
    if not drafts:
        return
    requests: list[tuple[_Draft, Request]] = []
    for d in drafts:
        try:
            requests.append((d, d.step.request(spec, d)))
        except Uncheckable as e:
            built.refuse(d.row, e.code, f"{d.step.id}: {str(e).partition(': ')[2]}")
    how = Insistence(spec.tries, spec.max_answer_tokens, spec.temperature, means.seed)
    answers = insist(means.generator, [r for _, r in requests], how)
    by = {"generator_hash": digest(means.generator.identity)[:16], **({"judge": "generator"} if spec.judge else {})}
    for (d, _), answer in zip(requests, answers, strict=True):
        _take(built, d, answer, by)


def _take(built: Built, draft: _Draft, answer: Answer, by: Mapping[str, str]) -> None:
    if answer.problem is not None:
        told = f"{draft.step.id}: {answer.problem.sentence} (answer {answer.tries})"
        return built.refuse(draft.row, answer.problem.code, told)
    draft.answer = answer.text
    checks = [name for name, *_ in draft.step.checks]
    draft.about |= {**by, "tries": answer.tries, **({"checks": checks} if checks else {})}
    return None


def _judged(prompt: str, request: str, answer: str) -> Ask:
    return Ask([{"role": "user", "content": Template(prompt).text({"request": request, "answer": answer})}])


def _steps(spec: Spec, means: Means) -> list[_Step]:
    """The steps to build.

    Raises:
        InputError: the file is wrong, names no such step, or a step needs a model.
    """
    tasks = list(task_pool.parse(means.files["tasks"]).tasks())
    if spec.steps is not None:
        known = {t.action for t in tasks} | {f"{t.action}/{t.name}" for t in tasks}
        if unknown := [s for s in spec.steps if s not in known]:
            raise InputError("builder 'subtask'", f"must have steps of {sorted(known)}", got=unknown)
        tasks = [t for t in tasks if t.action in spec.steps or f"{t.action}/{t.name}" in spec.steps]
    if means.generator is None:
        by_model = [t.id for t in tasks if t.step.made_by_model]
        if by_model and spec.without_model == "refuse":
            need = "needs a model for steps without output"
            step = "Name a model, give them an output, leave them out by steps, or set without_model: skip"
            raise InputError("builder 'subtask'", need, got=by_model, next_step=step)
        tasks = [t for t in tasks if not t.step.made_by_model]
    if named := [t.id for t in tasks if t.step.rows.clusters is not None]:
        step = "Choose rows by sources and where"
        raise InputError("builder 'subtask'", "cannot choose rows by clusters", got=named, next_step=step)
    if not tasks:
        raise InputError("builder 'subtask'", "must have a step to build", got=spec.steps)
    return [_Step(t) for t in tasks]


def _draws(shard: Shard, task: str, seed: int) -> list[int]:
    return keys(shard.rows["id"], seed, f"subtask/{task}").tolist()


def _limits(task: Rendered, found: list[tuple[str, int]]) -> dict[str, int]:
    """Source → the last hash that its cap takes, and `*` → the last that the budget takes; absent: no limit.

    Raises:
        InputError: the step has fewer valid rows than its floor.
    """
    rules, limits = task.step.rows, {}
    if rules.cap is not None:
        for source, n in Counter(s for s, _ in found).items():
            if n > rules.cap:
                limits[source] = _nth(np.array([d for s, d in found if s == source], np.uint64), rules.cap)
        found = [(s, d) for s, d in found if d <= limits.get(s, d)]
    if rules.budget is not None and len(found) > rules.budget:
        limits["*"] = _nth(np.array([d for _, d in found], np.uint64), rules.budget)
    if len(found) < rules.floor:
        need = f"must give at least {rules.floor:,} rows, its floor"
        step = "Lower the floor, loosen where, or add a source"
        raise InputError(f"step {task.id!r}", need, got=len(found), next_step=step)
    return limits


def _nth(draws: np.ndarray, n: int) -> int:
    return int(np.partition(draws, n - 1)[n - 1])


BUILDER = Subtask()
