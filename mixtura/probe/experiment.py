"""The experiment: for each seed the same model, warmed up on each arm's picks at equal tokens, then fine-tuned.

Measured are the loss on held-out target rows after the warm-up and after fine-tuning on a few target rows, the loss on
held-out reference rows (what was forgotten), and how the picks lie: how many target rows they are nearest to, and how
far the target stays from the reference with the picks added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline.hashing import keys
from mixtura.probe.arms import UNIFORM, Arm, Trial
from mixtura.probe.course import STAGES, Course, averaged
from mixtura.probe.intervals import bits_per_byte, difference, holm
from mixtura.probe.learner import Learner
from mixtura.recipe import Probe
from mixtura.rows import plain_text
from mixtura.store import Store
from mixtura.trainer.mixture import as_rows

BASE = "no warm-up"


@dataclass
class Measured:
    """Losses of one arm: per stage a list of f64[rows], nats, one for each seed; and facts of its picks by seed."""

    nats: dict[str, list[np.ndarray]] = field(default_factory=lambda: {s: [] for s in STAGES})
    facts: list[dict[str, Any]] = field(default_factory=list)


def run(
    model: Path | str, spec: Probe, trials: list[Trial], store: Store, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every arm of every trial.

    Args:
        model: folder or name of the causal LM that all start from.
        spec: the probe's settings.
        trials: one for each seed, with the same arms.
        store: keeps the losses of an arm by its content, so that a change of one selection costs that one alone.
        tell: told a line when an arm is done.

    Returns:
        JSON: `arms` (each with bits per byte of every stage, the same by seed, differences to uniform with intervals,
        coverage), `tokens`, `seeds`, `orders`, `heldout_rows`, `finetune_rows`.
    """
    learner = Learner(model, spec)
    first = trials[0]
    target, kept = (learner.encode(as_rows(rows)) for rows in (first.heldout, first.reference_heldout))
    encoded = {(t.seed, a.name): learner.encode(as_rows(a.rows)) for t in trials for a in t.arms}
    tokens = min(e.counts.tokens for e in encoded.values()) // spec.batch_tokens * spec.batch_tokens
    tokens = max(tokens, spec.batch_tokens)
    found: dict[str, Measured] = {}
    for trial in trials:
        tuning = learner.encode(as_rows(_tuning_rows(trial, spec)))
        course = Course(target, kept, tuning, tokens, trial.seed)
        for arm in (None, *trial.arms):
            name = arm.name if arm else BASE
            measured = found.setdefault(name, Measured())
            nats = averaged(learner, store, course, encoded[trial.seed, name] if arm else None, spec.orders)
            for stage in STAGES:
                measured.nats[stage].append(nats[stage])
            if arm:
                measured.facts.append(_facts(arm, trial))
            bits = bits_per_byte(nats["warmed"], _sizes(first.heldout))
            tell(f"seed {trial.seed}  {name:24} {bits:.4f} bits per byte")
    sizes = {"warmed": _sizes(first.heldout), "kept": _sizes(first.reference_heldout)}
    sizes["tuned"] = sizes["warmed"]
    return {
        "tokens": tokens,
        "seeds": [t.seed for t in trials],
        "orders": spec.orders,
        "heldout_rows": first.heldout.height,
        "finetune_rows": min(spec.finetune_rows, first.target.height),
        "arms": {name: _told(name, found, sizes) for name in found},
    }


def _told(name: str, found: dict[str, Measured], sizes: dict[str, np.ndarray]) -> dict[str, Any]:
    told: dict[str, Any] = {"facts": found[name].facts}
    for stage in STAGES:
        ours, size = np.stack(found[name].nats[stage]), sizes[stage]
        told[stage] = {
            "bits_per_byte": bits_per_byte(ours, size),
            "by_seed": [bits_per_byte(row, size) for row in ours],
        }
        others = {n: difference(np.stack(m.nats[stage]), ours, size) for n, m in found.items() if n != name}
        corrected = holm({n: d.p for n, d in others.items()})
        told[stage]["better_than"] = {n: asdict(d) | {"p_holm": corrected[n]} for n, d in others.items()}
    return told


def _tuning_rows(trial: Trial, spec: Probe) -> pl.DataFrame:
    """Target rows to fine-tune on: some of those that selectors saw."""
    order = np.argsort(keys(trial.target["id"], trial.seed, "finetune"), kind="stable")
    return trial.target[order[: spec.finetune_rows]]


def _facts(arm: Arm, trial: Trial) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": arm.rows.height, "tokens": int(arm.rows["tokens"].sum())}
    if arm.vectors is not None and trial.target_vectors is not None:
        nearest = (arm.vectors @ trial.target_vectors.T).argmax(1)
        facts["coverage"] = len(np.unique(nearest)) / len(trial.target_vectors)
        facts["reached"] = float((arm.vectors @ trial.target_vectors.T).max(0).mean())
    if (uniform := next((a for a in trial.arms if a.name == UNIFORM), None)) and uniform is not arm:
        facts["also_uniform"] = arm.rows["id"].is_in(uniform.rows["id"].implode()).mean()
    return facts


def _sizes(rows: pl.DataFrame) -> np.ndarray:
    return plain_text(rows).str.len_bytes().to_numpy().astype(np.float64)
