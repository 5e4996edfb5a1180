"""The same recipe over the same records gives the same bytes, however the work is cut; and no work is done twice."""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard
from e2e import corpus

pytestmark = pytest.mark.xdist_group("invariance")


def test_the_corpus_takes_every_way_through_the_house(whole):
    """What follows would prove little over a corpus where nothing is broken, dropped, copied or left."""
    ledger = pl.read_parquet(whole.done.folder / "ledger.parquet")
    ends = {(s, r) for s, r in ledger.select("stage", "reason").unique().iter_rows()}
    assert ends >= {
        ("ingest", "bad-json"), ("ingest", "bad-encoding"), ("ingest", "not-an-object"), ("ingest", "missing-column"),
        ("ingest", "wrong-type"), ("clean", "empty"), ("clean", "too-short"), ("clean", "repetitive:top_2gram"),
        ("dedup", "exact-duplicate"), ("dedup", "near-duplicate"), ("dedup", "in-target"), ("pick", "not-picked"),
        ("mix", "over-weight"), ("mix", None), ("draw", None),
    }  # fmt: skip
    assert set(ledger["split"].drop_nulls()) == {"train", "validation", "test", "target", "heldout"}
    assert set(ledger["source"]) == {*corpus.RECIPE["sources"], "target"}


def test_the_ledger_balances_with_the_files_themselves(whole):
    """read = written + dropped + quarantined, where `read` is counted here, from what `build` wrote."""
    counted = {source: sum(fates.values()) for source, fates in corpus.balances(whole.done.folder).items()}
    web = (whole.base / "data/web/a.jsonl").read_bytes() + gzip.decompress(
        (whole.base / "data/web/b.jsonl.gz").read_bytes()
    )
    assert counted == {
        "web": sum(bool(line.strip()) for line in web.split(b"\n")),
        "wire": 34,
        "papers": 30,
        "chat": 22,
        "orders": 20,
        "table": 20,
        "notes": 14,
        "target": 30,
    }
    written = sum(f.get("written", 0) for s, f in corpus.balances(whole.done.folder).items() if s != "target")
    assert written == corpus.splits_of(whole.done.folder).height == whole.done.summary.total.rows


@pytest.mark.parametrize(("shard_rows", "workers"), [(7, 1), (50_000, 1), (13, 2)])
def test_shards_workers_and_place_do_not_reach_the_bytes(tmp_path, whole, shard_rows, workers):
    recipe = corpus.build(tmp_path)  # elsewhere: no path of the machine enters either
    done, teller = corpus.curate_here(recipe, shard_rows=shard_rows, workers=workers)
    assert corpus.contents(done.folder) == whole.contents
    rows = [sum(n for fate, n in f.items() if fate != "quarantined") for f in corpus.balances(done.folder).values()]
    assert teller.computed["clean"] == sum(math.ceil(n / shard_rows) for n in rows)  # the cut was another one indeed


