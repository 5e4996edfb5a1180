"""How well each score of `context` tells answers that depend on the given text from those that do not.

Every score is measured on the labelled sets of `context_labels`, beside two that read no attention: the length of the
prompt and of the answer. What a score is worth is its AUROC: the chance that a random dependent answer scores higher
than a random independent one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.context_labels import Labelled, labelled

SCORES = ("raw", "lift", "sinkless", "share", "head", "mean", "gain passage", "gain user", "barred")
CONTROLS = ("prompt length", "answer length", "minus loss")
HEAD_ROWS = 8  # of each label, on which the strongest heads are found; they are not scored


def values(model: str, rows: Sequence[Labelled], measures: frozenset[str]) -> list[dict[str, Any]]:
    """Every score of every row that can be scored, with its label, source and lengths.

    Args:
        model: folder of a causal LM.
        rows: from `labelled`; where heads are to be barred, the first `HEAD_ROWS` of each label go to find them.
        measures: as a recipe names them; `gain` is measured with both kinds of withholding.
    """
    from mixtura.pipeline.attention.reader import AttentionReader
    from mixtura.pipeline.attention.survey import Conversation, Survey
    from mixtura.pipeline.lm import CausalLM

    # a batch per row: with so few rows of each length, batches would be filled up with copies
    reader = AttentionReader(CausalLM(model, max_tokens=2048, device="cpu", batch_tokens=1))
    given = [Conversation(r.messages) for r in rows]
    drawn, heads = [], []
    if "barred" in measures:
        drawn = [i for label in (0, 1) for i in [j for j, r in enumerate(rows) if r.label == label][:HEAD_ROWS]]
        read = Survey(reader, measures=frozenset()).read([given[i] for i in drawn])
        heads = reader.strongest_heads([x for r in read for x in r.readings], 0.05)
    kept = [i for i in range(len(rows)) if i not in drawn]
    found = Survey(reader, measures=measures, heads=heads, withheld="passage").measure([given[i] for i in kept])
    silent: list[dict[int, float]] = []
    if "gain" in measures:
        silent = Survey(reader, measures=measures, withheld="user").losses_without([given[i] for i in kept], found)
    out = []
    for at, (i, m) in enumerate(zip(kept, found, strict=True)):
        for turn, v in m.values.items():
            row = v | {"label": rows[i].label, "source": rows[i].source, "prompt length": len(rows[i].prompt)}
            row["answer length"] = len(rows[i].answer)
            if silent:
                row["gain passage"], row["minus loss"] = v["gain"], -v["loss"]
                row["gain user"] = silent[at][turn] / v["answer_tokens"] - v["loss"]
            out.append(row)
    return out


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """The chance that a dependent answer scores higher than an independent one, ties counted half."""
    from scipy.stats import rankdata

    high = int(label.sum())
    return float((rankdata(score)[label == 1].sum() - high * (high + 1) / 2) / (high * (len(label) - high)))


def interval(score: np.ndarray, label: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of `auroc` over rows drawn again, each label for itself."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(label == k) for k in (0, 1)]
    drawn = [np.concatenate([rng.choice(p, len(p)) for p in places]) for _ in range(draws)]
    low, high = np.quantile([auroc(score[d], label[d]) for d in drawn], (0.025, 0.975))
    return float(low), float(high)


def table(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Score → [AUROC, low, high], of those that the rows have."""
    label = np.array([r["label"] for r in rows])
    found = {}
    for name in (*SCORES, *CONTROLS):
        if all(name in r for r in rows):
            score = np.array([r[name] for r in rows], float)
            found[name] = [round(x, 3) for x in (auroc(score, label), *interval(score, label))]
    return found


def measure(
    model: str,
    data: Path,
    rows: int,
    seeds: Sequence[int],
    keep: Path,
    sets: Sequence[str],
    measures: frozenset[str] = frozenset({"attention", "gain", "barred"}),
) -> dict[str, dict[str, list[float]]]:
    """Tables of the sets over all seeds' draws; values are kept in a file, set by set, and not measured twice."""
    kept = json.loads(keep.read_text()) if keep.exists() else {}
    for seed in seeds:
        for name, some in labelled(data, rows, seed).items():
            if name in sets and (key := f"{name} {seed}") not in kept:
                kept[key] = values(model, some, measures)
                keep.write_text(json.dumps(kept))
                print(key, json.dumps(table(kept[key])), flush=True)
    names = dict.fromkeys(key.rsplit(" ", 1)[0] for key in kept)
    return {n: table([r for key, found in kept.items() if key.rsplit(" ", 1)[0] == n for r in found]) for n in names}
