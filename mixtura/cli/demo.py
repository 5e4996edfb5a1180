"""`mixtura demo`: curate the docstrings of the installed packages for one library, and see that it helped.

The pool is real text that every machine has, and its truth is known: the library that each docstring came from. The
target is a few hundred docstrings of one library, which is then kept out of the pool.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import time
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from mixtura import recipe_file
from mixtura.cli.running import curate
from mixtura.cli.terminal import TerminalTeller, TrainingBar, console, relative, table
from mixtura.pipeline.work import Workers
from mixtura.recipe import TinyModel, Train
from mixtura.store import write_synced

TARGET = "scikit-learn"
TARGET_ROWS, HELDOUT_ROWS = 300, 200
PER_LIBRARY = 1_000  # docstrings, so that no giant rules the pool, and reading them stays a matter of seconds
LEAST = 50  # a library with fewer is left out
MIN_CHARS = 120
BUDGET_TOKENS = 300_000
STEPS = 60


def run(folder: Path, *, plain: bool) -> None:
    """Build the pool, curate it twice with one budget, train the same model on both, and print what came of it."""
    began = time.perf_counter()
    console.print("[bold]Mixtura demo[/]  which docstrings teach a model to write like scikit-learn?\n")
    libraries = _gather(folder)
    teller = TerminalTeller()
    results: dict[str, dict[str, Any]] = {}
    for selector in ("nudge", "uniform"):
        console.print(f"\n[bold]{selector}[/]  {BUDGET_TOKENS:,} tokens")
        recipe = folder / f"{selector}.yaml"
        write_synced(recipe, _recipe(selector, libraries))
        try:
            results[selector] = curate(recipe_file.load(recipe), _settings(folder), teller, plain=plain)
        finally:
            teller.close()
    console.print("\n[bold]train[/]  the same small model from the same start, on each mixture")
    losses = {s: _train(folder, s, results[s]) for s in results}
    _conclude(folder, results, losses, teller, time.perf_counter() - began)


def _gather(folder: Path) -> dict[str, str]:
    """Write `pool/LIBRARY.jsonl` and `target.jsonl`; returns library → licence of those in the pool."""
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    chosen = sorted({d.metadata["Name"]: d for d in distributions() if d.files}.items())
    jobs = [
        (name, str(folder / "target.jsonl" if name == TARGET else folder / "pool" / f"{name}.jsonl"))
        for name, _ in chosen
    ]
    with console.status("reading the docstrings of the installed packages"), Workers(os.cpu_count() or 1) as workers:
        counts = workers.map(write_library, jobs)
    found = {n: c for (n, _), c in zip(jobs, counts, strict=True) if c >= LEAST and n != TARGET}
    total = sum(found.values())
    console.print(f"[green]✓[/] [bold]pool[/]     {total:,} docstrings of {len(found)} libraries; target: {TARGET}")
    return {n: _license(d) for n, d in chosen if n in found}


def write_library(job: tuple[str, str]) -> int:
    """Docstrings of one distribution as JSON lines, files in the order of their names' hashes, until enough."""
    name, path = job
    files = [f for f in Distribution.from_name(name).files or [] if f.suffix == ".py" and ".." not in f.parts]
    found: dict[str, str] = {}
    for file in sorted(files, key=lambda f: hashlib.blake2b(f.as_posix().encode()).digest()):
        for line in _docstrings(Path(str(file.locate())), file.as_posix()):
            found.setdefault(line["text"], json.dumps({**line, "library": name}, ensure_ascii=False))
        if len(found) >= PER_LIBRARY:
            break
    if len(found) >= LEAST:
        write_synced(Path(path), "\n".join(list(found.values())[:PER_LIBRARY]) + "\n")
    return min(len(found), PER_LIBRARY)


