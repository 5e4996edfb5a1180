"""Pieces and token counts, against Python's own Unicode data, a tokenizer library, and strings worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mixtura.errors import InputError
from mixtura.pipeline.tokens import Pieces, count_tokens, split, split_any, split_ascii, tokenizer_identity

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def lengths(pieces: Pieces) -> list[list[int]]:
    return [pieces.chars[a:b].tolist() for a, b in zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)]


@pytest.mark.parametrize(
    ("text", "pieces", "words"),
    [
        ("", [], 0),
        (" \n\t ", [], 0),
        ("Hello, world!", [5, 1, 5, 1], 2),
        ("x+=1", [1, 2, 1], 2),
        ("don't", [3, 1, 1], 2),
        ("snake_case v2", [10, 2], 2),
        ("床前明月光", [1] * 5, 5),
        ("カー", [1, 1], 2),
        ("PyTorch入門", [7, 1, 1], 3),
        ("संस्कृत", [7], 1),  # vowel signs and the virama stay in the word
        ("한국어 문장", [3, 2], 2),  # Korean is written with spaces
        ("🙂🙂 ok", [2, 2], 1),
    ],
)
def test_pieces_and_words_of_known_texts(text: str, pieces: list[int], words: int) -> None:
    cut = split(pl.Series([text]))
    assert lengths(cut) == [pieces]
    assert count_tokens(pl.Series([text]), "words").to_list() == [words]
    assert cut.per_text(cut.word).tolist() == [words]


@given(st.lists(TEXT, max_size=6))
def test_pieces_hold_all_but_white_space_and_count_what_the_tokenizer_counts(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    cut = split(series)
    # characters by Python; \s of the regular expression is Unicode White_Space, which str.isspace widens by four
    # separators (U+001C to U+001F)
    bare = [sum(not c.isspace() or c in "\x1c\x1d\x1e\x1f" for c in t.lower()) for t in texts]
    assert cut.per_text(cut.chars).tolist() == bare
    assert cut.per_text(cut.word).tolist() == count_tokens(series, "words").to_list()


@given(st.lists(TEXT, min_size=1, max_size=6), st.integers(1, 4))
def test_windows_are_the_ngrams_of_each_text_alone(texts: list[str], n: int) -> None:
    cut = split(pl.Series(texts, dtype=pl.String))
    text, first, hashes = cut.windows(n)
    grams = [
        (i, tuple(cut.hashes[k : k + n].tolist()))
        for i, (a, b) in enumerate(zip(cut.offsets[:-1], cut.offsets[1:], strict=True))
        for k in range(a, b - n + 1)
    ]
    found = [(int(t), tuple(cut.hashes[f : f + n].tolist())) for t, f in zip(text, first, strict=True)]
    assert found == grams
    # equal n-grams hash alike, different ones differently
    names = Counter(zip([g for _, g in grams], hashes.tolist(), strict=True))
    assert len(names) == len({g for g, _ in names}) == len({h for _, h in names})


@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_pieces_of_a_choice_are_those_of_the_chosen_texts(texts: list[str], data: st.DataObject) -> None:
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))))
    whole, alone = split(pl.Series(texts)), split(pl.Series(texts).filter(pl.Series(chosen)))
    some = whole.of(chosen)
    assert some.hashes.tolist() == alone.hashes.tolist()
    assert some.offsets.tolist() == alone.offsets.tolist()


@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=30), max_size=8))
def test_the_fast_way_for_ascii_cuts_as_the_regular_expression(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    fast, slow = split_ascii(series), split_any(series)
    for name in ("hashes", "chars", "word", "offsets"):
        assert getattr(fast, name).tolist() == getattr(slow, name).tolist(), name


@given(st.lists(TEXT, min_size=1, max_size=8))
def test_mixed_scripts_cut_as_the_regular_expression(texts: list[str]) -> None:
    mixed, slow = split(pl.Series(texts)), split_any(pl.Series(texts))
    for name in ("hashes", "chars", "word", "offsets"):
        assert getattr(mixed, name).tolist() == getattr(slow, name).tolist(), name


def test_hashes_of_pieces_ignore_case_and_company() -> None:
    alone, together = split(pl.Series(["needle"])), split(pl.Series(["hay " * 99, "in the NEEDLE stack"]))
    assert alone.hashes[0] in together.hashes[99:]


def word_level(folder: str, vocabulary: list[str]) -> str:
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", *vocabulary])}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?").save_pretrained(folder)
    return folder


def test_a_tokenizer_folder_counts_without_special_tokens(tmp_path) -> None:
    folder = word_level(str(tmp_path / "a"), ["one", "two"])
    counts = count_tokens(pl.Series(["one two three", "", "two"]), folder)
    assert counts.to_list() == [3, 0, 1]
    assert counts.dtype == pl.Int32
    assert count_tokens(pl.Series([], dtype=pl.String), folder).to_list() == []


def test_a_tokenizer_is_named_by_its_files_not_by_its_place(tmp_path) -> None:
    first = tokenizer_identity(word_level(str(tmp_path / "a"), ["one"]))
    moved = tokenizer_identity(word_level(str(tmp_path / "elsewhere" / "b"), ["one"]))
    other = tokenizer_identity(word_level(str(tmp_path / "c"), ["two"]))
    assert first == moved != other
    assert tokenizer_identity("words") == "words"
    assert str(tmp_path) not in first


def test_a_missing_tokenizer_is_an_input_error(tmp_path) -> None:
    with pytest.raises(InputError, match=r"clean.tokenizer must be 'words', or the name or folder"):
        count_tokens(pl.Series(["x"]), str(tmp_path))
