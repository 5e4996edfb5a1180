"""Hostile input: each record is quarantined with its bytes or kept, each refusal is one sentence, nothing else moves.

What the readers do with damage in detail is in tests/readers; here the whole house stands in front of the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from e2e import corpus
from e2e.naughty import STRINGS

from mixtura.cli import main

pytestmark = pytest.mark.xdist_group("hostile")

EVERYTHING = {"rule": "threshold", "threshold": -1e300}
PLAIN = {"name": "hostile", "select": [{"selector": "uniform", "pick": EVERYTHING}]}
CLEAN = {"near_dedup": None, "min_tokens": 0}


def line(text: str, **more: Any) -> bytes:
    return json.dumps({"text": text, **more}).encode()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_recipe(base: Path, **tree: Any) -> Path:
    path = base / "hostile.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, "clean": CLEAN, **tree}))
    return path


# --- files whose bad records cost themselves ---------------------------------------------------------------------

GOOD = [line(f"a good line, number {i}") for i in range(200)]
PACKED = b"\n".join(GOOD)
FRENCH = ("Les élèves français étudient à Besançon, où l'été dure très longtemps. " * 5).encode("cp1252")
NOISY = b"\n".join(line(hashlib.sha256(b"%d" % i).hexdigest()) for i in range(3_000))  # several zstd blocks
# source → files, what else the recipe says, good records (None: at least one), reasons of the broken ones
CASES: dict[str, tuple[dict[str, bytes], dict[str, Any], int | None, dict[str, int]]] = {
    "bad-bytes": (
        {
            "a.jsonl": b"\n".join(
                [GOOD[0], b'{"text": "\xff"}', GOOD[1], b"\xfe\xff\x00", b'{"text": "\xc0\xaf"}', GOOD[2]]
            )
        },
        {},
        3,
        {"bad-encoding": 3},
    ),
    "broken-lines": (
        {
            "a.jsonl": b"\n".join(
                [GOOD[3], b'{"text": "cut', b"{}{}", b"nonsense", b'{"text": NaN}', b"\r", b"", GOOD[4]]
            )
        },
        {},
        2,
        {"bad-json": 4},
    ),
    "wrong-kinds": (
        {"a.jsonl": b"\n".join([GOOD[5], b"[1]", b'"text"', b"7", b"null", b'{"text": {"a": 1}}'])},
        {},
        1,
        {"not-an-object": 4, "wrong-type": 1},
    ),
    "deep-nesting": ({"a.jsonl": b"\n".join([GOOD[6], b"[" * 100_000, b'{"a":' * 50_000])}, {}, 1, {"bad-json": 2}),
    "huge-lines": (
        {"a.jsonl": b"\n".join([GOOD[7], line("x" * 40_000), b"y" * 3_000_000, GOOD[8]])},
        {"max_record_bytes": 10_000},
        2,
        {"too-long": 2},
    ),
    "nuls": ({"a.jsonl": b"\n".join([GOOD[9], b'{"text": "\0"}', b"\0" * 4096, GOOD[10]])}, {}, 2, {"nul": 2}),
    "drift": (
        {"a.jsonl": b"\n".join([*GOOD[11:60], b'{"txt": "renamed"}', b'{"text": 5}', b'{"text": null}', GOOD[60]])},
        {},
        50,
        {"missing-column": 1, "wrong-type": 1, "null": 1},
    ),
    "cut-gz": ({"a.jsonl.gz": gzip.compress(PACKED)[:-300]}, {}, None, {"truncated": 1}),
    "cut-zst": ({"a.jsonl.zst": zstandard.compress(NOISY)[:-300]}, {}, None, {"truncated": 1}),
    "gz-bomb": ({"a.jsonl.gz": gzip.compress(GOOD[61] + b"\n" + b" " * (70 << 20))}, {}, 1, {"bomb": 1}),
    "no-footer": ({"a.jsonl": GOOD[62], "b.parquet": b"PAR1" + b"\x15\x04" * 500}, {}, 1, {"bad-footer": 1}),
    "encodings": (
        {
            "utf8.txt": "Größe, naïve façade: plain and simple".encode(),
            "utf16.txt": "Größe in sixteen bits".encode("utf-16"),
            "latin.txt": FRENCH,
        },
        {"options": {"encoding": "auto"}},
        3,
        {},
    ),
    "one-encoding": ({"a.txt": b"plain and simple", "latin.txt": FRENCH}, {}, 1, {"bad-encoding": 1}),
    "nothing": ({"a.jsonl": b"", "b.csv": b"", "c.json": b"  "}, {"allow_empty": True}, None, {}),
    "naughty": ({"a.jsonl": b"\n".join(map(line, STRINGS))}, {}, len(STRINGS), {}),
}


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixture of all cases together; the base folder is the mixture's grandparent."""
    base = tmp_path_factory.mktemp("hostile")
    for name, (files, _, _, _) in CASES.items():
        for file, data in files.items():
            write(base / "data" / name / file, data)
    sources = {n: {"files": f"data/{n}", "max_quarantine": 1.0, **more} for n, (_, more, _, _) in CASES.items()}
    before = corpus.contents(base)
    done, _ = corpus.curate_here(write_recipe(base, sources=sources), shard_rows=64)
    after = corpus.contents(base)
    made = {n for n in after if n.startswith((".mixtura/", "mixtures/", "data_cards/"))} | {"hostile.yaml"}
    assert {n: d for n, d in after.items() if n not in made} == before, "something else was touched"
    return done.folder


