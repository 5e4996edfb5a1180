"""What the documents say is so: commands run, paths exist, methods and commands are all named."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import polars as pl
import pytest
from typer.main import get_command

from mixtura.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "PAPERS.md", "CHANGELOG.md", "benchmarks/LOG.md")
SELECTORS = sorted(p.stem for p in (ROOT / "mixtura/selectors").glob("[!_]*.py"))
BUILDERS = sorted(p.stem for p in (ROOT / "mixtura/builders").glob("[!_]*.py"))
READERS = sorted(p.stem for p in (ROOT / "mixtura/pipeline/readers").glob("[!_]*.py"))
CHECKS = sorted(p.stem for p in (ROOT / "mixtura/checks").glob("[!_]*.py"))
COMMANDS = get_command(app).commands  # ty: ignore
ELSEWHERE = {
    "make demo": "minutes long; the demo has a test and CI of its own",
    "make test": "this is it",
}
MADE_UP = {"word.py", "test_word.py"}  # what a reader would write


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line for block in fences("(?:bash|console|sh)") for line in block.splitlines()]
    return [c for line in lines if (c := re.sub(r"\s+#.*|^\s*\$ ", "", line).strip())]


@pytest.fixture
def own_files(tmp_path) -> Path:
    """The user's own files that the worked example speaks of: two fields of study, in two formats, and a target."""
    fields = {"cells": "cell membrane protein enzyme gene tissue", "stars": "star orbit comet galaxy dust light"}
    texts = {name: [_sentence(name, i, words.split()) for i in range(900)] for name, words in fields.items()}
    (tmp_path / "corpus/deep").mkdir(parents=True)
    (tmp_path / "corpus/cells.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts["cells"][:800]))
    pl.DataFrame({"text": texts["stars"]}).write_parquet(tmp_path / "corpus/deep/stars.parquet")
    (tmp_path / "target.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts["cells"][800:]))
    for block in fences("yaml"):
        (tmp_path / re.findall(r"\A# (\S+\.yaml)\n", block)[0]).write_text(block)
    return tmp_path


def _sentence(field: str, i: int, words: list[str]) -> str:
    return f"{field} {i}. " + " ".join(f"{words[(i * k + k) % 6]}{(i * 7 + k * i) % 211}" for k in range(40))


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_every_command_of_the_readme_runs(own_files, clean_env):
    """In the order of the text, in the reader's folder; then the Python below them."""
    ran = []
    for command in commands():
        if command in ELSEWHERE:
            continue
        done = subprocess.run(
            command, shell=True, env=clean_env, cwd=own_files, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}{done.stderr}"
        ran.append(command)
    words = {c.split()[1] for c in ran}
    assert words >= {"check", "run", "show", "why", "train"}, words
    assert len(ran) + len(ELSEWHERE) == len(commands())
    pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    blocks = fences("python")
    for block in blocks:
        cache = clean_env | {"HF_HOME": str(own_files / "hf")}
        done = subprocess.run(
            ["python", "-c", block], env=cache, cwd=own_files, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert blocks


def test_commands_within_sentences_exist():
    inline = {c for c in re.findall(r"`(mixtura [a-z][^`]*)`", " ".join(README.split()))}
    for command in inline:
        word, *rest = command.split()[1:]
        assert word in COMMANDS, command
        known = {o for p in COMMANDS[word].params for o in p.opts}
        assert {r for r in rest if r.startswith("--")} <= known, command
    assert len(inline) >= 4


def test_every_path_in_the_documents_exists():
    seen = 0
    for document in DOCUMENTS:
        if not (ROOT / document).exists():
            assert document == "benchmarks/LOG.md", document
            continue
        text = (ROOT / document).read_text(encoding="utf-8")
        links = [t for t in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in t]
        tops = "mixtura|tests|recipes|benchmarks|data_cards|docs"
        named = re.findall(rf"`((?:{tops})/[\w./-]*\w/?)`", text)
        for path in [*links, *named]:
            if Path(path).name not in MADE_UP and not path.startswith("data_cards/"):
                assert (ROOT / path).exists(), f"{document} names {path}"
                seen += 1
    assert seen >= 20


def test_the_tree_in_the_readme_is_the_tree():
    (block,) = [b for b in fences("text") if b.startswith("mixtura/")]
    named, parents = set(), {}
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        for name in names:
            path = "".join(parents[d] for d in range(depth)) + name
            assert (ROOT / path).exists(), path
            named.add(path.rstrip("/"))
        parents[depth] = names[0]
    folders = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "mixtura").glob("*/__init__.py")}
    assert folders <= named, folders - named
    assert len(named) >= 12


KINDS = [(SELECTORS, "selectors"), (BUILDERS, "builders"), (CHECKS, "checks"), (READERS, "readers")]


@pytest.mark.parametrize(("files", "label"), KINDS, ids=[label for _, label in KINDS])
def test_every_method_is_named_and_every_named_one_exists(files, label):
    assert files
    missing = [name for name in files if f"`{name}`" not in README]
    assert not missing, f"README names no {missing}"
    if label != "readers":
        indexed = re.findall(rf"`mixtura/{label}/(\w+)\.py`", (ROOT / "PAPERS.md").read_text(encoding="utf-8"))
        assert sorted(indexed) == files or label == "checks"  # no paper is behind equality
        section = README.split(f"\n## {label.title()}\n")[1].split("\n## ")[0]
        table = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    else:
        table = re.findall(r"`(\w+)`", re.findall(r"^Readers: (.*?);", README, re.DOTALL | re.MULTILINE)[0])
    assert sorted(table) == files


def test_every_paper_names_its_test():
    lines = [line.split("|") for line in (ROOT / "PAPERS.md").read_text(encoding="utf-8").splitlines()]
    methods = [cells for cells in lines if len(cells) == 7][2:]
    for cells in methods:
        file, test = (cells[i].strip(" `") for i in (3, 4))
        assert (ROOT / file).is_file()
        assert (ROOT / test).is_file()
    assert len(methods) >= len(SELECTORS)


def test_help_lists_every_command_and_each_explains_itself():
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for word, command in COMMANDS.items():
        assert re.search(rf"\b{word}\b", shown.output), word
        assert len(command.help or "") > 40, word
        assert re.search(rf"\b(mixtura|make) {word}\b", README), f"README does not say what {word} is for"
        for option in command.params:
            assert getattr(option, "help", None), f"{word} {option.name} has no help"
    assert COMMANDS.keys() >= set("run check demo show why train schema serve".split())  # noqa: SIM905
