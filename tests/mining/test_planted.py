"""The planted truth by which mining is measured: its rows and errors are what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import planted
from mixtura.checks.tool_calls import CHECK
from mixtura.mining.attempts import broken, questions


def test_the_world_is_what_it_says():
    """Of the planted errors, exactly those break a schema that are about names and types; right golds break none."""
    truth = planted.world(rows=600, seed=3, corrupt_share=0.3)
    found = questions(CHECK, CHECK.Spec(), truth.rows.to_dicts())
    breaks = np.array([bool(broken(q)) for q in found])
    by_schema = np.isin(truth.corrupt, ["missing_required", "hallucinated_arg", "type"])
    assert (breaks == by_schema).all()
    assert {*truth.corrupt} == {"", *planted.ERRORS}
    assert 0 < (~truth.taught).mean() < 0.3
    asked = [q.prompt[-1]["content"].split()[0] + "_it" for q in found]
    assert [a in truth.untaught for a in asked] == (~truth.taught).tolist()


def test_auroc_by_hand():
    """Positives 3 and 1 against 2 and 1: pairs won 1, 1, 0, and one tie."""
    assert planted.auroc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])) == 2.5 / 4
