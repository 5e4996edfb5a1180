"""The figures of the context benchmark, where their values are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.context_evidence import auroc, interval, table


def test_auroc_counts_pairs():
    """Pairs won of 2 x 3: 0.8 beats all, 0.4 beats 0.1, ties with 0.4 (a half), loses to 0.5: 4.5 of 6."""
    score, label = np.array([0.8, 0.4, 0.1, 0.4, 0.5]), np.array([1, 1, 0, 0, 0])
    assert auroc(score, label) == 4.5 / 6
    assert auroc(-score, label) == 1.5 / 6


def test_a_score_without_a_say_lies_in_the_middle_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=400), np.arange(400) % 2
    low, high = interval(score, label, draws=300)
    assert low < 0.5 < high
    assert high - low < 0.13  # 4 standard errors of 1 / sqrt(12 x 200) or so


def test_the_table_has_the_scores_that_every_row_has():
    rows = [{"label": i % 2, "raw": i % 2 + i / 100, "prompt length": 5} for i in range(20)]
    found = table([*rows[:-1], rows[-1] | {"gain user": 1.0}])
    assert found == {"raw": [1.0, 1.0, 1.0], "prompt length": [0.5, 0.5, 0.5]}
