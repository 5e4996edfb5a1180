"""Cleaning against rows worked out by hand, a brute-force reading of Gopher's rules, and invariance under cutting."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from corpora import Row, clean_rows_of, row, rows_of, turns
from hypothesis import given
from hypothesis import strategies as st

from mixtura.pipeline.clean import FATE, clean_rows
from mixtura.pipeline.filters import duplicate_lines, top_ngram_share
from mixtura.pipeline.tokens import split
from mixtura.recipe import Clean, NearDedup, Repetition
from mixtura.rows import ROW, content_id, table

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LINES = st.lists(st.sampled_from(["a b", "a b ", "", "c", "longer line of words"]), max_size=8).map("\n".join)


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table(rows)))


def fates(rows: list[Row], clean: Clean) -> list[tuple[str | None, str | None]]:
    return clean_rows(frame(rows), clean).fates.select("reason", "detail").rows()


def test_each_reason_has_its_code_and_its_number() -> None:
    rules = Clean(min_chars=3, max_chars=40, min_tokens=2, max_tokens=6, repetition=Repetition())
    texts = ["two words", " \n ", "ab", "x" * 41, "solitary", "a b c d e f g", "spam eggs spam eggs spam"]
    assert fates(rows_of(texts), rules) == [
        (None, None),
        ("empty", "no text"),
        ("too-short", "2 characters, fewer than 3"),
        ("too-long", "41 characters, more than 40"),
        ("too-few-tokens", "1 tokens, fewer than 2"),
        ("too-many-tokens", "7 tokens, more than 6"),
        # "spam eggs" twice: 16 of 20 characters without spaces
        ("repetitive:top_2gram", "0.800 of characters in one 2-gram, more than 0.2"),
    ]


def test_the_limits_themselves_are_kept() -> None:
    rules = Clean(min_chars=3, max_chars=5, min_tokens=1, max_tokens=2)
    assert fates(rows_of(["abc", "ab cd"]), rules) == [(None, None)] * 2


def test_every_input_row_has_one_fate_in_order(tmp_path: Path) -> None:
    rows = rows_of(["good text", "", "more good text", "x"])
    (made,) = clean_rows_of(tmp_path, rows, Clean(min_chars=2))
    read = pl.read_parquet(made.file("fates.parquet"))
    assert read.columns == FATE.names
    assert read["offset"].to_list() == [0, 1, 2, 3]
    assert read["raw_id"].to_list() == [r["id"] for r in rows]
    assert read["id"].to_list() == [rows[0]["id"], None, rows[2]["id"], None]
    assert read["tokens"].to_list() == [2, None, 3, None]
    assert made.facts == {"read": 4, "kept": 2, "chars": 23, "tokens": 5, "dropped": {"empty": 1, "too-short": 1}}
    kept = pl.read_parquet(made.file("rows.parquet"))
    assert kept.columns == ROW.names
    assert kept["tokens"].to_list() == [2, 3]


def test_near_dedup_off_writes_no_signatures(tmp_path: Path) -> None:
    (off,) = clean_rows_of(tmp_path / "off", rows_of(["a text"]), Clean(near_dedup=None))
    (on,) = clean_rows_of(tmp_path / "on", rows_of(["a text"]), Clean(near_dedup=NearDedup(bands=7)))
    assert "signatures.parquet" not in off.files
    assert pl.read_parquet(on.file("signatures.parquet")).width == 7


def test_only_options_that_matter_make_another_artefact(tmp_path: Path) -> None:
    rows = rows_of(["some text"])
    keys = [
        clean_rows_of(tmp_path, rows, c)[0].key
        for c in (
            Clean(),
            Clean(exact_dedup=False),  # dedup's business
            Clean(near_dedup=NearDedup(threshold=0.5)),  # likewise
            Clean(min_chars=2),
            Clean(near_dedup=NearDedup(ngram=3)),
        )
    ]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


@given(st.lists(TEXT, min_size=1, max_size=8), st.sampled_from(["nfc", "nfkc", "none"]))
def test_text_is_normal_and_the_id_follows_it(texts: list[str], form: str) -> None:
    rules = Clean(unicode=form)  # pyright: ignore[reportArgumentType]
    done = clean_rows(frame(rows_of(texts)), rules)
    assert len(done.kept) + done.fates["reason"].count() == len(texts)
    for r in done.kept.iter_rows(named=True):
        before = texts[r["offset"]].replace("\r\n", "\n").replace("\r", "\n")
        after = before if form == "none" else unicodedata.normalize(form.upper(), before)
        assert r["text"] == after.strip() or strange_space(after)
        assert r["id"] == content_id(r)
    if form == "nfc":  # the id already sees text so: cleaning moves none
        assert done.fates.filter(pl.col("reason").is_null() & (pl.col("id") != pl.col("raw_id"))).is_empty()


def strange_space(text: str) -> bool:
    """Python strips U+001C to U+001F, which Unicode does not call white space."""
    return any(c in text for c in "\x1c\x1d\x1e\x1f")


def test_nfkc_gives_a_new_id_and_the_fate_knows_both() -> None:
    (fate,) = clean_rows(frame(rows_of(["ﬁne ①"])), Clean(unicode="nfkc")).fates.iter_rows(named=True)
    assert fate["raw_id"] == content_id({"text": "ﬁne ①"})
    assert fate["id"] == content_id({"text": "fine 1"})


def test_mojibake_is_repaired_where_asked() -> None:
    rows = [row("schÃ¶n â€” ok"), row(messages=turns("wÃ¤re", "ja"))]
    plain, repaired = (clean_rows(frame(rows), Clean(fix_encoding=f)).kept for f in (False, True))
    assert plain["text"][0] == "schÃ¶n â€” ok"
    assert repaired["text"][0] == "schön — ok"
    assert repaired["messages"][1][0]["content"] == "wäre"
    assert repaired["id"].to_list() == [content_id(r) for r in repaired.iter_rows(named=True)]


def test_conversations_are_normalised_turn_by_turn_and_judged_by_their_answers() -> None:
    call = '{"name": "f", "arguments": "cafe\\u0301"}'
    rows = [
        row(messages=turns("cafe\u0301?", "one\r\ntwo")),
        row(messages=turns("a question", " ")),
        row(messages=turns("a question", (None, call))),
        row(messages=turns("a question without any answer turn")),
        row(messages=turns("prompt"), chosen=turns("x")[:1], rejected=turns("y")[:1]),
        row(messages=[]),
    ]
    done = clean_rows(frame(rows), Clean())
    assert done.fates["reason"].to_list() == [None, "no-answer", None, None, None, "empty"]
    first, called = done.kept["messages"][0], done.kept["messages"][1]
    assert [t["content"] for t in first] == ["café?", "one\ntwo"]
    assert called[1]["tool_calls"] == call  # JSON is not touched
    assert done.kept["tokens"].to_list() == [3, 2, 6, 2]


@given(st.lists(LINES, min_size=1, max_size=4))
def test_duplicate_lines_equal_a_reading_line_by_line(texts: list[str]) -> None:
    shares, char_shares = duplicate_lines(pl.Series(texts))
    for text, share, char_share in zip(texts, shares, char_shares, strict=True):
        lines = [x.strip() for x in text.split("\n") if x.strip()] if "\n" in text else []
        again = [x for i, x in enumerate(lines) if x in lines[:i]]
        assert share == (len(again) / len(lines) if lines else 0)
        assert char_share == (sum(map(len, again)) / sum(map(len, lines)) if lines else 0)


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "!"]), max_size=12), min_size=1, max_size=4))
def test_top_ngram_share_equals_a_counter(texts: list[list[str]]) -> None:
    words = split(pl.Series([" ".join(t) for t in texts])).words()
    for n in (2, 3, 4):
        for text, share in zip(texts, top_ngram_share(words, n), strict=True):
            said = [w for w in text if w != "!"]
            grams = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
            most = max(grams.values(), default=0)
            longest = max((len("".join(g)) for g, c in grams.items() if c == most), default=0)
            expected = min(1.0, most * longest / len("".join(said))) if most > 1 else 0.0
            assert share == pytest.approx(expected, abs=1e-12)


def test_chinese_repetition_is_seen_character_by_character() -> None:
    normal, spam = "床前明月光疑是地上霜舉頭望明月低頭思故鄉", "哈哈" * 20
    assert fates(rows_of([normal, spam]), Clean(repetition=Repetition()))[0][0] is None
    assert fates(rows_of([normal, spam]), Clean(repetition=Repetition()))[1][0] == "repetitive:top_2gram"


def test_a_row_is_judged_alike_whatever_shares_its_shard(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["spam", "egg", "ham", "½", "ein"], rng.integers(0, 30))) for _ in range(60)]
    texts[7] = "word " * 50_000  # a slice of its own
    rules = Clean(unicode="nfkc", repetition=Repetition(), min_tokens=3)
    seen = []
    for size in (60, 7, 1):
        made = clean_rows_of(tmp_path / str(size), rows_of(texts), rules, shard_rows=size)
        seen.append(
            [
                pl.concat(pl.read_parquet(a.file(f)) for a in made)
                for f in ("rows.parquet", "fates.parquet", "signatures.parquet")
            ]
        )
    for other in seen[1:]:
        assert all(a.equals(b) for a, b in zip(seen[0], other, strict=True))
    assert 0 < len(seen[0][0]) < 60


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    (made,) = clean_rows_of(tmp_path, rows_of(["", " "]), Clean())
    assert made.facts["kept"] == 0
    assert pl.read_parquet(made.file("signatures.parquet")).shape == (0, 20)
