"""The rules of who may name whom, read from the imports; nothing is imported."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "mixtura").rglob("*.py"))

CORE = {"errors", "recipe", "recipe_file", "registry", "rows", "store", "verdict", "checking"}
# part → parts that it may import beside itself
MAY = {
    "core": CORE,
    "recipe": set(),
    "recipe_file": {"errors", "recipe", "registry"},
    "pipeline": CORE - {"recipe_file"},
    "generation": {*(CORE - {"recipe_file"}), "pipeline"},
    "toolcalls": {"errors", "verdict"},
    "checks": {"errors", "verdict", "checking", "toolcalls"},
    "mining": {*(CORE - {"recipe_file"}), "generation", "toolcalls"},
    "search": {*(CORE - {"recipe_file"}), "generation", "mining", "toolcalls"},
    "selectors": {*(CORE - {"recipe_file"}), "pipeline", "generation", "mining", "toolcalls", "checks"},
    "trainer": {*(CORE - {"recipe_file"}), "pipeline"},
    "stages": {*CORE, "pipeline", "generation"},
    "tasks": {*CORE, "pipeline", "generation"},
    "propose": {*CORE, "pipeline", "stages", "tasks", "generation"},
    "builders": {*(CORE - {"recipe_file"}), "pipeline", "tasks", "generation"},
    "probe": {*CORE, "pipeline", "stages", "trainer"},
    "loop": {*CORE, "pipeline", "generation", "toolcalls", "mining", "search", "stages", "trainer"},
    "flows": {
        *CORE,
        "pipeline",
        "stages",
        "trainer",
        "probe",
        "generation",
        "mining",
        "search",
        "toolcalls",
        "checks",
        "loop",
    },
    "cli": {
        *CORE,
        "pipeline",
        "stages",
        "trainer",
        "probe",
        "flows",
        "tasks",
        "toolcalls",
        "propose",
        "generation",
        "loop",
    },
}
# a heavy library → the only places that may import it
HOMES = {
    "prefect": ("flows/",),
    "faiss": ("pipeline/index.py", "propose/kmeans.py"),
    "triton": ("pipeline/transport/",),
    "sentence_transformers": ("pipeline/embed/",),
    "transformers": (
        "trainer/",
        "pipeline/tokens.py",
        "pipeline/embed/",
        "pipeline/lm.py",
        "pipeline/attention/",
        "generation/",
    ),
    "sklearn": ("pipeline/embed/", "pipeline/report/"),
    "rensa": ("pipeline/shingles.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "mixtura").parts
    alone = "cli" if path.stem == "__main__" else "core"
    return parts[0] if len(parts) > 1 else alone


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.append(node.module or "")
            found += [f"{node.module}.{a.name}" for a in node.names if node.module == "mixtura"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_rules(path: Path):
    part = part_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "mixtura" and rest:
            other = rest.split(".")[0]
            assert other == part or other in MAY[part], f"{part} must not import {name}"
            sibling = part in ("selectors", "builders") and other == part
            assert not sibling or path.name == "__init__.py", f"{part} must not import each other: {name}"
        elif top in HOMES:
            where = path.relative_to(ROOT / "mixtura").as_posix()
            assert where.startswith(HOMES[top]), f"{top} has its home in {HOMES[top]}, not in {where}"


def test_no_file_hides_a_standard_module():
    names = {p.stem for p in FILES if p.name != "__init__.py"} | {p.parent.name for p in FILES}
    assert names & set(sys.stdlib_module_names) <= {"selectors"}, "only mixtura/selectors/, see README"
    assert not {"utils", "helpers", "common"} & names


def test_every_part_was_seen():
    seen = Counter(part_of(p) for p in FILES)
    assert set(seen) == set(MAY)
    assert all(n >= 2 for n in seen.values()), seen
