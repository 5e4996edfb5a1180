"""Does it pay to divide a domain into steps? A small LM per step, per action, for all steps, and on undivided data.

    python -m benchmarks.subtasks --data DATA [--quick]

Domain: reading science, five steps in three actions, on real labelled sentences. Every arm starts from one model,
pre-trained on abstracts, and trains on equally many tokens in all: five models of a step share what one mixed model
gets. `undivided` sees the same rows as documents with their label at the end, without instructions, and is judged in
that form. An answer is the label that the model holds most likely. No row is longer than a sequence: a conversation
that is loses its end, which is the label. A line of JSON for each seed as it ends, and at last one JSON object of all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixtura.pipeline.threads import one_thread
from mixtura.probe.learner import Learner, prepare
from mixtura.recipe import Probe, TinyModel
from mixtura.tasks import pool, schema
from mixtura.tasks.pool import Task
from mixtura.tasks.template import Template
from mixtura.trainer.encode import Encoded
from mixtura.trainer.mixture import Row

POOL = """
domain: science
actions:
  read_citations:
    steps:
      intent:
        kind: classify
        instructions: {en: ["Why does the author cite this work?"]}
        output: "{label}"
        output_schema: {type: string, enum: [Background, CompareOrContrast, Extends, Future, Motivation, Uses]}
      section_role:
        kind: classify
        instructions: {en: ["Is the citation background, method or result?"]}
        output: "{label}"
        output_schema: {type: string, enum: [background, method, result]}
  read_relations:
    steps:
      chemical_protein:
        kind: classify
        instructions: {en: ["What does the chemical do to the protein?"]}
        output: "{label}"
        output_schema: {type: string, enum: [ACTIVATOR, AGONIST, AGONIST-ACTIVATOR, AGONIST-INHIBITOR, ANTAGONIST,
          DOWNREGULATOR, INDIRECT-DOWNREGULATOR, INDIRECT-UPREGULATOR, INHIBITOR, PRODUCT-OF, SUBSTRATE,
          SUBSTRATE_PRODUCT-OF, UPREGULATOR]}
      terms:
        kind: classify
        instructions: {en: ["How are the two marked terms related?"]}
        output: "{label}"
        output_schema: {type: string, enum: [COMPARE, CONJUNCTION, EVALUATE-FOR, FEATURE-OF, HYPONYM-OF, PART-OF,
          USED-FOR]}
  read_abstracts:
    steps:
      sentence_role:
        kind: classify
        instructions: {en: ["What part of the abstract is this sentence?"]}
        output: "{label}"
        output_schema: {type: string, enum: [background, method, objective, other, result]}
"""
FILES = {
    "intent": "citation_intent", "section_role": "sci-cite", "chemical_protein": "chemprot",
    "terms": "sciie-relation-extraction",
}  # fmt: skip
MAX_CHARS = 260  # with instruction and label at most 256 tokens, see `_encode`
ARMS = ("per_step", "per_action", "mixed", "undivided", "base")
RATE = 1e-3


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked real data")
    parser.add_argument("--tokens", type=int, default=1_200_000, help="that each arm trains on, all models together")
    parser.add_argument("--pretrain", type=int, default=800_000, help="tokens of abstracts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout", type=int, default=100, help="test rows of each step")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, a tenth of the tokens: 2 minutes on a free core"
    )
    given = parser.parse_args()
    if given.quick:
        given.tokens, given.pretrain, given.seeds, given.heldout = 80_000, 80_000, 1, 20
    with one_thread():
        print(json.dumps(measure(given.data, given.tokens, given.pretrain, given.seeds, given.heldout)))


def measure(data: Path, tokens: int, pretrain: int, seeds: int, heldout: int) -> dict[str, Any]:
    """Accuracy on held-out rows, by arm and step: the mean over seeds, and each seed's mean over steps."""
    tasks = list(pool.parse(POOL).tasks())
    spec = Probe(
        model=TinyModel(layers=2, width=96, heads=4, vocabulary=2048),
        pretrain_tokens=pretrain, sequence_length=256, batch_tokens=2_048, micro_batch=8,
    )  # fmt: skip
    abstracts = list(islice(_abstracts(data), 6_000))
    train = {t.id: _rows(data, t, "train") for t in tasks}
    test = {t.id: _rows(data, t, "test") for t in tasks}
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            learner = Learner(prepare(spec, abstracts, Path(folder) / "base", seed=seed), spec)
            drawn = {i: _drawn(rows, heldout, seed) for i, rows in test.items()}
            runs.append(_arms(learner, tasks, train, drawn, tokens, seed))
        told = {"seed": seed, "cpu_s": round(time.process_time()), "accuracy": runs[-1]}
        print(json.dumps(told), flush=True)
    majority = {t.id: _majority(train[t.id], test[t.id]) for t in tasks}
    return {
        "tokens": tokens,
        "seeds": seeds,
        "accuracy": {a: [round(float(np.mean(list(r[a].values()))), 4) for r in runs] for a in ARMS},
        "by_step": {a: {t.id: round(float(np.mean([r[a][t.id] for r in runs])), 4) for t in tasks} for a in ARMS},
        "majority": {
            **{i: round(m, 4) for i, m in majority.items()},
            "mean": round(float(np.mean(list(majority.values()))), 4),
        },
        "gain_over_undivided": {a: _interval([_gain(r, a) for r in runs]) for a in ARMS[:3]},
    }


