"""The figures of the context benchmark, where their values are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.context_evidence import auroc, interval, table
from benchmarks.context_labels import Labelled, _matched, _swapped, words
from benchmarks.context_questions import Question, parted, swapped
from benchmarks.context_tuning import difference


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
    rows = [{"label": i % 2, "raw": i % 2 + i / 100, "prompt tokens": 5} for i in range(20)]
    found = table([*rows[:-1], rows[-1] | {"gain user": 1.0}])
    assert found == {"raw": [1.0, 1.0, 1.0], "prompt tokens": [0.5, 0.5, 0.5]}


def test_rows_of_a_pair_are_drawn_together():
    """In every pair the dependent row scores higher, so no draw of pairs can lose one."""
    score, label = np.array([4.0, 5.0] * 30), np.array([0, 1] * 30)
    assert interval(score, label, draws=50, pairs=[str(i // 2) for i in range(60)]) == (1.0, 1.0)


def labelled_row(prompt: str, answer: str, label: int) -> Labelled:
    return Labelled("s", prompt, answer, label)


def test_matched_prompts_are_as_long_and_each_is_used_once():
    rng = np.random.default_rng(0)
    dependent = {"a": [labelled_row("w " * n, "x", 1) for n in (40, 40, 70, 200)]}
    free = {"b": [labelled_row("v " * n, "y " * k, 0) for n, k in ((40, 9), (41, 1), (72, 3), (90, 1))]}
    made = _matched(dependent, free, 9, rng)
    pairs = [(words(a.prompt), words(b.prompt), words(b.answer)) for a, b in zip(made[::2], made[1::2], strict=True)]
    assert sorted(pairs) == [(40, 40, 9), (40, 41, 1), (70, 72, 3)]  # 200 has none within 3 %
    assert all(a.pair == b.pair and (a.label, b.label) == (1, 0) for a, b in zip(made[::2], made[1::2], strict=True))


def test_swapped_passages_are_as_long_and_lack_the_answer():
    texts = ["salt dissolves in warm water " * 4, "the cat sat on mats " * 4, "salt and more salt in soup " * 4]
    rows = [labelled_row(f"{t.strip()}\nWhat?", t.split()[0], 1) for t in texts]
    made = list(_swapped(rows[:1], {"s": rows}))
    assert [r.label for r in made] == [1, 0]
    assert "salt" not in made[1].prompt
    assert made[1].answer == "salt"
    assert abs(words(made[1].prompt) - words(made[0].prompt)) <= 0.03 * words(made[0].prompt)


def test_no_text_is_learned_and_asked():
    rows = [Question(f"q{i}", "a", "", 1, text=f"t{i // 3}") for i in range(60)]
    parts = parted(rows, [6, 9])
    assert [len(p) for p in parts] == [6, 9, 45]
    assert sum(len({q.text for q in p}) for p in parts) == len({q.text for p in parts for q in p}) == 20
    other = swapped([Question("q", "salt", "salt here", 1), Question("r", "cat", "a cat", 1)], 0)
    assert [(q.passage, q.label) for q in other] == [("a cat", 0), ("salt here", 0)]


def test_a_difference_is_that_of_arms_in_the_same_seeds():
    lines = [
        {"arm": arm, "seed": seed, "held": {"passage": {"exact": [1, hit] * 20}}}
        for seed in (1, 2, 3)
        for arm, hit in (("a", 1), ("b", 0))
    ]
    gap, low, high = difference(lines, ("a", "passage"), ("b", "passage"), "exact")
    assert gap == 0.5
    assert 0.3 < low < 0.5 < high < 0.7
