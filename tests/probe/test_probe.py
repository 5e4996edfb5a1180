"""The experiment on planted text: the target's kind is rare in the reference, so picks of that kind must help."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.probe.arms import draw, probed
from mixtura.probe.course import STAGES, Course, averaged, measure
from mixtura.probe.learner import Learner
from mixtura.probe.session import probe
from mixtura.recipe import Probe, TinyModel
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings
from mixtura.store import Store
from mixtura.trainer.mixture import Row
from mixtura.trainer.model import prepare_tiny

KINDS = {k: [f"{k}{i}" for i in range(60)] for k in ("ab", "cd", "ef")}
RECIPE = {
    "name": "probed",
    "sources": {"web": {"files": "web.jsonl"}},
    "target": {"files": "target.jsonl", "rows": 50, "heldout_rows": 30},
    "reference": {"files": "reference.jsonl", "rows": 200},
    "embed": {"dimensions": 16},
    "select": [{"selector": "nudge", "pick": {"budget_tokens": 4_000}}],
    "probe": {
        "seeds": 2,
        "pretrain_tokens": 30_000,
        "model": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 400},
        "batch_tokens": 512,
        "sequence_length": 64,
        "finetune_rows": 10,
        "finetune_epochs": 1,
    },
}


def build(base: Path) -> Path:
    rng = random.Random(0)

    def text(kind: str) -> str:
        return " ".join(rng.choice(KINDS[kind]) if rng.random() < 0.6 else f"the{rng.randrange(30)}" for _ in range(30))

    kinds = {
        "web": [rng.choice(["ab", "cd", "ef"]) for _ in range(500)],
        "target": ["cd"] * 90,
        "reference": ["ab"] * 400,
    }
    for name, drawn in kinds.items():
        (base / f"{name}.jsonl").write_text("".join(json.dumps({"text": text(k)}) + "\n" for k in drawn))
    (base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return base / "recipe.yaml"


def plan_of(path: Path, **changes) -> Plan:
    recipe = recipe_file.load(path)
    return Plan.of(recipe.model_copy(update=changes), Settings(base=str(path.parent), workers=1))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("probe"))
    lines: list[str] = []
    return path, probe(plan_of(path), lines.append), lines


def test_picks_of_the_targets_kind_beat_uniform_ones(measured):
    _, evidence, lines = measured
    arms = {a.name: a for a in evidence.arms}
    assert set(arms) == {"no warm-up", "nudge", "uniform"}
    assert arms["nudge"].warmed < arms["uniform"].warmed < arms["no warm-up"].warmed
    assert arms["nudge"].gain[1] > 0  # the interval is clear of zero
    assert arms["uniform"].gain is None
    assert arms["nudge"].tuned < arms["nudge"].warmed
    assert 0 < arms["nudge"].coverage <= 1
    assert len(lines) == 2 * 3


def test_the_mixture_is_written_with_what_was_measured(measured):
    path, evidence, _ = measured
    done = curate(plan_of(path))
    assert done.summary.evidence == evidence
    other = curate(plan_of(path, seed=5, name="other"))
    assert other.summary.evidence is None  # another recipe was not probed


def test_a_changed_selection_is_trained_alone_and_measures_as_if_all_were(measured, tmp_path):
    path, evidence, _ = measured
    near = {"selector": "nearest", "pick": {"budget_tokens": 4_000}}
    both = recipe_file.build({**RECIPE, "select": [*RECIPE["select"], near]})
    kept = path.parent / ".mixtura" / "probe-losses"
    before = set(kept.rglob("*.npy"))
    again = probe(plan_of(path, select=both.select))
    assert len(before) == 2 * 3 * 3  # seeds × (no warm-up, nudge, uniform) × stages
    assert len(set(kept.rglob("*.npy")) - before) == 2 * 1 * 3  # nearest alone
    fresh = Settings(base=str(path.parent), workers=1, store=str(tmp_path / "fresh"))
    anew = probe(Plan.of(recipe_file.load(path).model_copy(update={"select": both.select}), fresh))
    assert again == anew
    assert {a.name: a.warmed for a in evidence.arms}.items() <= {a.name: a.warmed for a in again.arms}.items()


def test_several_orders_are_measured_each_as_if_alone_and_averaged(measured):
    path, once, _ = measured
    kept = path.parent / ".mixtura" / "probe-losses"
    spec = Probe(**RECIPE["probe"], orders=3)
    before = set(kept.rglob("warmed.npy"))
    thrice = probe(plan_of(path, probe=spec))
    new = set(kept.rglob("warmed.npy")) - before
    assert len(new) == 2 * 2 * 3  # seeds × further orders × (no warm-up, nudge, uniform): the first order is known
    base = {a.name: a for a in once.arms}
    for arm in thrice.arms:
        if arm.name == "no warm-up":  # nothing to order before the fine-tuning
            assert arm.warmed == pytest.approx(base[arm.name].warmed)
        else:
            assert arm.warmed != base[arm.name].warmed
        assert arm.tuned != base[arm.name].tuned
    assert probe(plan_of(path, probe=spec)) == thrice
    assert thrice.orders == 3


@pytest.fixture
def twelve(tmp_path):
    """Twelve rows, a learner of its own tokenizer, and the rows encoded by it."""
    spec = Probe(**RECIPE["probe"])
    rows = [Row(text=f"{i} alpha beta gamma delta " * (1 + 9 * (i % 3))) for i in range(12)]
    folder = prepare_tiny((r.text or "" for r in rows), TinyModel(**RECIPE["probe"]["model"]), tmp_path / "m", seed=1)
    learner = Learner(folder, spec)
    encoded = learner.encode(rows)
    return rows, learner, encoded


def test_the_average_over_orders_is_that_of_trainings_by_hand(twelve, tmp_path):
    _, learner, encoded = twelve
    course, store = Course(encoded, encoded, encoded, 2_000, seed=7), Store(tmp_path / "store")
    two = averaged(learner, store, course, encoded, 2)
    seeds = [7, int(np.random.SeedSequence(7).generate_state(1)[0])]
    alone = [measure(learner, Store(tmp_path / "other"), replace(course, seed=s), encoded) for s in seeds]
    assert not np.array_equal(alone[0]["warmed"], alone[1]["warmed"])
    for stage in STAGES:
        np.testing.assert_allclose(two[stage], (alone[0][stage] + alone[1][stage]) / 2, rtol=1e-12)


def test_the_model_begins_anew_for_every_arm_and_losses_add_up(twelve):
    rows, learner, encoded = twelve
    before = learner.losses(encoded)
    learner.train(encoded, 2_000, rate=1e-2, seed=0)
    after = learner.losses(encoded)
    assert after.sum() < before.sum()
    learner.reset()
    assert np.array_equal(learner.losses(encoded), before)
    alone = np.array([learner.losses(learner.encode([r]))[0] for r in rows])  # long rows are several pieces
    assert before == pytest.approx(alone, rel=1e-4)


def test_heldout_rows_are_the_same_for_every_seed(tmp_path):
    plan = plan_of(build(tmp_path))
    with plan.workers:
        one, two = (draw(plan, seed) for seed in (1, 2))
    assert one.heldout.equals(two.heldout)
    assert one.reference_heldout.equals(two.reference_heldout)
    assert not one.target.equals(two.target)
    assert not set(one.target["id"]) & set(one.heldout["id"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": None, "select": [{"selector": "uniform", "pick": {"budget_rows": 9}}]}, "target.heldout_rows"),
        ({"target": {"files": "target.jsonl"}}, "target.heldout_rows"),
        (
            {"select": [*RECIPE["select"], {"selector": "nearest", "pick": {"budget_rows": 9}}]},
            "must all have a budget of tokens, or all one of rows",
        ),
        (
            {"select": [{"selector": "nearest", "name": "uniform", "pick": {"budget_rows": 9}}]},
            "must not name another selection 'uniform'",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(changes, said):
    with pytest.raises(InputError, match=said):
        probed(recipe_file.build({**RECIPE, **changes}))


def test_all_arms_have_the_largest_budget_and_replay_is_the_uniform_arm():
    replay = {"selector": "uniform", "name": "replay", "pick": {"budget_tokens": 100}}
    arms = probed(recipe_file.build({**RECIPE, "select": [*RECIPE["select"], replay]})).select
    assert [(a.word, a.pick.budget_tokens) for a in arms] == [("nudge", 4_000), ("uniform", 4_000)]
