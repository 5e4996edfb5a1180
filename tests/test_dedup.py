"""Deduplication against brute force over all pairs, planted copies, and invariance under order and cutting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from corpora import Row, clean_rows_of, pool_of, row, rows_of, sentences, turns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline import lsh, shingle_file
from mixtura.pipeline.dedup import dedup
from mixtura.pipeline.shingle_file import ShingleFile
from mixtura.pipeline.shingles import Shingles, band_signatures, shingle_sets
from mixtura.recipe import Clean, NearDedup
from mixtura.rows import table
from mixtura.store import Store

# 64 bands of one hash: a pair of Jaccard 0.5 is missed with probability 0.5 ** 64, so components must be exact
SURE = NearDedup(threshold=0.5, ngram=2, bands=64, rows_per_band=1)


def shingles(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))} if words else set()


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def survivors_by_brute_force(rows: Sequence[Row], near: NearDedup, source_order: Sequence[str]) -> set[tuple]:
    """All pairs, plain Python: (file, offset) of the rows that stay."""
    order = sorted(
        rows, key=lambda r: (source_order.index(r["source"]), -len(r["text"]), r["id"], r["file"], r["offset"])
    )
    sets = [shingles(r["text"].split(), near.ngram) for r in order]
    parent = list(range(len(order)))

    def find(i: int) -> int:
        return i if parent[i] == i else find(parent[i])

    for i, j in itertools.combinations(range(len(order)), 2):
        if order[i]["id"] == order[j]["id"] or jaccard(sets[i], sets[j]) >= near.threshold:
            a, b = sorted((find(i), find(j)))
            parent[b] = a
    return {(r["file"], r["offset"]) for i, r in enumerate(order) if parent[i] == i}


def origins(rows: pl.DataFrame) -> set[tuple]:
    return set(rows.select("file", "offset").rows())


WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9).map(" ".join)


@given(st.lists(st.tuples(WORDS, st.sampled_from(["web", "books"])), min_size=1, max_size=14), st.randoms())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_survivors_equal_brute_force_in_any_order_and_cut(tmp_path_factory, drawn, random) -> None:
    rows = [row(t, source=s, file=f"{s}.jsonl", offset=i) for i, (t, s) in enumerate(drawn)]
    expected = survivors_by_brute_force(rows, SURE, ["books", "web"])
    for shard_rows in (100, 3):
        random.shuffle(rows)
        kept, dropped, made = pool_of(
            tmp_path_factory.mktemp("pool"),
            rows,
            Clean(near_dedup=SURE),
            source_order=["books", "web"],
            shard_rows=shard_rows,
        )
        assert origins(kept) == expected
        assert len(kept) + len(dropped) == len(rows) == made.facts["read"]
        assert made.facts["unverified"] == 0


@given(st.lists(st.sets(st.integers(0, 40), max_size=20), min_size=2, max_size=8), st.integers(1, 60))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_jaccard_on_disk_equals_python_sets(tmp_path_factory, sets: list[set[int]], at_once: int) -> None:
    spread = [{x * 0x9E3779B97F4A7C15 % 2**64 for x in s} for s in sets]  # hashes use their high bits
    flat = np.array([h for s in spread for h in sorted(s)], dtype=np.uint64)
    file = ShingleFile(tmp_path_factory.mktemp("s") / "sets", len(sets))
    file.add(np.arange(len(sets)), Shingles(flat, np.cumsum([0, *map(len, sets)])))
    file.finish()
    a, b = np.array(list(itertools.product(range(len(sets)), repeat=2))).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shingle_file, "VERIFY", at_once)
        for _ in range(2):  # before and after the sets are put in another order
            assert file.jaccard(a, b).tolist() == [jaccard(sets[i], sets[j]) for i, j in zip(a, b, strict=True)]
            owner, rare = file.prefixes(np.arange(len(sets)), 0.5)
    for i, j in itertools.combinations(range(len(sets)), 2):
        if jaccard(sets[i], sets[j]) >= 0.5:
            assert set(rare[owner == i]) & set(rare[owner == j])


def test_the_survivor_of_equal_rows_is_of_the_first_source_then_file_then_offset(tmp_path: Path) -> None:
    origin = [("books", "b", 9), ("web", "a", 0), ("books", "a", 7), ("books", "a", 30)]
    rows = [row("the same text", source=s, file=f, offset=o) for s, f, o in origin]
    kept, dropped, made = pool_of(tmp_path, rows, Clean(), source_order=["books", "web"], shard_rows=2)
    assert origins(kept) == {("a", 7)}
    assert dropped["reason"].unique().to_list() == ["exact-duplicate"]
    assert dropped["survivor"].unique().to_list() == [rows[0]["id"]]
    assert made.facts["dropped"] == {"exact-duplicate": 3}


def test_the_longest_of_near_duplicates_survives_and_the_others_say_how_alike_they_are(tmp_path: Path) -> None:
    base = [f"w{i}" for i in range(104)]  # 100 shingles of five words
    longer = [*base, "and", "more"]  # 102 shingles, 100 shared
    kept, dropped, _ = pool_of(tmp_path, rows_of([" ".join(base), " ".join(longer)]), Clean())
    assert kept["text"].to_list() == [" ".join(longer)]
    assert dropped["reason"].to_list() == ["near-duplicate"]
    assert dropped["survivor"].to_list() == kept["id"].to_list()
    assert dropped["similarity"].item() == pytest.approx(100 / 102, abs=1e-6)  # f32


@pytest.mark.parametrize(("threshold", "kept_rows"), [(0.8, 1), (0.81, 2)])
def test_the_threshold_itself_makes_a_copy(tmp_path: Path, threshold: float, kept_rows: int) -> None:
    words = [f"w{i}" for i in range(11)]  # 2-shingles 0..8 and 1..9: 8 shared of 10
    near = NearDedup(threshold=threshold, ngram=2, bands=64, rows_per_band=1)
    texts = [" ".join(words[:10]), " ".join(words[1:])]
    kept, _, _ = pool_of(tmp_path, rows_of(texts), Clean(near_dedup=near))
    assert len(kept) == kept_rows


def test_a_chain_is_one_component_and_similarity_is_to_the_survivor(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(40)]
    # sets of 2-shingles: a = 0..28, b = 5..33, c = 10..38: J(a, b) = J(b, c) = 24/34, J(a, c) = 19/39 < 0.6
    texts = [" ".join(words[i : i + 30]) for i in (0, 5, 10)]
    rules = Clean(near_dedup=NearDedup(threshold=0.6, ngram=2, bands=64, rows_per_band=1))
    kept, dropped, _ = pool_of(tmp_path, rows_of(texts), rules)
    first = max(texts, key=lambda t: (len(t), -int(row(t)["id"], 16)))
    assert kept["text"].to_list() == [first]
    sets = {t: shingles(t.split(), 2) for t in texts}
    for text, similarity in dropped.select("text", "similarity").iter_rows():
        assert similarity == pytest.approx(jaccard(sets[text], sets[first]), abs=1e-6)


def test_rows_that_equal_or_resemble_the_target_leave_the_pool(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    secret, other, third = (" ".join(w) for w in sentences(3, 60, rng))
    rows = rows_of([secret, f"{secret} again", other, secret, third])
    kept, dropped, made = pool_of(tmp_path, rows, Clean(), target=[row(secret, source="target"), row("unrelated")])
    assert kept["text"].to_list() == [other, third]
    assert made.facts["dropped"] == {"in-target": 3}
    assert set(dropped["survivor"]) == {rows[0]["id"]}
    off = Clean(exact_dedup=False, near_dedup=None)
    kept, _, made = pool_of(tmp_path / "off", rows, off, target=[row(secret, source="target")])
    assert made.facts["dropped"] == {"in-target": 2}
    assert len(kept) == 3


def test_with_both_kinds_off_copies_stay(tmp_path: Path) -> None:
    kept, _, made = pool_of(tmp_path, rows_of(["same"] * 3), Clean(exact_dedup=False, near_dedup=None))
    assert len(kept) == 3
    assert made.facts["dropped"] == {}
    kept, dropped, _ = pool_of(tmp_path / "near", rows_of(["same"] * 3), Clean(exact_dedup=False))
    assert origins(kept) == {("a.jsonl", 0)}
    assert dropped["similarity"].to_list() == [1, 1]


@pytest.mark.parametrize(
    "texts",
    [
        ["1 + 1", "1 - 1", "1 + 2", "2 + 1", "1", "+", "-", "1 +"],
        ["Yes", "No", "yes and no", "no and yes", "yes and"],
        ["床前明月光", "疑是地上霜", "床前明月", "床前明月光光"],
        ["🙂", "🙃", "!!!", "???", "…"],
        ["春眠不覺曉 處處聞啼鳥 夜來風雨聲 花落知多少", "春眠不覺曉 處處聞啼鳥 夜來風雨聲 月落烏啼霜"],
    ],
)
def test_different_short_texts_stay_apart(tmp_path: Path, texts: list[str]) -> None:
    kept, _, _ = pool_of(tmp_path, rows_of(texts), Clean(min_tokens=0))
    assert kept["text"].to_list() == texts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  world", "hello world"),
        ("Is it\nso?", "is it so?"),
        ("床前明月光", "床前 明月光"),
    ],
)
def test_short_texts_of_the_same_words_are_copies(tmp_path: Path, one: str, other: str) -> None:
    kept, dropped, _ = pool_of(tmp_path, rows_of([one, other, "something else"]), Clean())
    assert len(kept) == 2
    assert dropped["similarity"].to_list() == [1]


def test_chinese_copies_are_found_by_characters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    long = "".join(chr(c) for c in rng.integers(0x4E00, 0x9000, 300))
    kept, dropped, _ = pool_of(tmp_path, rows_of([long, long[:-3], long[::-1]]), Clean())
    assert kept["text"].to_list() == [long, long[::-1]]
    assert dropped["similarity"].item() == pytest.approx(293 / 296, abs=1e-6)


def test_conversations_differ_by_answer_call_tools_and_refused_answer(tmp_path: Path) -> None:
    question = " ".join(sentences(1, 60, np.random.default_rng(0))[0])
    call = '{{"name": "get", "arguments": {{"city": "{}"}}}}'
    rows = [
        row(messages=turns(question, " ".join(sentences(1, 30, np.random.default_rng(1))[0]))),
        row(messages=turns(question, " ".join(sentences(1, 30, np.random.default_rng(2))[0]))),
        row(messages=turns("weather?", (None, call.format("Rome")))),
        row(messages=turns("weather?", (None, call.format("Oslo")))),
        row(messages=turns(question, "call"), tools='[{"name": "a"}]'),
        row(messages=turns(question, "call"), tools='[{"name": "b"}]'),
        row(messages=turns("pick")[:1], chosen=turns("good")[:1], rejected=turns("bad")[:1]),
        row(messages=turns("pick")[:1], chosen=turns("good")[:1], rejected=turns("worse")[:1]),
    ]
    copies = [
        row(messages=turns(f" {question.upper()}", "call"), tools='[{"name": "b"}]', offset=1),
        row(messages=turns("Weather?", (None, call.format("Oslo"))), offset=2),
    ]
    kept, dropped, _ = pool_of(tmp_path, [*rows, *copies], Clean())
    assert len(kept) == len(rows)
    assert dropped["reason"].to_list() == ["near-duplicate"] * 2


def test_long_common_tools_do_not_make_copies(tmp_path: Path) -> None:
    tools = '[{"name": "a", "description": "' + "long " * 500 + '"}]'
    rows = [row(messages=turns(f"question {i} of its own", f"answer {i}"), tools=tools) for i in range(5)]
    kept, _, _ = pool_of(tmp_path, rows, Clean())
    assert len(kept) == 5


def test_bands_find_pairs_as_often_as_the_formula_says() -> None:
    """1 - (1 - s^r)^b: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.2; within 4 standard errors."""
    rng, pairs, size = np.random.default_rng(0), 600, 300
    for shared in (120, 200, 240):  # of the union of `size`
        sets = rng.integers(0, 2**63, (pairs, size), dtype=np.uint64)
        own = (size - shared) // 2
        one, other = sets[:, : shared + own], np.hstack((sets[:, :shared], sets[:, shared + own :]))
        both = np.vstack((one, other))
        owner = np.repeat(np.arange(2 * pairs), both.shape[1])
        found = band_signatures(owner, both.ravel(), 2 * pairs, bands=20, rows_per_band=6)
        hit = (found[:pairs] == found[pairs:]).any(axis=1).mean()
        chance = 1 - (1 - (shared / size) ** 6) ** 20
        assert abs(hit - chance) <= 4 * math.sqrt(chance * (1 - chance) / pairs) + 1e-9


def template(n: int, common: int, own: int, seed: int = 0) -> list[list[str]]:
    """n texts that begin with the same words and end with words of their own."""
    rng = np.random.default_rng(seed)
    start = sentences(1, common, rng, vocabulary=10**9)[0]
    return [start + end for end in sentences(n, own, rng, vocabulary=10**9)]


def test_one_boilerplate_in_many_copies_leaves_one_row_at_linear_cost(tmp_path: Path) -> None:
    n = 4000
    texts = [" ".join(w) for w in template(n, common=60, own=1)]  # J of any two: 56 / 58
    kept, _, made = pool_of(tmp_path, rows_of(texts), Clean())
    assert len(kept) == 1
    assert made.facts["compared"] <= 4 * n  # all pairs would be 8 million


def test_copies_are_found_among_many_rows_of_one_template(tmp_path: Path) -> None:
    """Rows that share 60 % of their shingles fill the buckets; the planted copies in their midst are still found."""
    n, planted = 3000, 40
    texts = template(n, common=94, own=30)  # J of any two: 90 / 150 = 0.6
    for i in range(planted):
        texts.append([*texts[i], "tail"])  # J with its original: 120 / 121
    words = [" ".join(w) for w in texts]
    kept, dropped, made = pool_of(tmp_path, rows_of(words), Clean())
    assert set(dropped["text"]) == set(words[:planted])
    assert made.facts["unverified"] == 0
    assert made.facts["compared"] <= 64 * 20 * n / 4
    assert len(kept) == n


def test_a_crowd_beyond_the_limit_is_counted_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsh, "WHOLE", 64)
    monkeypatch.setattr(lsh, "PER_NODE", 1)
    texts = [" ".join(w) for w in template(300, common=60, own=8)]  # J of any two: 56 / 72 = 0.78, just below 0.8
    _, dropped, made = pool_of(tmp_path, rows_of(texts), Clean())
    assert len(dropped) == 0
    assert made.facts["unverified"] > 0


@pytest.mark.parametrize("texts", [[], ["alone"], ["a b c d e f", "g h i j k l"]])
def test_few_rows_and_no_duplicates(tmp_path: Path, texts: list[str]) -> None:
    rows = rows_of([*texts, ""])  # the empty row is cleaned away
    kept, dropped, made = pool_of(tmp_path, rows, Clean())
    assert kept["text"].to_list() == texts
    assert dropped.is_empty()
    assert made.names("") == ["drops-00000.parquet"]  # no scratch file is left


def test_no_shards_at_all(tmp_path: Path) -> None:
    made = dedup([], clean=Clean(), source_order=["web"], protected=[], store=Store(tmp_path))
    assert made.facts["read"] == 0


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    shards = clean_rows_of(tmp_path, rows_of(["x"]), Clean())
    with pytest.raises(InputError, match=r"source_order must name every source of the pool; got \"no \['web'\]\""):
        dedup(shards, clean=Clean(), source_order=["books"], protected=[], store=Store(tmp_path / "store"))


def test_shingle_sets_are_those_of_plain_python() -> None:
    texts = ["a b c d e f a b c d e", "a b", "", "b a", "a b c d e"]
    rows = pl.DataFrame(pl.from_arrow(table(rows_of(texts))))
    found = shingle_sets(rows, 5)
    expected = [len(shingles(t.split(), 5)) for t in texts]
    assert np.diff(found.offsets).tolist() == expected == [6, 1, 0, 1, 1]
    hashes = [set(found.hashes[a:b].tolist()) for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert hashes[4] < hashes[0]
    assert hashes[1].isdisjoint(hashes[3])
