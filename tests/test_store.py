"""The store: complete or absent, found by content, never stale."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixtura.errors import InputError, StoreError
from mixtura.store import Artefact, NotMade, Store, code_version, file_digest, peeking

PARTS = {"inputs": ["a"], "spec": {"x": 1}, "code": "c"}


def maker(text: str, calls: list[str]):
    def write(folder: Path) -> dict:
        calls.append(text)
        (folder / "data.txt").write_text(text)
        return {"n": len(text)}

    return write


def test_made_once_then_found(store):
    calls: list[str] = []
    first = store.make("thing", maker("hello", calls), **PARTS)
    again = store.make("thing", maker("never", calls), **PARTS)
    assert calls == ["hello"]
    assert (first.reused, again.reused) == (False, True)
    assert again.file("data.txt").read_text() == "hello"
    assert again.facts == {"n": 5}
    assert again.digest == first.digest
    assert again.files["data.txt"]["sha256"] == file_digest(first.file("data.txt"))


@pytest.mark.parametrize("change", [{"inputs": ["b"]}, {"spec": {"x": 2}}, {"code": "d"}])
def test_changing_any_one_part_makes_another(store, change):
    calls: list[str] = []
    store.make("thing", maker("one", calls), **PARTS)
    store.make("thing", maker("two", calls), **{**PARTS, **change})
    assert calls == ["one", "two"]


def test_equal_bytes_give_equal_digests_whatever_the_key(store):
    one = store.make("thing", maker("same", []), **PARTS)
    two = store.make("thing", maker("same", []), **{**PARTS, "spec": {"x": 9}})
    assert one.key != two.key
    assert one.digest == two.digest


def test_a_failing_maker_leaves_nothing(store):
    def fails(folder: Path) -> dict:
        (folder / "half.txt").write_text("half")
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        store.make("thing", fails, **PARTS)
    assert not list(store.root.rglob("half.txt"))
    assert not list((store.root / "tmp").iterdir())


def test_a_damaged_artefact_counts_as_missing(store):
    calls: list[str] = []
    made = store.make("thing", maker("hello", calls), **PARTS)
    made.file("data.txt").write_text("hell")
    store.make("thing", maker("hello", calls), **PARTS)
    assert calls == ["hello", "hello"]


def test_a_parquet_file_that_does_not_read_back_is_refused(store):
    def write(folder: Path) -> dict:
        pq.write_table(pa.table({"a": [1]}), folder / "a.parquet")
        os.truncate(folder / "a.parquet", 20)
        return {}

    with pytest.raises(StoreError, match=r"a\.parquet does not read back"):
        store.make("thing", write, **PARTS)
    assert store.find("thing", store.key("thing", **PARTS)) is None


def test_peeking_finds_and_does_not_make(store):
    with pytest.raises(NotMade), peeking():
        store.make("thing", maker("x", []), **PARTS)
    store.make("thing", maker("x", []), **PARTS)
    with peeking():
        assert store.make("thing", maker("x", []), **PARTS).reused


def test_a_killed_writer_leaves_only_a_draft_that_is_swept(tmp_path):
    program = textwrap.dedent("""
        import os, signal, sys
        from mixtura.store import Store
        def write(folder):
            (folder / "half.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        Store(sys.argv[1]).make("thing", write, inputs=["a"], spec={"x": 1}, code="c")
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], check=False)
    assert done.returncode == -9
    store = Store(tmp_path / "s")
    assert store.find("thing", store.key("thing", **PARTS)) is None
    assert store.sweep() == 1
    assert store.make("thing", maker("whole", []), **PARTS).file("data.txt").read_text() == "whole"


def test_code_version_sees_helpers_of_helpers(tmp_path, monkeypatch):
    """`clean` uses `tokens`; the digest of `clean` must move when `tokens` does, though clean's own file does not."""
    from mixtura import store as module

    before = code_version.__wrapped__("mixtura.pipeline.clean")
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: real(self) + (b"\n# changed" if self.name == "tokens.py" else b"")
    )
    assert code_version.__wrapped__("mixtura.pipeline.clean") != before
    assert code_version.__wrapped__("mixtura.pipeline.mix") == code_version.__wrapped__("mixtura.pipeline.mix")
    monkeypatch.undo()
    assert code_version.__wrapped__("mixtura.pipeline.clean") == before
    assert module.code_version("mixtura.errors", ("numpy",)) != module.code_version("mixtura.errors")


def test_handles_and_errors_cross_processes(store):
    made = store.make("thing", maker("x", []), **PARTS)
    assert pickle.loads(pickle.dumps(made)) == made
    assert isinstance(made, Artefact)
    error = InputError("thing", "must be so", got=3, next_step="Do it")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.got, again.exit_code) == (str(error), 3, 2)


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="must be a folder that can be written"):
        Store(tmp_path / "file")


def test_what_was_made_reads_as_what_is_found(store):
    """Facts reach the card and the report: their order and types may not depend on whether this run made them."""

    def write(folder: Path) -> dict:
        (folder / "data.txt").write_text("x")
        return {"b": 1, "a": (1, 2), "c": {"z": 0, "y": 0}}

    made, found = store.make("thing", write, **PARTS), store.make("thing", write, **PARTS)
    assert repr(made.facts) == repr(found.facts)
    assert made.facts == {"a": [1, 2], "b": 1, "c": {"y": 0, "z": 0}}