@pytest.mark.parametrize("name", CASES)
def test_bad_records_cost_themselves_and_are_told(survived, name):
    _, _, good, reasons = CASES[name]
    ledger = pl.read_parquet(survived / "ledger.parquet").filter(pl.col("source") == name)
    bad = ledger.filter(pl.col("fate") == "quarantined")
    assert dict(Counter(bad["reason"])) == reasons
    rest = ledger.height - bad.height
    assert rest == good if good is not None else rest > 0 or name == "nothing"


def test_every_quarantined_record_has_its_bytes_and_its_place(survived):
    quarantine = pl.read_parquet(survived / "quarantine.parquet")
    assert quarantine.height == sum(sum(reasons.values()) for _, _, _, reasons in CASES.values())
    for source, file, offset, error, raw, size in quarantine.iter_rows():
        stored = CASES[source][0][Path(file).name]
        if error.startswith(("truncated", "bomb", "bad-footer")):
            continue  # offsets into a stream that is not whole; see tests/readers
        assert stored[offset:].startswith(raw), error
        assert stored[offset : offset + size + 1].rstrip(b"\n").find(b"\n") == -1
        assert size == len(stored[offset:].split(b"\n")[0])


def test_the_books_balance(survived):
    """read = written + dropped + quarantined for every source, and what is written is in the splits."""
    summary = json.loads((survived / "summary.json").read_text())
    fates = corpus.balances(survived)
    for facts in summary["sources"]:
        assert facts["read"] == sum(fates.get(facts["name"], {}).values()), facts["name"]
    written = sum(f.get("written", 0) for f in fates.values())
    assert written == corpus.splits_of(survived).height > 200


def test_naughty_strings_come_out_as_they_went_in(survived):
    kept = corpus.splits_of(survived).filter(pl.col("source") == "naughty")
    ledger = pl.read_parquet(survived / "ledger.parquet").filter(pl.col("source") == "naughty")
    dropped = set(ledger.filter(pl.col("fate") == "dropped")["reason"])
    assert dropped <= {"empty", "exact-duplicate"}
    went_in = {unicodedata.normalize("NFC", s).replace("\r\n", "\n").replace("\r", "\n").strip() for s in STRINGS}
    assert {unicodedata.normalize("NFC", t).strip() for t in kept["text"]} == went_in - {""}


def test_the_real_list_of_naughty_strings(tmp_path):
    data = os.environ.get("MIXTURA_DATA")
    found = list(Path(data).rglob("blns.json")) if data else []
    if not found:
        pytest.skip("MIXTURA_DATA names no folder with blns.json")
    strings = json.loads(found[0].read_text(encoding="utf-8"))
    assert len(strings) > 500
    write(tmp_path / "data/a.jsonl", b"\n".join(map(line, strings)))
    sources = {"naughty": {"files": "data/a.jsonl", "max_quarantine": 0.1}}
    done, _ = corpus.curate_here(write_recipe(tmp_path, sources=sources))
    assert sum(corpus.balances(done.folder)["naughty"].values()) == len(strings)


# --- what is refused ---------------------------------------------------------------------------------------------


def run(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The command line in this process: exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["mixtura", "run", str(recipe), "--plain", "--workers", "1"])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), capsys.readouterr().err