def _arms(
    learner: Learner, tasks: Sequence[Task], train: Mapping[str, list], test: Mapping[str, list], tokens: int, seed: int
) -> dict[str, dict[str, float]]:
    """Arm → step → accuracy."""
    actions = list(dict.fromkeys(t.action for t in tasks))
    groups = {
        "per_step": [[t] for t in tasks],
        "per_action": [[t for t in tasks if t.action == a] for a in actions],
        "mixed": [list(tasks)],
        "undivided": [list(tasks)],
        "base": [],
    }
    found: dict[str, dict[str, float]] = {}
    for arm, parts in groups.items():
        asked = _document if arm == "undivided" else _asked
        found[arm] = {}
        for part in parts:
            learner.reset()
            rows = [asked(t, text, label) for t in part for text, label in _even(train, part, t, seed)]
            share = tokens * len(part) // len(tasks)
            learner.train(_encode(learner, rows), share, rate=RATE, seed=seed)
            found[arm] |= {t.id: _accuracy(learner, t, test[t.id], asked) for t in part}
        if not parts:
            learner.reset()
            found[arm] = {t.id: _accuracy(learner, t, test[t.id], asked) for t in tasks}
    return found


def _even(train: Mapping[str, list], part: Sequence[Task], task: Task, seed: int) -> list[tuple[str, str]]:
    """A task's rows; within a group no task has more rows than the smallest twice over, so that none drowns."""
    most = 2 * min(len(train[t.id]) for t in part)
    return _drawn(train[task.id], most, seed)


def _accuracy(learner: Learner, task: Task, rows: Sequence[tuple[str, str]], asked: Any) -> float:
    """Share of rows whose own label is the likeliest of the step's."""
    labels = task.step.output_schema["enum"]
    candidates = [asked(task, text, label) for text, _ in rows for label in labels]
    losses = learner.losses(_encode(learner, candidates)).reshape(len(rows), len(labels))
    right = [labels.index(label) for _, label in rows]
    return float((losses.argmin(1) == right).mean())


def _encode(learner: Learner, rows: Sequence[Row]) -> Encoded:
    """Token ids.

    Raises:
        ValueError: a row is cut, so that its label is lost, and every label would seem as likely.
    """
    encoded = learner.encode(rows)
    if encoded.counts.truncated or len(encoded) != len(rows):
        raise ValueError(f"every row must fit a sequence; got {encoded.counts}")
    return encoded


def _asked(task: Task, text: str, label: str) -> Row:
    """A row of the sub-task: instruction and text, then the label."""
    instruction = Template(task.step.instructions["en"][0]).text({})
    turns = [
        {"role": "user", "content": f"{instruction}\n\n{text}"},
        {"role": "assistant", "content": schema.write(task.step.output_schema, label)},
    ]
    return Row(None, turns, None)


def _document(task: Task, text: str, label: str) -> Row:
    """The same row undivided: a document of all its columns."""
    return Row(f"{text}\nlabel: {label}", None, None)


def _rows(data: Path, task: Task, split: str) -> list[tuple[str, str]]:
    """(text, label) of a step; of abstracts each sentence is a row."""
    if task.name == "sentence_role":
        found = []
        for file in sorted((data / "csabstruct").rglob(f"{split}.jsonl")):
            for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
                found += zip(record["sentences"], record["labels"], strict=True)
    else:
        file = data / "scibert_tasks" / "data" / "text_classification" / FILES[task.name] / f"{split}.txt"
        found = [(r["text"], r["label"]) for r in map(json.loads, file.read_text(encoding="utf-8").splitlines())]
    valid = [(_cut(text), label) for text, label in found if not schema.problems(task.step.output_schema, label)]
    assert len(valid) == len(found), f"{task.id}: {Counter(label for _, label in found)}"
    return valid


def _cut(text: str) -> str:
    """At most `MAX_CHARS`, the marked terms or the middle kept."""
    if len(text) <= MAX_CHARS:
        return text
    marks = [at for mark in ("<<", "[[", "]]", ">>") if (at := text.find(mark)) >= 0]
    middle = (min(marks) + max(marks)) // 2 if marks else len(text) // 2
    start = max(0, min(middle - MAX_CHARS // 2, len(text) - MAX_CHARS))
    return text[start : start + MAX_CHARS]


def _abstracts(data: Path) -> Iterator[Row]:
    """Abstracts of the pool, one per paper."""
    seen: set[str] = set()
    for file in sorted((data / "arxiv_daily" / "data").glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["id"] not in seen:
                    seen.add(record["id"])
                    yield Row(record["summary"][:1_000], None, None)


def _drawn(rows: list, count: int, seed: int) -> list:
    order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(order)]


def _majority(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    common = Counter(label for _, label in train).most_common(1)[0][0]
    return sum(label == common for _, label in test) / len(test)


def _gain(run: Mapping[str, Mapping[str, float]], arm: str) -> float:
    return float(np.mean(list(run[arm].values())) - np.mean(list(run["undivided"].values())))


def _interval(gains: list[float]) -> list[float]:
    """Mean and a 95 % interval by Student's t over seeds; the mean alone where there is one seed."""
    from scipy.stats import t

    mean = float(np.mean(gains))
    if len(gains) < 2:
        return [round(mean, 4)]
    half = float(t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / len(gains) ** 0.5)
    return [round(mean, 4), round(mean - half, 4), round(mean + half, 4)]


if __name__ == "__main__":
    main()
