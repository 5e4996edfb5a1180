"""`mixtura mine`: warm up from easy to hard, then rounds of try, pair, mix, train and measure.

Nothing of its own says how far it came: the store keeps artefacts by content, replies are kept by model and ask, and a
training goes on from its checkpoint. So a run that is killed anywhere does, when run again, only what is missing, and
ends with the same data. A round's rows follow from its policy's digest and its seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.loop.cast import Cast, Item, cast
from mixtura.loop.finding import found_pairs, search_of
from mixtura.loop.measure import Change, Passed, kept, measure
from mixtura.loop.mixing import answers, mixture, rights
from mixtura.loop.pairs import Paired
from mixtura.loop.policy import Policy, start
from mixtura.loop.report import render
from mixtura.pipeline.publication import check_output
from mixtura.recipe import Mine, Train
from mixtura.stages.curate import Step, curate, plainly
from mixtura.stages.plan import Plan
from mixtura.store import write_synced

Watch = Callable[[Any], None]
MANIFEST = "mined.json"


@dataclass
class Stage:
    """One policy: how it came to be, and how it does on rows and tools set aside.

    paired: of a round, its pairs and what became of the other rows; rows: trained on, as counted by the trainer.
    """

    name: str
    model: str  # folder, relative to the loop's
    digest: str
    measured: dict[str, Passed]
    rows: int = 0
    tokens: int = 0
    pairs: int = 0
    without: dict[str, int] = field(default_factory=dict)
    error_of_pairs: dict[str, int] = field(default_factory=dict)
    seed: int | None = None
    change: Change | None = None
    kept: float | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        measured = {name: passed.facts() for name, passed in self.measured.items()}
        return asdict(self) | {"measured": measured, "change": asdict(self.change) if self.change else None}


class Session:
    """One loop.

    Args:
        plan: of the recipe to mine.
        step: how a step is run: plainly, or as a Prefect task.
        tell: told a line when something is done.
        watch: told of each training step.
    """

    def __init__(self, plan: Plan, step: Step, tell: Callable[[str], None], watch: Watch | None) -> None:
        self.plan, self.step, self.tell, self.watch = plan, step, tell, watch
        self.spec: Mine = plan.recipe.mine
        self.folder = plan.output.with_name(f"{plan.output.name}-mined")
        self.replies = plan.store.root / "replies"
        self.search = search_of(self.spec)

    def run(self) -> dict[str, Any]:
        """See `mine`."""
        check, options = recipe_file.check_of(self.spec)
        check_output(self.plan.output)
        published = curate(self.plan, self.step)
        rows = read_splits(published.folder)
        who = cast(rows, check, options, heldout_tools=self.spec.heldout_tools)
        self.tell(
            f"{len(who.train):,} rows to learn from; held out: "
            + ", ".join(
                f"{len(v):,} {'rows' if k == 'rows' else 'rows of ' + _tools(who.tools)}"
                for k, v in who.heldout.items()
            )
        )
        history = [self._warm(who)]
        stopped = "every round was made"
        for number in range(1, self.spec.rounds + 1):
            stage = self._round(number, who, history)
            if stage is None:
                stopped = f"round {number} found nothing to learn from"
                break
            history.append(stage)
            if self.spec.stop and stage.change and not stage.change.rise:
                stopped = f"round {number} shows no rise on held-out rows beyond its 95 % interval"
                break
        return self._finish(who, history, stopped)

    def _warm(self, who: Cast) -> Stage:
        """Right answers from easy to hard; without them the start model stands for itself."""
        model = start(self.plan, who.train)
        rows = tokens = 0
        steps = who.steps(self.spec.warmup) if self.spec.warmup else []
        for number, items in enumerate(steps, 1):
            name = f"warmup-{number}"
            folder = self.folder / name
            made = self.step(
                f"mix {name}", mixture, self.plan, folder, f"{self.plan.recipe.name}-{name}", answers(items)
            )
            facts = self._train(name, made.folder, model, self.plan.recipe.train)
            model = str(folder / "model")
            rows, tokens = rows + facts["data"]["train"]["encoded"], tokens + _seen(facts, folder)
        policy = Policy(model, self.plan.recipe.train, self.replies)
        stage = Stage("warm-up" if steps else "start", self._where(model), policy.digest, self._measure(policy, who))
        stage.rows, stage.tokens = rows, tokens
        self._say(stage)
        return stage

    def _round(self, number: int, who: Cast, history: Sequence[Stage]) -> Stage | None:
        before, name = history[-1], f"round-{number}"
        folder, seed = self.folder / name, self.plan.recipe.seed * 1_000 + number
        source = self.folder / before.model if before.model != "start" else Path(start(self.plan, who.train))
        policy = Policy(source, self.plan.recipe.train, self.replies)
        paired: Paired = self.step(f"mine {name}", found_pairs, policy, who.train, self.spec, self.search, seed)
        if not paired.pairs:
            return None
        records = rights(paired.pairs) if self.spec.learn == "answers" else paired.pairs
        made = self.step(f"mix {name}", mixture, self.plan, folder, f"{self.plan.recipe.name}-{name}", records)
        train = self.plan.recipe.train
        rate = self.spec.learning_rate or train.learning_rate  # preference has a rate of its own
        train = train.model_copy(update={"steps": self.spec.steps, "epochs": 1.0, "learning_rate": rate})
        facts = self._train(name, made.folder, str(source), train)
        after = Policy(folder / "model", self.plan.recipe.train, self.replies)
        measured = self._measure(after, who)
        stage = Stage(name, f"{name}/model", after.digest, measured, seed=seed, pairs=len(paired.pairs))
        stage.without, stage.error_of_pairs = dict(paired.without), _errors(paired)
        stage.rows, stage.tokens = facts["data"]["train"]["encoded"], _seen(facts, folder)
        stage.change = Change.of(before.measured["rows"], measured["rows"])
        stage.kept = kept(history[0].measured["rows"], measured["rows"])
        self._say(stage)
        return stage

    def _train(self, name: str, folder: Path, model: str, train: Train) -> dict[str, Any]:
        from mixtura.trainer import train as train_on

        settings, out = train.model_copy(update={"model": model}), self.folder / name / "model"
        seed, watch = self.plan.recipe.seed, self.watch
        return self.step(f"train {name}", lambda f: train_on(f, settings, out=out, seed=seed, progress=watch), folder)

    def _measure(self, policy: Policy, who: Cast) -> dict[str, Passed]:
        return measure(policy.model, who.heldout, max_tokens=self.spec.max_tokens)

    def _where(self, model: str) -> str:
        path = Path(model)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else "start"

    def _say(self, stage: Stage) -> None:
        rates = ", ".join(f"{name} {passed.rate:.1%}" for name, passed in stage.measured.items())
        pairs = f"{stage.pairs:,} pairs; " if stage.pairs else ""
        self.tell(f"{stage.name}: {pairs}held-out pass rate {rates}")

    def _finish(self, who: Cast, history: Sequence[Stage], stopped: str) -> dict[str, Any]:
        best = max(history, key=lambda s: s.measured["rows"].rate)  # the first of equals: the least trained
        facts = {
            "name": self.plan.recipe.name,
            "recipe": self.plan.recipe.fingerprint(),
            "rows": {"train": len(who.train), **{k: len(v) for k, v in who.heldout.items()}},
            "heldout_tools": list(who.tools),
            "left_out": dict(who.left_out),
            "warmup": [_mean_difficulty(p) for p in who.steps(self.spec.warmup)] if self.spec.warmup else [],
            "stages": [s.facts() for s in history],
            "stopped": stopped,
            "best": best.name,
            "model": best.model,
            "settings": self.spec.model_dump(mode="json"),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_synced(self.folder / "report.html", render(facts))
        write_synced(self.folder / MANIFEST, json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return facts | {"folder": str(self.folder)}


def mine(
    plan: Plan, step: Step = plainly, tell: Callable[[str], None] = lambda _: None, watch: Watch | None = None
) -> dict[str, Any]:
    """Make the recipe's mixture, and let a model learn from what it fails at among its rows, round by round.

    Args:
        plan: of the recipe; its `mine` says how, its `train` what model and how it is trained.
        step: how a step is run: plainly, or as a Prefect task.
        tell: told a line when something is done.
        watch: told of each training step.

    Returns:
        What `mined.json` says: every policy with its pass rates, the best one, and why the loop stopped; and `folder`.

    Raises:
        InputError: the recipe or an input is wrong, or no row can be checked.
        CountError: the books do not balance.
    """
    return Session(plan, step, tell, watch).run()


def read_splits(folder: Path) -> dict[str, pl.DataFrame]:
    """Rows of a mixture by split.

    Raises:
        InputError: they are no conversations.
    """
    found = {s: sorted(folder.glob(f"{s}/*.parquet")) for s in ("train", "validation", "test")}
    rows = {s: pl.concat([pl.read_parquet(f) for f in files], how="diagonal") for s, files in found.items() if files}
    if any("messages" not in r.columns for r in rows.values()):
        step = "Set output.form: messages, and give the pool conversations that end with the right answer"
        raise InputError(
            "mixture", "must hold conversations to mine", got=sorted(rows["train"].columns)[:6], next_step=step
        )
    return rows


def _seen(facts: dict[str, Any], folder: Path) -> int:
    """Tokens that a training read, padding left out, steps repeated counted again."""
    lines = (folder / "model" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("tokens", 0) for line in lines)


def _errors(paired: Paired) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in paired.pairs:
        kind = pair["about"]["error"] or "not judged wrong"
        found[kind] = found.get(kind, 0) + 1
    return dict(sorted(found.items(), key=lambda i: (-i[1], i[0])))


def _mean_difficulty(items: Sequence[Item]) -> dict[str, float]:
    names = ("calls", "arguments", "tools", "characters")
    means = np.mean([i.difficulty.order for i in items], axis=0)
    return {"rows": len(items), **{n: round(float(m), 2) for n, m in zip(names, means, strict=True)}}


def _tools(names: Sequence[str]) -> str:
    return f"{len(names)} tool{'s' if len(names) != 1 else ''}"