def test_shards_of_500_and_of_50_000_rows_give_the_same_bytes(tmp_path):
    """Over a pool of which 500 rows are a part: one worker and two, each with a store of its own."""
    say = corpus.Writer(random.Random(3))
    found = []
    for name, shard_rows, workers in (("a", 500, 1), ("b", 50_000, 1), ("c", 500, 2), ("d", 50_000, 2)):
        say.rng.seed(3)
        recipe = corpus.build(tmp_path / name)
        more = [say(topic) for topic in ("cell", "stone", "ship") for _ in range(450)]
        (recipe.parent / "data/web/more.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in more))
        done, teller = corpus.curate_here(recipe, shard_rows=shard_rows, workers=workers)
        found.append((corpus.contents(done.folder), teller.computed["clean"]))
    assert all(bytes_ == found[0][0] for bytes_, _ in found)
    assert [cleaned for _, cleaned in found] == [10, 8, 10, 8]


def test_the_order_of_records_and_files_does_not_reach_the_picks(tmp_path, whole):
    recipe = corpus.build(tmp_path)
    moved = _permute(tmp_path / "data")
    assert moved == 5 + 14
    done, _ = corpus.curate_here(recipe, shard_rows=40)
    columns = ["id", "split", "selection", "rank", "score", "text", "why"]  # in the mixture's order, scores by the bit
    ours = corpus.splits_of(done.folder)
    assert ours.select(columns).equals(corpus.splits_of(whole.done.folder).select(columns))
    assert not ours["offset"].equals(corpus.splits_of(whole.done.folder)["offset"])


def test_a_run_that_is_repeated_does_nothing(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.base.rglob("*")}
    done, teller = corpus.curate_here(whole.recipe, shard_rows=50)
    assert not done.changed
    assert teller.computed.total() == 0
    assert teller.reused.total() >= 60
    assert {p: p.stat().st_mtime_ns for p in whole.base.rglob("*") if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


def test_one_new_file_costs_its_own_work(tmp_path, whole):
    """The new note goes through ingest, clean, dedup and the encoder alone, and is scored.

    What else computes, has to: dedup decides over the whole pool, so its decision is made again, but every shard that
    it leaves as it was is reused; nudge learns its prices from a sample of the pool, which the new row enters, so it
    scores everything again; picks, mix and mixture are made of all rows. Uniform may not choose from the notes and
    learns nothing: all of its scores are reused.
    """
    base = tmp_path / "base"
    shutil.copytree(whole.base, base)
    (base / "data/notes/n50.md").write_text("# New\n\n" + " ".join(f"novel{i}" for i in range(40)))
    done, teller = corpus.curate_here(base / "small.yaml", shard_rows=50)
    parts = 9  # shards of 50 rows: web has two, each other source one, and the target
    assert dict(teller.computed) == {
        "ingest": 1,  # the bundle of notes
        "clean": 1,
        "dedup": 1 + 1,  # the decision, the notes' shard
        "embed": 1,
        "score": 1 + parts - 1,  # nudge's fit, and its scores
        "pick": 1,
        "mix": 1,
        "write": 1,
    }
    assert teller.reused["ingest"] == 7
    assert done.changed
    assert corpus.balances(done.folder)["notes"].get("dropped", 0) + corpus.balances(done.folder)["notes"].get(
        "written", 0
    ) == 15  # fmt: skip
    shutil.rmtree(base / ".mixtura")
    again, _ = corpus.curate_here(base / "small.yaml", shard_rows=50, output=str(base / "again"))
    assert corpus.contents(again.folder) == corpus.contents(done.folder), "reuse changed the bytes"


def test_a_new_budget_computes_no_score(tmp_path, whole):
    base = tmp_path / "base"
    shutil.copytree(whole.base, base)
    recipe = corpus.write_recipe(base, select__0__pick__budget_tokens=1500)
    _, teller = corpus.curate_here(recipe, shard_rows=50)
    assert +teller.computed == {"pick": 1, "mix": 1, "write": 1}


def _permute(data: Path) -> int:
    """Shuffle the records of five sources and rename the notes; returns how many files moved."""
    rng = random.Random(1)

    def shuffled(items: list) -> list:
        rng.shuffle(items)
        return items

    web = [data / "web/a.jsonl", data / "web/b.jsonl.gz"]
    lines = shuffled((web[0].read_bytes().rstrip() + b"\n" + gzip.decompress(web[1].read_bytes())).split(b"\n"))
    web[0].write_bytes(b"\n".join(lines[40:]))
    web[1].write_bytes(gzip.compress(b"\n".join(lines[:40])))
    wire = data / "wire.jsonl.zst"
    lines = shuffled(zstandard.decompress(wire.read_bytes()).split(b"\n"))
    wire.write_bytes(zstandard.compress(b"\n".join(lines)))
    papers = pq.read_table(data / "papers.parquet")
    pq.write_table(papers.take(shuffled(list(range(papers.num_rows)))), data / "papers.parquet")
    for name in ("chat.json", "orders.json"):
        (data / name).write_text(json.dumps(shuffled(json.loads((data / name).read_text()))))
    notes = sorted(data.glob("notes/**/*.md"))
    for number, note in enumerate(notes):
        note.rename(note.with_name(f"m{(number * 5) % len(notes):02}.md"))
    return 5 + len(notes)
