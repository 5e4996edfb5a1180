"""Ingest as a whole: the books balance, nothing depends on shards or neighbours, and hostile files stay contained."""

import gzip
import json
import pickle
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import fsspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixtura import registry
from mixtura.errors import InputError, MixturaError
from mixtura.pipeline import reading
from mixtura.pipeline.ingest import IngestJob, bundles, check_source, ingest, sample_rows
from mixtura.pipeline.locate import File, Where, locate
from mixtura.recipe import Source
from mixtura.rows import QUARANTINE, ROW, content_id


def run(folder, store, shard_rows=1000, **spec):
    """Ingest everything that a source names; returns its artefacts."""
    spec = Source(**spec)
    files = locate("s", spec, Where(Path(folder)))
    return [ingest(IngestJob(b, str(store), shard_rows)) for b in bundles("s", spec, files)]


def rows_of(made):
    tables = [pq.read_table(a.file(n)) for a in made for n in a.names("rows-")]
    assert all(t.schema.equals(ROW) for t in tables)
    return [r for t in tables for r in t.to_pylist()]


def quarantined(made):
    tables = [pq.read_table(a.file("quarantine.parquet")) for a in made]
    assert all(t.schema.equals(QUARANTINE) for t in tables)
    return [r for t in tables for r in t.to_pylist()]


def write(folder, files):
    for name, data in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())


def test_rows_carry_their_origin_and_the_sources_defaults(tmp_path):
    write(tmp_path, {"in/a.jsonl": '{"text": "one", "k": 1}\nbroken\n{"text": "two"}\n', "in/b.md": "# T\n\nBody"})
    made = run(tmp_path, tmp_path / "store", files="in", license="MIT", language="en", task="t")
    rows = rows_of(made)
    assert [(r["file"], r["offset"], r["text"], r["meta"]) for r in rows] == [
        ("in/a.jsonl", 0, "one", '{"k":1}'),
        ("in/a.jsonl", 31, "two", None),
        ("in/b.md", 0, "# T\n\nBody", '{"title":"T"}'),
    ]
    for row in rows:
        assert row["id"] == content_id({"text": row["text"]})
        assert (row["source"], row["license"], row["language"], row["task"]) == ("s", "MIT", "en", "t")
        assert row["tokens"] is None
    (bad,) = quarantined(made)
    assert (bad["file"], bad["offset"], bad["raw"], bad["raw_bytes"]) == ("in/a.jsonl", 24, b"broken", 6)
    facts = made[0].facts
    assert (facts["read"], facts["rows"], facts["quarantined"]) == (4, 3, 1)
    assert facts["errors"] == {"bad-json": 1}
    assert str(tmp_path) not in json.dumps(facts)


LINES = st.lists(
    st.sampled_from([b'{"text": "ok"}', b'{"text": 5}', b"", b"\xff", b'{"text": "\x00"}', b"[]", b'{"x'])
).map(b"\n".join)