def refused(folder: Path, recipe: Path, sentence: str, monkeypatch: Any, capsys: Any) -> None:
    """One sentence, exit code 2, and no file of the folder around the base has come, gone or changed."""
    before = corpus.contents(folder)
    code, err = run(recipe, monkeypatch, capsys)
    assert code == 2, err
    assert err.startswith("error ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sentence in err
    after = corpus.contents(folder)
    assert {n: d for n, d in after.items() if "/.mixtura/" not in n} == before


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base folder beside secrets, with links that lead to them."""
    base = tmp_path / "base"
    write(base / "data/ok.jsonl", PACKED)
    write(tmp_path / "secret.jsonl", line("the neighbour's"))
    write(tmp_path / "outside/secret.jsonl", line("the neighbour's too"))
    write(tmp_path / "outside/model/config.json", b"{}")
    (base / "data/link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (base / "linked").symlink_to(tmp_path / "outside")
    return base


PATHS = {
    "absolute": "/etc/passwd",
    "absolute-glob": "/etc/*",
    "climb": "../secret.jsonl",
    "climb-inside": "data/../../secret.jsonl",
    "climb-backslash": "data\\..\\..\\secret.jsonl",
    "file-url": "file:///etc/passwd",
    "local-url": "local:///etc/passwd",
    "chain": "zip://a.jsonl::file:///etc/a.zip",
    "simplecache": "simplecache::file:///etc/passwd",
    "link": "data/link.jsonl",
    "linked-folder": "linked/secret.jsonl",
    "linked-glob": "linked/*.jsonl",
    "folder-with-a-link": "data",
    "undeclared-variable": "${HOME}/x.jsonl",
    "nul": "data/o\0k.jsonl",
    "home": "~/x.jsonl",
    "missing": "data/okk.jsonl",
    "device": "/dev/zero",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_files_elsewhere(base, path, monkeypatch, capsys):
    recipe = write_recipe(base, sources={"s": {"files": path, "format": "jsonl"}})
    refused(base.parent, recipe, "sources.s.files", monkeypatch, capsys)


@pytest.mark.parametrize(
    "folder",
    ["../out", "/tmp/mixtura-out", "file:///tmp/mixtura-out", "${HOME}/out", "linked/out", "s3://b/out", "a\0b"],
)
def test_output_elsewhere(base, folder, monkeypatch, capsys):
    recipe = write_recipe(base, sources={"s": {"files": "data/ok.jsonl"}}, output={"folder": folder})
    refused(base.parent, recipe, "output.folder", monkeypatch, capsys)


@pytest.mark.parametrize("folder", [".", "data", "data/ok.jsonl", "data/ok.jsonl/deeper", "linked"])
def test_output_where_something_is(base, folder, monkeypatch, capsys):
    recipe = write_recipe(base, sources={"s": {"files": "data/ok.jsonl"}}, output={"folder": folder})
    refused(base.parent, recipe, "output", monkeypatch, capsys)


@pytest.mark.parametrize("model", ["../outside/model", "/etc", "${HOME}/model", "linked/model", "file:///etc"])
def test_models_elsewhere(base, model, monkeypatch, capsys):
    write(base / "target.jsonl", b"\n".join(GOOD[:9]))
    nearest = {"selector": "nearest", "pick": {"budget_rows": 5}}
    sources, target = {"s": {"files": "data/ok.jsonl"}}, {"files": "target.jsonl"}
    recipe = write_recipe(base, sources=sources, target=target, embed={"encoder": model}, select=[nearest])
    refused(base.parent, recipe, "model", monkeypatch, capsys)


@pytest.mark.parametrize("tokenizer", ["../outside/model", "/etc", "linked/model"])
def test_tokenizers_elsewhere(base, tokenizer, monkeypatch, capsys):
    sources = {"s": {"files": "data/ok.jsonl"}}
    recipe = write_recipe(base, sources=sources, clean={**CLEAN, "tokenizer": tokenizer})
    refused(base.parent, recipe, "", monkeypatch, capsys)


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("pwned",)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("../../evil.jsonl", b" " * (4 << 20))
    return out.getvalue()


def arrow_file() -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, pa.schema([("text", pa.string())])):
        pass
    return out.getvalue()


def encrypted_looking_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), out)
    return out.getvalue()[:-4] + b"PARE"


FILES: dict[str, tuple[str, bytes, str]] = {
    "zip": ("a.jsonl", zipped(), "is a zip archive"),
    "zip-in-gz": ("a.jsonl.gz", gzip.compress(zipped()), "is a zip archive"),
    "zip-by-name": ("a.zip", zipped(), "Unpack the archive"),
    "pickle": ("a.jsonl", pickle.dumps([Bomb()]), "is a pickle, which can run code"),
    "pickle-by-name": ("a.pkl", pickle.dumps([Bomb()]), "A pickle can run code and is never opened"),
    "pickle-in-zst": ("a.jsonl.zst", zstandard.compress(pickle.dumps([Bomb()])), "is a pickle"),
    "arrow": ("a.jsonl", arrow_file(), "is an Arrow file"),
    "all-broken": ("a.jsonl", b"nonsense\n" * 20, "must yield at least one row"),
    "mostly-broken": ("a.jsonl", GOOD[0] + b"\nnonsense" * 20, "must have at most 0.05 of its records broken"),
    "empty": ("a.jsonl", b"", "must yield at least one row"),
    "one-bad-parquet": ("a.parquet", encrypted_looking_parquet(), "must yield at least one row"),
    "noise": ("a.json", bytes(range(256)) * 40, "must yield at least one row"),
    "ambiguous": ("a.jsonl", b'{"text": "t", "prompt": "p", "completion": "c"}\n' * 3, "columns"),
}


@pytest.mark.parametrize(("name", "data", "sentence"), FILES.values(), ids=FILES)
def test_files_that_are_never_read(base, name, data, sentence, monkeypatch, capsys):
    monkeypatch.chdir(base)
    write(base / "data" / name, data)
    recipe = write_recipe(base, sources={"s": {"files": f"data/{name}"}})
    refused(base.parent, recipe, sentence, monkeypatch, capsys)
    assert not Path("pwned").exists()


def aliases() -> str:
    """Ten levels of ten: a billion laughs in half a page."""
    levels = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11)]
    return "\n".join(levels)


YAML = {
    "bomb": (aliases(), "must not expand its aliases without end"),
    "endless": ("name: &a [*a]", "must not expand its aliases without end"),
    "deep": ("[" * 5_000 + "]" * 5_000, "must not expand its aliases without end"),
    "merge-bomb": ("a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nname: {<<: [*b, *b]}", "is not a key here"),
    "python-tag": ('name: !!python/object/apply:os.mkdir ["pwned"]', "must be valid YAML"),
    "twice": ("name: a\nname: b", "given twice"),
    "control": ("name: a\0b", "must be valid YAML"),
    "list": ("- 1", "must be a mapping of keys"),
    "nothing": ("", "must be a mapping of keys"),
    "broken": ("name: [1", "must be valid YAML"),
    "large": ("#" * (2 << 20), "must be at most 1,048,576 bytes"),
    "key-of-lists": ("? [1, 2]\n: 3", "recipe"),
    "date": ("name: 2020-01-01\nsources: {a: {files: a.jsonl}}\nselect: []", "name"),
    "infinite": ("name: a\nseed: .inf", "seed"),
    "huge-int": (f"name: a\nseed: {'9' * 5000}", "must hold values that YAML can read"),
    "no-date": ("name: 2020-99-99", "must hold values that YAML can read"),
    "huge-float": ("name: a\nseed: 1e400", "seed"),
}


@pytest.mark.parametrize(("text", "sentence"), YAML.values(), ids=YAML)
def test_hostile_yaml(base, text, sentence, monkeypatch, capsys):
    monkeypatch.chdir(base)
    (base / "hostile.yaml").write_text(text)
    refused(base.parent, base / "hostile.yaml", sentence, monkeypatch, capsys)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80abc"], ids=["utf-16", "latin"])
def test_a_recipe_that_is_not_text(base, data, monkeypatch, capsys):
    (base / "hostile.yaml").write_bytes(data)
    refused(base.parent, base / "hostile.yaml", "must be UTF-8 text", monkeypatch, capsys)


NAMES = ["../evil", "/etc/evil", "a/b", "..", ".hidden", "a\0b", "a\nb", "-rf", "", "x" * 300, "con:1", "[red]"]


@pytest.mark.parametrize("name", NAMES, ids=[repr(n)[:12] for n in NAMES])
def test_names_that_are_no_words(base, name, monkeypatch, capsys):
    sources = {"s": {"files": "data/ok.jsonl"}}
    selection = {"selector": "uniform", "pick": {"budget_rows": 5}}
    for tree in (
        {"name": name, "sources": sources},
        {"sources": {name: sources["s"]}},
        {"sources": sources, "select": [{**selection, "name": name}]},
    ):
        refused(base.parent, write_recipe(base, **tree), "", monkeypatch, capsys)


def test_equal_rows_without_exact_dedup(base, monkeypatch, capsys):
    write(base / "data/two.jsonl", GOOD[0] + b"\n" + GOOD[0])
    recipe = write_recipe(base, sources={"s": {"files": "data/two.jsonl"}}, clean={**CLEAN, "exact_dedup": False})
    refused(base.parent, recipe, "clean.exact_dedup can be false only where no two", monkeypatch, capsys)


def test_a_pipe_and_a_folder_of_nothing(base, monkeypatch, capsys):
    os.mkfifo(base / "data.jsonl")
    (base / "hollow").mkdir()
    for path in ("data.jsonl", "hollow"):
        recipe = write_recipe(base, sources={"s": {"files": path}})
        code, err = run(recipe, monkeypatch, capsys)
        assert (code, "sources.s.files" in err) == (2, True)


def test_the_command_itself_ends_with_two_and_one_sentence(base):
    write(base / "data/a.jsonl", zipped())
    done = corpus.mixtura("run", write_recipe(base, sources={"s": {"files": "data/a.jsonl"}}), "--plain")
    assert done.returncode == 2
    assert done.stderr == (
        "error file 'data/a.jsonl' must be text or Parquet, but is a zip archive. Unpack it and name the files in it.\n"
    )
