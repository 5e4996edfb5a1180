"""render: a line from text and pseudo-label, the labeller against brute force, and what a line must give back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builder_cases import Case, made_row, run, shard_of, unit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixtura.builders.render import SHARPNESS, Spec, parse
from mixtura.errors import InputError

WORDS = {"0": "terrible", "1": "great"}
OPTIONS = {"label": "{label}", "words": WORDS}


def case(labelled: int = 20, raw: int = 30, **options) -> Case:
    """Reviews in two clouds; the first rows have labels. The paper's example: SST-2, 'It was great.'"""
    rng = np.random.default_rng(2)
    side = rng.integers(0, 2, labelled + raw)
    vectors = unit(rng.normal(0, 0.8, (labelled + raw, 6)) + np.where(side, 1, -1)[:, None] * np.eye(6)[0])
    rows = [
        made_row(i, text=f"review {i}", meta={"label": str(s)} if i < labelled else {"stars": 1})
        for i, s in enumerate(side.tolist())
    ]
    return Case(shard_of(rows, vectors), OPTIONS | options)


def test_the_papers_line():
    (built,) = run("render", case())
    lines = [r["text"] for r in built.rows]
    assert len(lines) == 30
    for i, (row, line) in enumerate(zip(built.rows, lines, strict=True), 20):
        about = json.loads(row["meta"])
        assert line == f"review {i}\nIt was {WORDS[about['pseudo_label']]}."
        assert about["loss_spans"] == [[0, len(line)]], "every token is learned from"
        assert 0.5 <= about["pseudo_conf"] <= 1
    assert [reason for _, reason, _ in built.refused] == ["labelled"] * 20


def test_the_labeller_by_brute_force():
    given_case = case(neighbours=5)
    (built,) = run("render", given_case)
    vectors = given_case.shard.vectors
    labels = [json.loads(m).get("label") for m in given_case.shard.rows["meta"]]
    for row, at in zip(built.rows, range(20, 50), strict=True):
        cosine = [(float(vectors[at] @ vectors[j]), j) for j in range(20)]  # pyright: ignore
        near = sorted(cosine, reverse=True)[:5]
        votes = {name: sum(np.exp(SHARPNESS * s) for s, j in near if labels[j] == name) for name in "01"}
        best = max(votes, key=lambda n: votes[n])
        about = json.loads(row["meta"])
        assert about["pseudo_label"] == best
        assert about["pseudo_conf"] == pytest.approx(votes[best] / sum(votes.values()), abs=1e-3)


def test_a_floor_of_confidence_refuses_and_says_so():
    (all_of_them,), (sure,) = run("render", case()), run("render", case(min_confidence=0.999))
    confident = [r["text"] for r in all_of_them.rows if json.loads(r["meta"])["pseudo_conf"] >= 0.999]
    assert [r["text"] for r in sure.rows] == confident
    assert 0 < len(confident) < 30
    assert sum(reason == "low-confidence" for _, reason, _ in sure.refused) == 30 - len(confident)


@given(
    st.text(),
    st.sampled_from(["0", "1"]),
    st.sampled_from(["{text}\nIt was {words}.", "{words}: {text}", "[{text}] {words}"]),
)
def test_a_line_gives_back_its_text_and_label(text: str, label: str, line: str):
    spec = Spec(label="{label}", words=WORDS, line=line)
    assert parse(spec, line.replace("{text}", "\0").replace("{words}", WORDS[label]).replace("\0", text)) == (
        text,
        label,
    )


def test_words_that_hide_each_other_are_refused():
    """'good' and 'good news' with the text behind: 'good news: x' is either."""
    rows = [made_row(i, text=t, meta={"label": w} if w else None) for i, (t, w) in enumerate(
        [("a", "0"), ("b", "1"), ("news: x", None), ("plain", None)]
    )]  # fmt: skip
    vectors = unit(np.array([[1, 0], [0, 1], [1, 0.1], [1, 0.1]], float))
    options = {"label": "{label}", "words": {"0": "good", "1": "good news:"}, "line": "{words} {text}", "neighbours": 1}
    (built,) = run("render", Case(shard_of(rows, vectors), options))
    assert [r["text"] for r in built.rows] == ["good plain"]
    assert (rows[2]["id"], "ambiguous-line") in {(i, reason) for i, reason, _ in built.refused}


def test_swapped_words_cannot_be_written():
    with pytest.raises(ValidationError, match="one-to-one"):
        Spec(label="{label}", words={"0": "Great", "1": "great "})
    with pytest.raises(ValidationError, match="each once"):
        Spec(label="{label}", words=WORDS, line="{text} {text} {words}")


def test_labels_must_be_known_and_more_than_one():
    with pytest.raises(InputError, match="words for every label"):
        run("render", case(words={"0": "bad", "2": "odd"}))
    with pytest.raises(InputError, match="at least two labels"):
        run("render", case(labelled=0))
