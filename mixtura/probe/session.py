"""`mixtura probe`: select with several seeds, train on each selection's picks, leave what was measured in the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mixtura.pipeline.summary import ArmFacts, EvidenceFacts
from mixtura.probe.arms import UNIFORM, Trial, draw, probed
from mixtura.probe.course import LIBRARIES
from mixtura.probe.experiment import run
from mixtura.probe.learner import prepare
from mixtura.recipe import Probe, TinyModel, digest
from mixtura.stages.plan import Plan
from mixtura.store import code_version, write_synced
from mixtura.trainer.mixture import as_rows


def probe(plan: Plan, tell: Callable[[str], None] = lambda _: None) -> EvidenceFacts:
    """Measure what each selection's picks bring; `mixtura run` then writes it into the card and the report.

    Args:
        plan: of the recipe to probe.
        tell: told a line when an arm of a seed is measured.

    Raises:
        InputError: the recipe cannot be probed (see `arms.probed`), or an input is wrong.
    """
    spec = plan.recipe.probe
    arms = replace(plan, recipe=probed(plan.recipe))
    with plan.workers:
        trials = [draw(arms, plan.recipe.seed + i) for i in range(spec.seeds)]
    folder = _model(plan, spec, trials[0])
    found = run(folder, spec, trials, plan.store, tell)
    evidence = EvidenceFacts(
        model=_named(spec, plan),
        tokens=found["tokens"],
        seeds=len(trials),
        heldout_rows=found["heldout_rows"],
        finetune_rows=found["finetune_rows"],
        arms=tuple(_arm(name, told) for name, told in found["arms"].items()),
        orders=spec.orders,
    )
    plan.evidence.parent.mkdir(parents=True, exist_ok=True)
    write_synced(plan.evidence, json.dumps(asdict(evidence), indent=1))
    return evidence


def _model(plan: Plan, spec: Probe, trial: Trial) -> str:
    """The model that all arms start from; a small one is pre-trained once for all recipes with this reference."""
    if isinstance(spec.model, str):
        return plan.model(spec.model)
    rows = as_rows(trial.reference)

    def write(folder: Path) -> dict[str, Any]:
        prepare(spec, rows, folder, seed=0)
        return {"rows": len(rows)}

    settings = spec.model_dump(include={"model", "pretrain_tokens", "sequence_length", "batch_tokens"})
    made = plan.store.make(
        "probe-model",
        write,
        inputs=[digest(sorted(trial.reference["id"]))],
        spec=settings,
        code=code_version("mixtura.probe.learner", LIBRARIES),
    )
    return made.path


def _named(spec: Probe, plan: Plan) -> str:
    if isinstance(spec.model, TinyModel):
        m = spec.model
        known = "the reference" if plan.recipe.reference else "the pool"
        return f"{m.layers} layers of width {m.width}, pre-trained on {spec.pretrain_tokens:,} tokens of {known}"
    return Path(spec.model).name


def _arm(name: str, told: dict[str, Any]) -> ArmFacts:
    facts = told["facts"]
    mean = {k: sum(f[k] for f in facts) / len(facts) for k in ("rows", "coverage") if facts and k in facts[0]}
    gains = [told[stage]["better_than"].get(UNIFORM) for stage in ("warmed", "tuned")]
    intervals = [(g["mean"], g["low"], g["high"]) if g and facts else None for g in gains]
    losses = {stage: told[stage]["bits_per_byte"] for stage in ("warmed", "tuned", "kept")}
    return ArmFacts(name, **losses, gain=intervals[0], tuned_gain=intervals[1], **mean)