@given(st.lists(LINES, min_size=1, max_size=4), st.integers(1, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_ends_in_exactly_one_place(tmp_path, files, shard_rows):
    folder = tmp_path / str(abs(hash((tuple(files), shard_rows))))
    write(folder, {f"{i}.jsonl": data for i, data in enumerate(files)})
    made = run(folder, folder / "store", shard_rows, files="*.jsonl")
    # the oracle: lines that are not blank, each found again at its file and offset, in one of the two places
    expected, offset = [], 0
    for i, data in enumerate(files):
        offset = 0
        for line in data.split(b"\n"):
            if line.strip():
                expected.append((f"{i}.jsonl", offset))
            offset += len(line) + 1
    found = [(r["file"], r["offset"]) for r in rows_of(made) + quarantined(made)]
    assert sorted(found) == expected
    assert sum(a.facts["read"] for a in made) == len(expected)
    for bad in quarantined(made):
        data = files[int(bad["file"][0])]
        assert data[bad["offset"] :].startswith(bad["raw"])
    sizes = [pq.read_metadata(a.file(n)).num_rows for a in made for n in a.names("rows-")]
    assert all(0 < n <= shard_rows for n in sizes)


def test_rows_do_not_depend_on_shards_or_neighbours(tmp_path):
    write(tmp_path, {f"d/{i:03}.jsonl": "".join(f'{{"text": "{i} {j}"}}\n' for j in range(7)) for i in range(40)})
    once = rows_of(run(tmp_path, tmp_path / "a", 3, files="d"))
    assert once == rows_of(run(tmp_path, tmp_path / "b", 50_000, files="d"))
    alone = [r for i in range(40) for r in rows_of(run(tmp_path, tmp_path / "c", files=f"d/{i:03}.jsonl"))]
    assert once == alone


def test_a_second_run_reuses_everything_and_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, {"a.jsonl": '{"text": "one"}\n'})
    (first,) = run(tmp_path, tmp_path / "store", files="a.jsonl")
    (again,) = run(tmp_path, tmp_path / "store", files="a.jsonl", max_quarantine=0.5, revision="2")
    assert (first.reused, again.reused, again.digest) == (False, True, first.digest)
    write(tmp_path, {"a.jsonl": '{"text": "two"}\n'})
    (changed,) = run(tmp_path, tmp_path / "store", files="a.jsonl")
    assert changed.key != first.key
    (other,) = run(tmp_path, tmp_path / "store", files="a.jsonl", license="MIT")
    assert other.key != changed.key


def test_a_file_that_grows_while_it_is_read_is_not_filed_under_its_old_digest(tmp_path, monkeypatch):
    write(tmp_path, {"a.jsonl": '{"text": "one"}\n'})

    def digest_then_grow(file):
        with (tmp_path / "a.jsonl").open("a") as f:
            f.write('{"text": "more"}\n')
        return "0" * 64

    monkeypatch.setattr("mixtura.pipeline.ingest._file_digest", digest_then_grow)
    with pytest.raises(MixturaError, match=r"file 'a\.jsonl' changed while it was read"):
        run(tmp_path, tmp_path / "store", files="a.jsonl")
    assert not (tmp_path / "store" / "ingest").exists()


def test_a_users_reader_enters_by_entry_point(tmp_path, monkeypatch):
    """A module with one function; its ending works in folders, its options are checked, like a built-in's."""
    (tmp_path / "upper_reader.py").write_text(
        textwrap.dedent("""
        from mixtura.pipeline.reading import Reader, Record, Spec, lines

        class Options(Spec):
            mark: str = ""

        def read(stream, options):
            for offset, line in lines(stream):
                yield Record(offset, {"text": line.decode().upper() + options.mark}, line)

        READER = Reader(read, endings=(".low",), Options=Options)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("upper", "upper_reader", "mixtura.readers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "mixtura.readers" else [])
    caches = (registry.words, registry.module_of, reading._endings)
    for cached in caches:
        cached.cache_clear()
    try:
        write(tmp_path, {"d/a.low": "one\ntwo"})
        made = run(tmp_path, tmp_path / "store", files="d", options={"mark": "!"})
        assert [r["text"] for r in rows_of(made)] == ["ONE!", "TWO!"]
    finally:
        monkeypatch.undo()
        for cached in caches:
            cached.cache_clear()


def test_a_new_small_file_changes_one_bundle():
    spec = Source(files="x")
    files = [File(f"{i:05}.md", f"/x/{i}", 100) for i in range(5000)]
    before = {b.files for b in bundles("s", spec, files)}
    assert 5 < len(before) < 80
    for name in ("00000a.md", "02500a.md", "zzz.md"):
        after = {b.files for b in bundles("s", spec, [*files, File(name, "/x/new", 100)])}
        assert len(after - before) <= 2
        assert sorted(f.name for b in after for f in b) == sorted([*(f.name for f in files), name])
    large = [File(f"{i}.jsonl", "/x", 9 << 20) for i in range(3)]
    assert [len(b.files) for b in bundles("s", spec, large)] == [1, 1, 1]


def test_check_source_says_what_came(tmp_path):
    write(tmp_path, {"a.jsonl": '{"text": "one"}\n' * 9 + "bad\n", "empty.jsonl": "\n", "none.jsonl": "bad\n"})
    made = run(tmp_path, tmp_path / "store", files="a.jsonl")
    with pytest.raises(
        InputError,
        match=r"source 's' must have at most 0\.05 of its records broken \(max_quarantine\); got '9 rows and 1 "
        r"quarantined of 10 records'\. First error: a\.jsonl at 144: bad-json: ",
    ):
        check_source("s", Source(files="a.jsonl"), made)
    check_source("s", Source(files="a.jsonl", max_quarantine=0.1), made)
    empty = run(tmp_path, tmp_path / "store", files="empty.jsonl")
    with pytest.raises(InputError, match="must yield at least one row"):
        check_source("s", Source(files="empty.jsonl"), empty)
    check_source("s", Source(files="empty.jsonl", allow_empty=True), empty)
    none = run(tmp_path, tmp_path / "store", files="none.jsonl")
    with pytest.raises(InputError, match=r"First error: none\.jsonl at 0: bad-json"):
        check_source("s", Source(files="none.jsonl", max_quarantine=1.0), none)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt", "x.md", "x.parquet", "x.tmx", "x.jsonl.gz"])
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"\xff\xfe\x00", bytes(range(256)) * 20, b"[" * 50_000, b'"' * 999]
)
def test_any_bytes_under_any_name_are_counted(tmp_path, name, data):
    write(tmp_path, {name: data})
    made = run(tmp_path, tmp_path / "store", files=name)
    assert len(rows_of(made)) + len(quarantined(made)) == made[0].facts["read"]


def test_a_pickle_and_a_zip_are_one_sentence_and_nothing_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    write(tmp_path, {"a.jsonl": pickle.dumps(Evil()), "b.jsonl": b"PK\x03\x04....", "c.pkl": pickle.dumps(Evil())})
    for name, kind in (("a.jsonl", "a pickle, which can run code"), ("b.jsonl", "a zip archive")):
        with pytest.raises(InputError, match=rf"file '{name}' must be text or Parquet, but is {kind}"):
            run(tmp_path, tmp_path / "store", files=name)
    with pytest.raises(InputError, match="A pickle can run code"):
        run(tmp_path, tmp_path / "store", files="c.pkl")
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "store" / "tmp").iterdir())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"format": "jsonnl"}, r"reader must be one of .*jsonl.*; got 'jsonnl'\. Nearest: 'jsonl'"),
        ({"format": "csv_table", "options": {"delimeter": ";"}}, r"sources\.s\.options\.delimeter .*'delimiter'"),
        ({"options": {"x": 1}}, r"sources\.s\.options\.x must be left out: the reader has none"),
        ({"format": "csv_table", "options": {"encoding": "utf-16"}}, r"options\.encoding must be a codec that keeps"),
    ],
)
def test_wrong_words_and_options_are_refused(tmp_path, spec, message):
    write(tmp_path, {"a.jsonl": "{}"})
    with pytest.raises(InputError, match=message):
        run(tmp_path, tmp_path / "store", files="a.jsonl", **spec)


def test_files_behind_a_url(tmp_path):
    fsspec.filesystem("memory").pipe({"/ingest/a.jsonl.gz": gzip.compress(b'{"text": "far"}\n')})
    rows = rows_of(run(tmp_path, tmp_path / "store", files="memory://ingest/*.gz"))
    assert [(r["file"], r["text"]) for r in rows] == [("memory:///ingest/a.jsonl.gz", "far")]


def test_sample_rows_estimates_without_writing(tmp_path):
    write(tmp_path, {f"{i}.jsonl": '{"text": "some words of a row"}\n' * 2000 for i in range(3)})
    spec = Source(files="*.jsonl")
    sample = sample_rows("s", spec, locate("s", spec, Where(tmp_path)), 300)
    assert (sample.read, sample.quarantined, len(sample.rows)) == (300, 0, 300)
    assert sample.estimated_rows == pytest.approx(6000, rel=0.2)


@pytest.mark.slow
def test_memory_is_bounded_however_large_the_file_is(tmp_path):
    """A 400 MB file with one 200 MB line, read with a limit of address space far below it."""
    line = json.dumps({"text": "x" * 2000}).encode() + b"\n"
    with (tmp_path / "big.jsonl").open("wb") as f:
        f.writelines(line for _ in range(100_000))
        f.write(b'{"text": "' + b"y" * (200 << 20) + b'"}\n')
        f.write(line)
    code = f"""
        import resource
        from mixtura.pipeline.ingest import *
        from mixtura.pipeline.locate import Where, locate
        from pathlib import Path
        spec = Source(files="big.jsonl")
        files = locate("s", spec, Where(Path({str(tmp_path)!r})))
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        facts = ingest(IngestJob(bundles("s", spec, files)[0], {str(tmp_path / "store")!r}, 50_000)).facts
        print(facts["rows"], facts["quarantined"], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    rows, bad, mib = map(int, out.stdout.split())
    assert (rows, bad) == (100_001, 1)
    assert mib < 300


def test_duplicate_content_has_one_id_wherever_it_stands(tmp_path):
    write(tmp_path, {"a.jsonl": '{"text": "same"}\n{"x": 1, "text": " same\\r\\n"}\n', "b.txt": "same"})
    rows = rows_of(run(tmp_path, tmp_path / "store", files=["a.jsonl", "b.txt"]))
    assert pl.DataFrame(rows)["id"].n_unique() == 1
