"""Choices: the paper's prompt by hand; an oracle that reads content alone; the scorer on models of known bias."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import torch
from builder_cases import Case, conversation, made_row, run, shard_of

from mixtura.errors import InputError
from mixtura.generation.letters import letter_log_probabilities, letter_tokens
from mixtura.pipeline.multiple_choice import LETTERS, Form


def test_the_papers_prompt_by_hand():
    row = made_row(
        0, messages=conversation("ما عاصمة مصر؟", "B"), meta={"choices": ["تونس", "القاهرة", "دمشق", "بغداد"]}
    )
    options = {"options": "choices", "cue": "الجواب:", "order": "given"}
    (built,) = run("choices", Case(shard_of([row]), options))
    asked, answered = built.rows[0]["messages"]
    assert asked["content"] == "ما عاصمة مصر؟\n\nA. تونس\nB. القاهرة\nC. دمشق\nD. بغداد\nالجواب:"
    assert answered["content"] == "B"


@pytest.mark.parametrize("right", [1, "B", "b", "red"])
def test_the_right_one_is_known_by_position_letter_or_text(right):
    row = made_row(0, text="which?", meta={"o": ["blue", "red"], "right": right})
    options = {"question": "{text}", "answer": "{right}", "options": "o", "order": "given"}
    (built,) = run("choices", Case(shard_of([row]), options))
    assert built.rows[0]["messages"][1]["content"] == "B"


@pytest.mark.parametrize("wrong", [["one"], ["same", "Same"], ["a", ""], "ab", list("abcdefghijk"), ["x", "y"]])
def test_what_is_no_choice_is_refused(wrong):
    row = made_row(0, text="which?", meta={"o": wrong, "right": "red"})
    case = Case(shard_of([row]), {"question": "{text}", "answer": "{right}", "options": "o"})
    (built,) = run("choices", case)
    assert not built.rows
    assert built.refused[0][1] == "no-choice"


def test_a_content_only_oracle_is_right_whatever_the_order_and_letters_are_uniform():
    rows = [
        made_row(
            i,
            messages=conversation(f"q{i}", f"the right {i}"),
            meta={"o": [f"{w} {i}" for w in ("the right", "b", "c", "d")]},
        )
        for i in range(800)
    ]
    (built,) = run("choices", Case(shard_of(rows), {"options": "o"}))
    letters = []
    for row in built.rows:
        lines = row["messages"][0]["content"].split("\n")
        oracle = next(line[0] for line in lines if "the right" in line)
        assert row["messages"][1]["content"] == oracle
        letters.append(oracle)
    counts = np.array([letters.count(x) for x in "ABCD"])
    assert ((counts - 200) ** 2 / 200).sum() < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001


def test_distractors_are_other_answers_of_the_same_task():
    rows = [made_row(i, messages=conversation(f"q{i}", f"{'ab'[i % 2]}{i % 10}"), task="ab"[i % 2]) for i in range(100)]
    (built,) = run("choices", Case(shard_of(rows), {"count": 4}))
    assert len(built.rows) == 100
    for row in built.rows:
        options = orjson.loads(row["meta"])["options"]
        assert len(set(options)) == 4
        assert {o[0] for o in options} == {row["task"]}
        assert options[LETTERS.index(row["messages"][1]["content"])] in options


class Words:
    """A tokenizer of known pieces; `A` alone and ` A` are different tokens."""

    def __init__(self, split: str = "") -> None:
        self.known = {f" {x}": i + 1 for i, x in enumerate(LETTERS)}
        self.split = split

    def __call__(self, text: str, add_special_tokens: bool = True):
        if text == f" {self.split}":
            return {"input_ids": [90, 91]}
        return {"input_ids": [self.known[text]] if text in self.known else [len(w) % 50 + 20 for w in text.split()]}


class Biased:
    """A causal LM whose next token does not depend on the prompt."""

    device = torch.device("cpu")

    def __init__(self, favourite: int | None) -> None:
        self.logits = torch.zeros(100)
        if favourite is not None:
            self.logits[favourite] = 3.0

    def __call__(self, input_ids):
        return SimpleNamespace(logits=self.logits.expand(1, input_ids.shape[1], 100))


def test_a_uniform_model_gives_every_letter_the_same_and_a_biased_one_its_own():
    prompts = [Form().prompt(f"question {i}", ["short", "a much longer option " * 9]) for i in range(3)]
    flat = letter_log_probabilities(Biased(None), Words(), prompts, 2)
    assert np.allclose(flat, -np.log(100))  # chance, and the options' length does not enter
    assert letter_log_probabilities(Biased(2), Words(), prompts, 2).argmax(1).tolist() == [1, 1, 1]


def test_a_tokenizer_that_splits_a_letter_is_refused():
    assert letter_tokens(Words(), 4) == [1, 2, 3, 4]
    with pytest.raises(InputError, match=r"must have one token for each letter with a leading space.*\['C'\]"):
        letter_tokens(Words("C"), 4)
