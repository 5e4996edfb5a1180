"""The analyser: words and pairs of many scripts, one hash for each, whatever surrounds a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.pipeline.embed.words import grams, hash_of


def spelled(text: str) -> list[str]:
    made = grams([text])
    return [made.spelled(i) for i in range(len(made.hash))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat the CAT", ["the", "cat", "the", "cat", "the cat", "cat the", "the cat"]),
        ("f(x)={};", ["f", "(", "x", ")={};", "f (", "( x", "x )={};"]),  # signs next to each other are one word
        ("3+4 = $7", ["3", "+", "4", "=", "$", "7", "3 +", "+ 4", "4 =", "= $", "$ 7"]),
        ("x_1 naïve", ["x_1", "naïve", "x_1 naïve"]),
        ("道可道", ["道", "可", "道", "道 可", "可 道"]),
        ("GPU显卡", ["gpu", "显", "卡", "gpu 显", "显 卡"]),
        ("हिन्दी", ["हिन्दी"]),  # vowel signs are marks, not letters: \w would split the word in three
        ("ひらカナ", ["ひ", "ら", "カ", "ナ", "ひ ら", "ら カ", "カ ナ"]),
        (" -- ", ["--"]),
        (" \x07 \u200b ", []),  # control and format characters are neither
        ("", []),
    ],
    ids=["english", "code", "sum", "latin", "chinese", "mixed", "hindi", "japanese", "signs", "control", "empty"],
)
def test_words_and_pairs_of_many_scripts(text, expected):
    assert spelled(text) == expected


@settings(deadline=None)  # the first call builds tables
@given(st.lists(st.text(max_size=30), max_size=12))
def test_a_text_has_the_same_grams_in_any_batch(texts):
    together = grams(texts)
    for i, text in enumerate(texts):
        assert together.hash[together.row == i].tolist() == grams([text]).hash.tolist()


@settings(deadline=None)
@given(st.text(max_size=40))
def test_what_is_spelled_hashes_back(text):
    """The vocabulary is stored as words; their hashes are computed again on loading."""
    made = grams([text])
    assert (hash_of([made.spelled(i) for i in range(len(made.hash))]) == made.hash).all()


def test_grams_of_real_words_do_not_collide():
    texts = [p.read_text("utf-8") for p in sorted(Path(json.__file__).parent.parent.glob("*.py"))[:40]]
    made = grams(texts)
    distinct = {made.spelled(i) for i in range(len(made.hash))}
    assert len(distinct) > 20_000
    assert len(np.unique(made.hash)) == len(distinct)
