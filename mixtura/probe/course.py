"""What a model goes through for one arm: warm-up on its picks, measuring, fine-tuning, measuring; kept by content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixtura.probe.learner import Learner
from mixtura.recipe.model import digest
from mixtura.store import Store, code_version
from mixtura.trainer.encode import Encoded

STAGES = ("warmed", "tuned", "kept")  # target after the warm-up; after fine-tuning; reference after the warm-up
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Course:
    """What is the same for all arms of a trial.

    target, kept: held-out rows of target and reference; tuning: target rows to fine-tune on; tokens: of the warm-up;
    seed: of the order of rows.
    """

    target: Encoded
    kept: Encoded
    tuning: Encoded
    tokens: int
    seed: int

    @property
    def identity(self) -> list[Any]:
        """Its content, as JSON."""
        return [self.target.digest, self.kept.digest, self.tuning.digest, self.tokens, self.seed]


def averaged(learner: Learner, store: Store, course: Course, arm: Encoded | None, orders: int) -> dict[str, np.ndarray]:
    """As `measure`, averaged over some orders of the rows: the course's own, and others that its seed gives.

    Returns:
        Stage → f64[rows], nats.
    """
    seeds = [course.seed, *(int(s) for s in np.random.SeedSequence(course.seed).generate_state(orders - 1))]
    found = [measure(learner, store, replace(course, seed=seed), arm) for seed in seeds]
    return {stage: np.mean([nats[stage] for nats in found], axis=0) for stage in STAGES}


def measure(learner: Learner, store: Store, course: Course, arm: Encoded | None) -> dict[str, np.ndarray]:
    """Losses of a model warmed up on an arm's picks, found in the store or made.

    Args:
        learner: the model; where it stands is lost.
        store: keeps losses by the content of model, arm and course.
        course: what all arms go through.
        arm: the picks; None for no warm-up.

    Returns:
        Stage → f64[rows], nats.
    """

    def write(folder: Path) -> dict[str, Any]:
        for stage, nats in _go(learner, course, arm).items():
            np.save(folder / f"{stage}.npy", nats)
        return {"tokens": course.tokens if arm else 0}

    made = store.make(
        "probe-losses",
        write,
        inputs=[learner.digest, arm.digest if arm else "", digest(course.identity)],
        spec=learner.spec.model_dump(exclude={"model", "pretrain_tokens", "seeds", "orders"})
        | {"device": learner.device.type},
        code=code_version(__name__, LIBRARIES),
    )
    return {stage: np.load(made.file(f"{stage}.npy")) for stage in STAGES}


def _go(learner: Learner, course: Course, arm: Encoded | None) -> dict[str, np.ndarray]:
    spec, tuning = learner.spec, course.tuning
    learner.reset()
    if arm:
        learner.train(arm, course.tokens, rate=spec.learning_rate, seed=course.seed)
    warmed, kept = learner.losses(course.target), learner.losses(course.kept)
    learner.train(tuning, spec.finetune_epochs * tuning.counts.tokens, rate=spec.learning_rate, seed=course.seed)
    return {"warmed": warmed, "kept": kept, "tuned": learner.losses(course.target)}
