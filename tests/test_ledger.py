"""The ledger against a small story told by hand, and its law: one entry for every record, whatever became of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import CountError
from mixtura.pipeline import tables
from mixtura.pipeline.ledger import Book, Chapter, Totals, write_ledger
from mixtura.rows import QUARANTINE, table

FATES = {
    "source": pl.String, "file": pl.String, "offset": pl.Int64, "raw_id": pl.String, "id": pl.String,
    "tokens": pl.Int32, "reason": pl.String, "detail": pl.String,
}  # fmt: skip
DROPS = {"row": pl.Int32, "reason": pl.String, "survivor": pl.String, "similarity": pl.Float32}
ENDS = {
    "id": pl.String, "selection": pl.String, "rank": pl.Int64, "split": pl.String, "fate": pl.String,
    "stage": pl.String, "reason": pl.String,
}  # fmt: skip


def fates(path: Path, *rows: tuple) -> str:
    """`(offset, id or None, reason or None)` of each row of one file."""
    full = [("web", "a.jsonl", at, f"raw{at}", i, 3 if i else None, why, None) for at, i, why in rows]
    pl.DataFrame(full, schema=FATES, orient="row").write_parquet(path)
    return str(path)


def drops(path: Path, *rows: tuple) -> str:
    pl.DataFrame(list(rows), schema=DROPS, orient="row").write_parquet(path)
    return str(path)


def quarantine(path: Path, *rows: tuple[int, str]) -> str:
    bad = [
        {"source": "web", "file": "a.jsonl", "offset": at, "error": e, "raw": b"x", "raw_bytes": 1} for at, e in rows
    ]
    tables.write(path, table(bad, QUARANTINE))
    return str(path)


def scores(path: Path, **by_id: float) -> str:
    pl.DataFrame({"id": list(by_id), "score": list(by_id.values())}).write_parquet(path)
    return str(path)


def ends(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ENDS, orient="row")


def test_each_record_tells_where_its_way_ended(tmp_path):
    """Eight records: one cleaned away, two duplicates, two written, one over weight, one not picked, one broken."""
    first = fates(tmp_path / "f0.parquet", (0, "A", None), (10, None, "too-short"), (20, "B", None), (30, "C", None))
    second = fates(tmp_path / "f1.parquet", (40, "D", None), (50, "E", None), (60, "C", None))
    chapter = Chapter(
        (first, second),
        (
            # row numbers count what cleaning kept: row 1 of the first shard is B, not the record that was too short
            drops(tmp_path / "d0.parquet", (1, "near-duplicate", "A", 0.9)),
            drops(tmp_path / "d1.parquet", (2, "exact-duplicate", "C", 1.0)),
        ),
        quarantine(tmp_path / "q.parquet", (70, "bad-json: unexpected end")),
        (
            {"s": scores(tmp_path / "s0.parquet", A=0.5, C=-1.0)},
            {"s": scores(tmp_path / "s1.parquet", D=0.25, E=0.0)},
        ),
    )
    known = ends(
        ("A", "s", 0, "train", "written", "mix", None),
        ("C", "s", 2, "test", "written", "mix", None),
        ("D", None, None, None, "dropped", "mix", "over-weight"),
    )
    totals = write_ledger(
        tmp_path / "ledger.parquet", {"web": Book([chapter], known, ("dropped", "pick", "not-picked"))}, ["s", "t"]
    )
    ledger = pl.read_parquet(tmp_path / "ledger.parquet")
    told = ledger.select("offset", "id", "fate", "stage", "reason", "survivor", "split", "rank", "score.s").rows()
    assert told == [
        (0, "A", "written", "mix", None, None, "train", 0, 0.5),
        (10, None, "dropped", "clean", "too-short", None, None, None, None),
        (20, "B", "dropped", "dedup", "near-duplicate", "A", None, None, None),
        (30, "C", "written", "mix", None, None, "test", 2, -1.0),
        (40, "D", "dropped", "mix", "over-weight", None, None, None, 0.25),
        (50, "E", "dropped", "pick", "not-picked", None, None, None, 0.0),
        (60, "C", "dropped", "dedup", "exact-duplicate", "C", None, None, None),  # its twin was written, it was not
        (70, None, "quarantined", "ingest", "bad-json", None, None, None, None),
    ]
    assert ledger["detail"].to_list() == [None] * 7 + ["bad-json: unexpected end"]
    assert ledger["similarity"].drop_nulls().to_list() == pytest.approx([0.9, 1.0])
    assert ledger["raw_id"].to_list() == [f"raw{i}" for i in range(0, 70, 10)] + [None]
    assert ledger["score.t"].null_count() == 8  # a selection that may not choose from this source
    assert totals["web"] == Totals(
        read=8,
        written=2,
        quarantined=1,
        dropped={
            "too-short": 1, "near-duplicate": 1, "exact-duplicate": 1, "over-weight": 1, "not-picked": 1,
        },
    )  # fmt: skip
    assert totals["web"].check("web", 8) is totals["web"]


def test_a_source_without_a_record_has_a_book_too(tmp_path):
    empty = Chapter((), (), quarantine(tmp_path / "q.parquet"))
    book = Book([empty], ends(), ("dropped", "pick", "not-picked"))
    assert write_ledger(tmp_path / "l.parquet", {"web": book}, []) == {"web": Totals()}
    assert pl.read_parquet(tmp_path / "l.parquet").height == 0


@pytest.mark.parametrize("read", [6, 8])
def test_books_that_do_not_balance_are_an_error(read):
    totals = Totals(read=7, written=4, quarantined=1, dropped={"empty": 2})
    totals.check("web", 7)
    with pytest.raises(CountError, match=f"ledger of source 'web' must hold {read} records; got 7 with 7 ends"):
        totals.check("web", read)
    with pytest.raises(CountError, match="got 7 with 6 ends"):
        Totals(read=7, written=4, dropped={"empty": 2}).check("web", 7)


RECORD = st.sampled_from(["clean", "near-duplicate", "written", "over-weight", "not-picked"])


@given(shards=st.lists(st.lists(RECORD, max_size=6), max_size=4), broken=st.integers(0, 3))
@settings(max_examples=30)
def test_every_record_has_exactly_one_entry(tmp_path_factory, shards, broken):
    """Whatever the mix of ends and however it is cut into shards: counted fates are the planted ones, in order."""
    folder = tmp_path_factory.mktemp("law")
    known, fate_files, drop_files, planted = [], [], [], []
    for number, shard in enumerate(shards):
        rows, gone, kept = [], [], 0
        for i, end in enumerate(shard):
            at, name = 100 * number + i, f"r{number}.{i}"
            planted.append((at, end))
            rows.append((at, None, "clean") if end == "clean" else (at, name, None))
            if end == "near-duplicate":
                gone.append((kept, end, "elsewhere", 0.8))
            elif end == "written":
                known.append((name, "s", at, "train", "written", "mix", None))
            elif end == "over-weight":
                known.append((name, None, None, None, "dropped", "mix", end))
            kept += end != "clean"
        fate_files.append(fates(folder / f"f{number}.parquet", *rows))
        drop_files.append(drops(folder / f"d{number}.parquet", *gone))
    bad = quarantine(folder / "q.parquet", *((1000 + i, "bad-json: x") for i in range(broken)))
    book = Book([Chapter(tuple(fate_files), tuple(drop_files), bad)], ends(*known), ("dropped", "pick", "not-picked"))
    totals = write_ledger(folder / "l.parquet", {"web": book}, [])["web"]
    ledger = pl.read_parquet(folder / "l.parquet")
    planted += [(1000 + i, "bad-json") for i in range(broken)]
    ends_told = zip(ledger["offset"], ledger["reason"].fill_null("written"), strict=True)
    assert list(ends_told) == planted
    counted = Counter(end for _, end in planted)
    assert totals.check("web", len(planted)) == Totals(
        len(planted), counted.pop("written", 0), counted.pop("bad-json", 0), dict(counted)
    )