def _docstrings(path: Path, name: str) -> list[dict[str, str]]:
    """Docstrings of a file's module, classes and functions; a file that does not parse has none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    nodes = (
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    found = [(getattr(n, "name", ""), ast.get_docstring(n) or "") for n in nodes]
    return [{"text": d, "file": name, "name": n} for n, d in found if len(d) >= MIN_CHARS]


def _license(distribution: Distribution) -> str:
    """The licence that a distribution declares, as one short line."""
    meta = distribution.metadata
    declared = next((meta[k] for k in ("License-Expression", "License") if k in meta), "")
    if not declared or len(declared) > 60 or "\n" in declared:
        classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License :: ")]
        declared = classifiers[0].split(" :: ")[-1] if classifiers else "unknown"
    return declared


def _recipe(selector: str, libraries: dict[str, str]) -> str:
    """The recipe of one arm: a plain recipe that one can read, change and run again."""
    tree = {
        "name": f"docstrings-{selector}",
        "seed": 1,
        "sources": {
            _word(n): {
                "files": f"pool/{n}.jsonl",
                "columns": {"text": "text", "task": "file"},
                "license": licence,
                "language": "en",
            }
            for n, licence in libraries.items()
        },
        "target": {
            "files": "target.jsonl",
            "columns": {"text": "text"},
            "rows": TARGET_ROWS,
            "heldout_rows": HELDOUT_ROWS,
        },
        "clean": {"min_tokens": 20, "max_tokens": 2000},
        "embed": {"encoder": "fitted"},
        "select": [{"selector": selector, "pick": {"budget_tokens": BUDGET_TOKENS}}],
        "mix": {"splits": {"validation": 0.02}},
        "train": {"steps": STEPS, "sequence_length": 256, "batch_tokens": 4096, "learning_rate": 1e-3},
    }
    head = f"# Written by `mixtura demo`. Run it again: mixtura run {selector}.yaml\n"
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _settings(folder: Path) -> Any:
    from mixtura.stages.plan import Settings

    return Settings(base=str(folder))


def _train(folder: Path, selector: str, result: dict[str, Any]) -> dict[str, Any]:
    """Train the small model on one mixture, always from the same start."""
    from mixtura.trainer import prepare_tiny, train

    recipe = recipe_file.load(folder / f"{selector}.yaml")
    start = folder / "start"
    if not start.exists():
        texts = [json.loads(line)["text"] for p in sorted((folder / "pool").glob("*.jsonl")) for line in _lines(p)]
        prepare_tiny(texts, TinyModel(layers=2, width=128, heads=4, vocabulary=2048), start, seed=1)
    spec = Train.model_validate(recipe.train.model_dump() | {"model": str(start)})
    bar = TrainingBar(selector)
    try:
        return train(Path(result["folder"]), spec, out=folder / f"model-{selector}", seed=1, progress=bar)
    finally:
        bar.close()


def _lines(path: Path) -> list[str]:
    """Every fourth line: enough for a tokenizer."""
    return path.read_text(encoding="utf-8").splitlines()[::4]


def _conclude(
    folder: Path, results: dict[str, dict[str, Any]], losses: dict[str, Any], teller: TerminalTeller, took: float
) -> None:
    """The short table: where picks came from, held-out losses, seconds, paths."""
    taken = {s: _origins(Path(r["folder"])) for s, r in results.items()}
    names = sorted(set().union(*taken.values()), key=lambda n: -taken["nudge"].get(n, 0))[:8]
    console.print()
    table(
        ["library", *(f"{s} rows" for s in taken)],
        [(n, *(taken[s].get(n, 0) for s in taken)) for n in names],
        title=f"Where the picks came from (the {len(names)} libraries that nudge took most of)",
    )
    console.print()
    heldout = {s: facts["heldout"]["target"] for s, facts in losses.items()}
    table(
        ["mixture", "before", "after"],
        [(s, h["before"]["loss"], h["after"]["loss"]) for s, h in heldout.items()],
        title=f"Loss on {HELDOUT_ROWS} held-out {TARGET} docstrings (nats per token; lower is better)",
    )
    console.print()
    seconds = teller.seconds | {f"train {s}": facts["seconds"] for s, facts in losses.items()}
    table(["stage", "seconds"], [(n, f"{s:.1f}") for n, s in seconds.items()], title="Time")
    console.print(f"\n{took:.0f} s in all. What to look at:")
    for selector, result in results.items():
        _show(f"{selector:<8} mixture", result["folder"])
        _show("         report ", f"{result['folder']}/report.html")
        _show("         card   ", result["card"])
    _show("recipe  ", str(folder / "nudge.yaml"))


def _show(what: str, path: str) -> None:
    console.print(f"  {what} {relative(path)}", soft_wrap=True)  # a path that is broken in two cannot be copied


def _origins(mixture: Path) -> dict[str, int]:
    rows = pl.scan_parquet(sorted(mixture.glob("*/*-of-*.parquet"))).group_by("source").len().collect()
    return dict(rows.iter_rows())
