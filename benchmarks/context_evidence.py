"""How well each score of `context` tells answers that depend on the given text from those that do not.

Every score is measured on the labelled sets of `context_labels`, beside controls that read no attention: the length of
the prompt and of the answer, the loss, and `overlap`, the share of the answer's words that the prompt has. What a score
is worth is its AUROC: the chance that a random dependent answer scores higher than a random independent one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.context_labels import Labelled, labelled
from mixtura.pipeline.attention.options import Measure

BAND = 6  # layers that are averaged, the probed one the last: a fifth of the probe's
READ = ("raw", "head", "mean", "peak", "lift", "sinkless", "share")
SCORES = (*READ, *(f"{name}, {BAND} layers" for name in READ), "gain passage", "gain user", "barred")
CONTROLS = ("prompt tokens", "answer tokens", "overlap", "minus loss")
HEAD_ROWS = 8  # of each label, on which the strongest heads are found; they are not scored


def values(model: str, rows: Sequence[Labelled], measures: frozenset[Measure]) -> list[dict[str, Any]]:
    """Every score of every row that can be scored, with its label, source and controls.

    Args:
        model: folder of a causal LM.
        rows: from `labelled`; where heads are to be barred, the first `HEAD_ROWS` of each label go to find them.
        measures: as a recipe names them; `gain` is measured with both kinds of withholding.

    Returns:
        A dictionary for each row; `layers` has raw and peak of every layer, from the first.
    """
    from mixtura.pipeline.attention.reader import AttentionReader
    from mixtura.pipeline.attention.survey import Conversation, Survey
    from mixtura.pipeline.lm import CausalLM

    # a batch per row: with so few rows of each length, batches would be filled up with copies
    lm = CausalLM(model, max_tokens=2048, device="cpu", batch_tokens=1)
    reader = AttentionReader(lm)
    every = AttentionReader(lm, layer=max(reader.layers), averaged=len(reader.layers))
    given = [Conversation(r.messages) for r in rows]
    drawn, heads = [], []
    if "barred" in measures:
        drawn = [i for label in (0, 1) for i in [j for j, r in enumerate(rows) if r.label == label][:HEAD_ROWS]]
        read = Survey(reader, measures=frozenset()).read([given[i] for i in drawn])
        heads = reader.strongest_heads([x for r in read for x in r.readings], 0.05)
    kept = [i for i in range(len(rows)) if i not in drawn]
    some, asked = [given[i] for i in kept], measures - {"attention"}
    found = Survey(reader, measures=asked, heads=heads, withheld="passage").measure(some)
    silent: list[dict[int, float]] = []
    if "gain" in measures:
        silent = Survey(reader, measures=asked, withheld="user").losses_without(some, found)
    out = []
    for at, (i, m) in enumerate(zip(kept, found, strict=True)):
        readings = Survey(reader, measures=frozenset()).read([given[i]])[0].readings
        attended = {t: a for x in every.accounts_by_layer(readings) for t, a in x.items()}
        for turn, v in m.values.items():
            row = v | _controls(rows[i]) | _attention(attended[turn], reader.layer)
            row |= {"prompt tokens": readings[0].answers[0].begin, "answer tokens": v["answer_tokens"]}
            if silent:
                row["gain passage"], row["minus loss"] = v["gain"], -v["loss"]
                row["gain user"] = silent[at][turn] / v["answer_tokens"] - v["loss"]
            out.append(row)
    return out


def _controls(row: Labelled) -> dict[str, Any]:
    """What is known of a row without a model."""
    prompt, answer = (re.findall(r"\w+", text.lower()) for text in (row.prompt, row.answer))
    overlap = float(np.mean([w in set(prompt) for w in answer])) if answer else 0.0
    return {"label": row.label, "source": row.source, "pair": row.pair, "overlap": overlap}


def _attention(layers: Sequence[Mapping[str, float]], layer: int) -> dict[str, Any]:
    """Columns of one layer, and of those up to it, averaged."""
    band = layers[max(0, layer + 1 - BAND) : layer + 1]
    one = {name: layers[layer][name] for name in READ}
    averaged = {f"{name}, {BAND} layers": float(np.mean([x[name] for x in band])) for name in READ}
    return one | averaged | {"layers": {name: [x[name] for x in layers] for name in ("raw", "peak")}}


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """The chance that a dependent answer scores higher than an independent one, ties counted half."""
    from scipy.stats import rankdata

    high = int(label.sum())
    return float((rankdata(score)[label == 1].sum() - high * (high + 1) / 2) / (high * (len(label) - high)))


def interval(
    score: np.ndarray, label: np.ndarray, draws: int = 2000, seed: int = 0, pairs: Sequence[str] = ()
) -> tuple[float, float]:
    """The 95 % interval of `auroc` over rows drawn again: each label for itself; whole pairs where there are."""
    rng = np.random.default_rng(seed)
    if len(pairs) and all(pairs):
        groups = [np.flatnonzero(np.array(pairs) == p) for p in dict.fromkeys(pairs)]
        drawn = [np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]) for _ in range(draws)]
        drawn = [d for d in drawn if 0 < label[d].sum() < len(d)]
    else:
        places = [np.flatnonzero(label == k) for k in (0, 1)]
        drawn = [np.concatenate([rng.choice(p, len(p)) for p in places]) for _ in range(draws)]
    low, high = np.quantile([auroc(score[d], label[d]) for d in drawn], (0.025, 0.975))
    return float(low), float(high)


def table(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Score → [AUROC, low, high], of those that the rows have."""
    label = np.array([r["label"] for r in rows])
    pairs = [r.get("pair", "") for r in rows]
    found = {}
    for name in (*SCORES, *CONTROLS):
        if all(name in r for r in rows):
            score = np.array([r[name] for r in rows], float)
            found[name] = [round(x, 3) for x in (auroc(score, label), *interval(score, label, pairs=pairs))]
    return found


def by_layer(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Raw and peak → AUROC of each layer alone, from the first."""
    label = np.array([r["label"] for r in rows])
    made = {name: np.array([r["layers"][name] for r in rows]).T for name in ("raw", "peak")}
    return {name: [round(auroc(layer, label), 3) for layer in layers] for name, layers in made.items()}


def measure(
    model: str, data: Path, rows: int, seeds: Sequence[int], keep: Path, sets: Mapping[str, frozenset[Measure]]
) -> dict[str, list[dict[str, Any]]]:
    """Values of the sets over all seeds' draws; what the file `keep` has is not measured twice.

    Args:
        model: folder of a causal LM.
        data: folder of the unpacked sets.
        rows: of each label and seed.
        seeds: of the draws.
        keep: JSON, written after every set and seed.
        sets: which, and what is measured on each.
    """
    kept = json.loads(keep.read_text()) if keep.exists() else {}
    for seed in seeds:
        drawn = labelled(data, rows, seed)
        for name, measures in sets.items():
            if (key := f"{name} {seed}") not in kept:
                kept[key] = values(model, drawn[name], measures)
                for row in kept[key]:
                    row["pair"] = f"{seed} {row['pair']}" if row["pair"] else ""
                keep.write_text(json.dumps(kept))
                print(key, json.dumps({k: v[0] for k, v in table(kept[key]).items()}), flush=True)
    return {n: [r for s in seeds for r in kept[f"{n} {s}"]] for n in sets}
