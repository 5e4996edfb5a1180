"""Writing a mixture: rows under their split in the mixture's order, and the forms trainers read."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from corpora import row, rows_of, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError, StoreError
from mixtura.pipeline import tables
from mixtura.pipeline.mixture import PoolShard, content_of, form_of, write_splits
from mixtura.rows import table

# --- content -----------------------------------------------------------------------------------------------------


def frame(*rows) -> pl.DataFrame:
    return pl.DataFrame(table(list(rows)))


def content(form, *rows) -> list:
    made = content_of(frame(*rows), form)
    return pl.DataFrame(made).to_dicts()


def said(*pairs):
    return [{"role": r, "content": c, "tool_calls": None} for r, c in pairs]


def test_text_of_documents_conversations_and_pairs():
    made = content(
        "text",
        row("a document"),
        row(messages=turns("Why?", "So.", "And?")),
        row(messages=turns("Weather?", (None, '[{"name":"sky"}]'))),
        row(messages=turns("Which?"), chosen=turns("", "this")[1:], rejected=turns("", "that")[1:]),
    )
    assert [m["text"] for m in made] == [
        "a document",
        "User: Why?\n\nAssistant: So.\n\nUser: And?",
        'User: Weather?\n\nAssistant: [{"name":"sky"}]',
        "User: Which?\n\nAssistant: this",
    ]


def test_messages_of_documents_conversations_and_pairs():
    made = content(
        "messages",
        row("a document"),
        row(messages=turns("Why?", "So.")),
        row(messages=turns("Which?"), chosen=turns("", "this")[1:], rejected=turns("", "that")[1:]),
    )
    assert [m["messages"] for m in made] == [
        said(("assistant", "a document")),
        said(("user", "Why?"), ("assistant", "So.")),
        said(("user", "Which?"), ("assistant", "this")),
    ]


def test_preference_keeps_every_turn_and_its_calls():
    asked = turns("Which?")
    (made,) = content(
        "preference",
        row(messages=asked, chosen=turns("", (None, '[{"name":"sky"}]'))[1:], rejected=turns("", "that")[1:]),
    )
    assert made == {
        "prompt": said(("user", "Which?")),
        "chosen": [{"role": "assistant", "content": None, "tool_calls": '[{"name":"sky"}]'}],
        "rejected": said(("assistant", "that")),
    }


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6))
@settings(max_examples=30)
def test_no_word_of_a_conversation_is_lost_in_text(words):
    (made,) = content("text", row(messages=turns(*words)))
    roles = ["User", "Assistant"] * 3
    expected = "\n\n".join(f"{r}: {w}" for r, w in zip(roles, words, strict=False))
    assert made["text"] == expected


@pytest.mark.parametrize(
    ("messages", "chosen", "wanted", "expected"),
    [
        ([True, True], [False, False], "auto", "messages"),
        ([True, False], [False, False], "auto", "text"),
        ([True, True], [True, True], "auto", "preference"),
        ([True, True], [True, False], "auto", "messages"),
        ([], [], "auto", "text"),
        ([False, True], [False, False], "messages", "messages"),
    ],
)
def test_form_of(messages, chosen, wanted, expected):
    has = pl.DataFrame({"has_messages": messages, "has_chosen": chosen}, schema_overrides={"has_messages": pl.Boolean})
    assert form_of(has.cast(pl.Boolean), wanted) == expected


def test_preference_needs_pairs_everywhere():
    has = pl.DataFrame({"has_messages": [True, True, True], "has_chosen": [True, False, False]})
    with pytest.raises(InputError, match=r"output\.form cannot be 'preference': 2 rows have no chosen"):
        form_of(has, "preference")


# --- splits ------------------------------------------------------------------------------------------------------


def shard(folder: Path, number: int, rows: list, scores: pl.DataFrame | None = None) -> PoolShard:
    path = folder / f"rows-{number}.parquet"
    tables.write(path, table([{**r, "tokens": len(r["text"].split())} for r in rows]))
    ids = pl.Series("id", [r["id"] for r in rows])
    scores = pl.DataFrame({"id": ids, "score": [0.0] * len(rows)}) if scores is None else scores.insert_column(0, ids)
    scores.write_parquet(folder / f"scores-{number}.parquet")
    return PoolShard(str(path), {"s": str(folder / f"scores-{number}.parquet")})


def mixed_of(rows: list, splits: list[str]) -> pl.DataFrame:
    n = len(rows)
    return pl.DataFrame(
        {"id": [r["id"] for r in rows], "selection": ["s"] * n, "rank": range(n), "score": [0.5] * n, "split": splits},
        schema_overrides={"rank": pl.Int64},
    )


def test_rows_stand_in_the_mixtures_order_whatever_shard_they_come_from(tmp_path):
    rows = rows_of([f"text number {i}" for i in range(9)])
    shards = [shard(tmp_path, 0, rows[:2]), shard(tmp_path, 1, rows[2:])]
    order = [rows[i] for i in (8, 0, 3, 1, 7)]
    mixed = mixed_of(order, ["train", "train", "train", "test", "test"])
    (tmp_path / "m").mkdir()
    tallies = write_splits(tmp_path / "m", mixed, shards, form="text", rows_per_file=2)
    written = {
        p.relative_to(tmp_path / "m").as_posix(): pl.read_parquet(p) for p in (tmp_path / "m").rglob("*.parquet")
    }
    assert {n: f["text"].to_list() for n, f in written.items()} == {
        "train/train-00000-of-00002.parquet": ["text number 8", "text number 0"],
        "train/train-00001-of-00002.parquet": ["text number 3"],
        "test/test-00000-of-00001.parquet": ["text number 1", "text number 7"],
    }
    assert {s: (t.rows, t.tokens) for s, t in tallies.items()} == {"train": (3, 9), "test": (2, 6)}
    assert not (tmp_path / "m/.deal").exists()
    assert "tools" not in written["test/test-00000-of-00001.parquet"].columns


def test_why_is_the_selectors_own_account_of_each_row(tmp_path):
    rows = rows_of(["one text", "two text", "three text"])
    scores = pl.DataFrame({"score": [0.0, 1.0, 2.0], "nearest": ["x", "ÿ", None]})
    mixed = mixed_of(rows[1:], ["train", "train"])
    (tmp_path / "m").mkdir()
    write_splits(tmp_path / "m", mixed, [shard(tmp_path, 0, rows, scores)], form="text", rows_per_file=9)
    (made,) = (tmp_path / "m").rglob("*.parquet")
    assert pl.read_parquet(made)["why"].to_list() == ['{"nearest":"ÿ"}', '{"nearest":null}']


def test_a_row_that_the_pool_lost_is_an_error(tmp_path):
    rows = rows_of(["one text", "two text"])
    (tmp_path / "m").mkdir()
    shards = [shard(tmp_path, 0, rows[:1])]
    with pytest.raises(StoreError, match="1 rows of the mixture are missing from the pool"):
        write_splits(tmp_path / "m", mixed_of(rows, ["train"] * 2), shards, form="text", rows_per_file=9)


def test_turns_carry_tool_calls_only_where_there_are_any(tmp_path):
    for name, answer in (("plain", "So."), ("tools", (None, '[{"name":"sky"}]'))):
        conversation = row(messages=turns("Why?", answer))
        path = tmp_path / f"{name}.parquet"
        tables.write(path, table([{**conversation, "tokens": 2}]))
        pl.DataFrame({"id": [conversation["id"]], "score": [0.0]}).write_parquet(tmp_path / "scores.parquet")
        (tmp_path / name).mkdir()
        shards = [PoolShard(str(path), {"s": str(tmp_path / "scores.parquet")})]
        write_splits(tmp_path / name, mixed_of([conversation], ["train"]), shards, form="messages", rows_per_file=9)
    fields = {n: pl.read_parquet(tmp_path / n / "train/*.parquet")["messages"][0][1] for n in ("plain", "tools")}
    assert fields["plain"] == {"role": "assistant", "content": "So."}
    assert fields["tools"] == {"role": "assistant", "content": None, "tool_calls": '[{"name":"sky"}]'}


def test_files_of_one_mixture_agree_whether_turns_call_tools(tmp_path):
    """One of three rows calls a tool, each is a file: `datasets` reads them as one table."""
    from datasets import load_dataset

    made = [row(messages=turns("Why?", a)) for a in ("So.", (None, '[{"name":"sky"}]'), "Thus.")]
    tables.write(tmp_path / "rows.parquet", table([{**r, "tokens": 2} for r in made]))
    pl.DataFrame({"id": [r["id"] for r in made], "score": [0.0] * 3}).write_parquet(tmp_path / "scores.parquet")
    (tmp_path / "m").mkdir()
    shards = [PoolShard(str(tmp_path / "rows.parquet"), {"s": str(tmp_path / "scores.parquet")})]
    mixed = mixed_of(made, ["train", "train", "test"])
    write_splits(tmp_path / "m", mixed, shards, form="messages", rows_per_file=1)
    files = {s: sorted(str(p) for p in (tmp_path / "m" / s).iterdir()) for s in ("train", "test")}
    read = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert [r[1]["tool_calls"] for r in read["train"]["messages"]] == [None, '[{"name":"sky"}]']
    assert read["test"]["messages"][0][1] == {"role": "assistant", "content": "Thus.", "tool_calls": None}
