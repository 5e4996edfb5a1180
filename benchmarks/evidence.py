"""Does nudging help? Every selector on four real targets and two budgets, by the machinery of `mixtura probe`.

    python -m benchmarks.evidence --data DIR --folder WORK [--targets chemistry halves] [--budgets 50000 150000]
                                  [--seeds 5] [--first 1] [--orders 1] [--heldout 400] [--arms nudge nearest]
                                  [--large]
    python -m benchmarks.evidence --folder WORK --table

DIR holds the unpacked real data (see `evidence_corpus`). A small model is pre-trained on the reference; for each
target, budget and seed it is warmed up on the picks of each selector at equal tokens, then fine-tuned on a few rows of
the target; with `--orders` several times, the rows in another order each time, and averaged. Cells that are in WORK
already are not run again, nor are arms whose picks are those of an earlier run.
`--large` trains a model of 50 million parameters: for a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks import evidence_corpus, evidence_table
from mixtura import recipe_file
from mixtura.probe.arms import draw, probed
from mixtura.probe.experiment import BASE, run
from mixtura.probe.learner import prepare
from mixtura.recipe import Probe, Recipe, TinyModel
from mixtura.stages.plan import Plan, Settings
from mixtura.store import Store
from mixtura.trainer.mixture import as_rows

SMALL = Probe(
    model=TinyModel(layers=4, width=96, heads=4, vocabulary=2048),
    pretrain_tokens=4_000_000,
    finetune_rows=100,
    finetune_epochs=2,
)
LARGE = Probe(
    model=TinyModel(layers=8, width=640, heads=10, vocabulary=8192),
    pretrain_tokens=200_000_000,
    batch_tokens=32_768,
    micro_batch=64,
)
BY_HAND = {  # the source that a person would take for the target: arm `source`, rows of it as `uniform` draws them
    "chemistry": "medquad",  # the medical one
    "computing": "arxiv",  # abstracts, as the target's rows are
    "halves": "code",  # the half that the reference lacks
    "sums": "instructions",  # questions that are to be answered
}
ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"selector": "uniform"},  # every probe's own yardstick: always among them
    "source": {"selector": "uniform"},
    "nearest": {"selector": "nearest"},
    "dsir": {"selector": "dsir"},
    "got-d": {"selector": "nudge", "rule": "got-d"},
    "nudge": {"selector": "nudge"},
}
TARGET_ROWS, REFERENCE_ROWS = 400, 6_000


@dataclass(frozen=True)
class Protocol:
    """What is the same in every cell. arms: names in ARMS, uniform among them; heldout: rows to measure on."""

    seeds: range
    arms: tuple[str, ...]
    heldout: int
    spec: Probe

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON."""
        spec = self.spec.model_dump(mode="json")
        return {"seeds": [*self.seeds], "arms": [*self.arms], "heldout": self.heldout, "spec": spec}


def recipe_of(target: str, budget: int, folder: Path, protocol: Protocol) -> Recipe:
    """One cell's recipe: tokens are counted by the small model's own tokenizer."""
    kinds = sorted(p.stem for p in (folder / "pool").glob("*.jsonl"))
    select = []
    for name in protocol.arms:
        arm = ARMS[name]
        pick = {"budget_tokens": budget} | {k: v for k, v in arm.items() if k == "rule"}
        sources = [BY_HAND[target]] if name == "source" else []
        select.append({"name": name, "selector": arm["selector"], "sources": sources, "pick": pick})
    tree = {
        "name": f"{target}-{budget}",
        "sources": {kind: {"files": f"pool/{kind}.jsonl"} for kind in kinds},
        "target": {"files": f"{target}.jsonl", "rows": TARGET_ROWS, "heldout_rows": protocol.heldout},
        "reference": {"files": "reference.jsonl", "rows": REFERENCE_ROWS},
        "clean": {"min_chars": 80, "repetition": {}, "tokenizer": str(folder.resolve() / "model")},
        "select": select,
    }
    return probed(recipe_file.build(tree))


def claim(folder: Path, spec: Probe) -> None:
    """Begin a folder, or go on in one of the same corpora and base model.

    Raises:
        SystemExit: it is of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = spec.model_dump(mode="json", include={"model", "pretrain_tokens"})
    ours, made = {"corpora": evidence_corpus.EDITION, **base}, folder / "made.json"
    if not made.exists() and not (folder / "reference.jsonl").exists():
        made.write_text(json.dumps(ours))
    if not made.exists() or (theirs := json.loads(made.read_text())) != ours:
        theirs = theirs if made.exists() else "nothing that says what it is of"
        raise SystemExit(f"{folder} must be of {ours}; got {theirs}. Name another folder.")


def base_model(folder: Path, spec: Probe) -> Path:
    """The pre-trained model, made once."""
    out = folder / "model"
    if not out.exists():
        rows = as_rows(pl.read_ndjson(folder / "reference.jsonl"))
        begun = time.perf_counter()
        prepare(spec, rows, out, seed=0)
        print(f"pre-trained on {spec.pretrain_tokens:,} tokens in {time.perf_counter() - begun:.0f} s", flush=True)
    return out


def cell(target: str, budget: int, folder: Path, model: Path, protocol: Protocol) -> dict[str, Any]:
    """One target at one budget."""
    recipe = recipe_of(target, budget, folder, protocol)
    settings = Settings(base=str(folder), workers=1, store=str(folder / f"store-{target}"), shard_rows=5_000)
    begun = time.perf_counter()
    with (plan := Plan.of(recipe, settings)).workers:
        trials = [draw(plan, seed) for seed in protocol.seeds]
    drawn = time.perf_counter()
    losses = Store(folder / "losses")
    told = run(model, protocol.spec, trials, losses, lambda line: print(f"{target} {budget:,}  {line}", flush=True))
    return {
        "target": target,
        "budget": budget,
        "protocol": protocol.facts,
        "seconds": {"draw": drawn - begun, "train": time.perf_counter() - drawn},
    } | told


def _is_done(out: Path, protocol: Protocol) -> bool:
    """Whether a cell lies there that was run by this protocol."""
    return out.exists() and json.loads(out.read_text()).get("protocol") == protocol.facts


def main() -> None:
    """Run the cells that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", choices=evidence_corpus.TARGETS, default=evidence_corpus.TARGETS)
    parser.add_argument("--budgets", nargs="+", type=int, default=[50_000, 150_000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--orders", type=int, default=1, help="trainings of each arm in a seed, averaged")
    parser.add_argument("--heldout", type=int, default=400, help="target rows to measure on")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="uniform picks are always there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    results = given.folder / "results"
    if given.table:
        print(evidence_table.render([json.loads(p.read_text()) for p in results.glob("*.json")]))
        return
    torch.set_num_threads(given.threads)
    spec = Probe.model_validate((LARGE if given.large else SMALL).model_dump() | {"orders": given.orders})
    arms = tuple(name for name in ARMS if name in {"uniform", *given.arms})
    protocol = Protocol(range(given.first, given.first + given.seeds), arms, given.heldout, spec)
    claim(given.folder, spec)
    if not (given.folder / "reference.jsonl").exists():
        evidence_corpus.build(given.data, given.folder)
    model = base_model(given.folder, spec)
    results.mkdir(exist_ok=True)
    for target in given.targets:
        for budget in given.budgets:
            out = results / f"{target}-{budget}.json"
            if not _is_done(out, protocol):
                out.write_text(json.dumps(cell(target, budget, given.folder, model, protocol), indent=1))
    print(json.dumps({"cells": len(list(results.glob("*.json"))), "baseline": BASE}))


if __name__ == "__main__":
    main()
