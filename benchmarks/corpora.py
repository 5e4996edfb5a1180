"""Text to measure on: the unpacked real data, or the docstrings of the installed packages."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.dedup import corpus, real_texts

TARGETS = 200  # rows that play the target; never in the pool
SOURCE_TARGETS = "target.jsonl"


def texts_of(data: Path | None, rows: int, folder: Path) -> dict[str, Iterator[str]]:
    """Source → its texts, no two alike within the docstrings.

    Args:
        data: folder of the unpacked sets; None takes the docstrings of the installed packages.
        rows: as many docstrings are enough; reading more costs minutes.
        folder: for what gathering leaves behind.
    """
    return real_texts(data) if data else {"docstrings": iter(_docstrings(rows, folder))}


def _docstrings(enough: int, folder: Path) -> list[str]:
    """Docstrings, mixed by hash: else larger pools would hold other libraries than smaller ones."""
    from mixtura.cli.demo import write_library
    from mixtura.pipeline.work import Workers

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({d.metadata["Name"] for d in distributions() if d.files}, key=_mixed)
    found, step = 0, 8
    with Workers(os.cpu_count() or 1) as workers:
        for at in range(0, len(names), step):
            if found < enough:
                found += sum(
                    workers.map(write_library, [(n, str(folder / f"{n}.jsonl")) for n in names[at : at + step]])
                )
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.open(encoding="utf-8"))
    return sorted({json.loads(line)["text"] for line in lines}, key=_mixed)


def _mixed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()


def gather(data: Path | None, rows: int, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Target texts, and at most `rows` pool rows with planted copies among them (see `dedup.corpus`)."""
    texts = texts_of(data, rows + TARGETS, folder)
    targets = list(islice(next(iter(texts.values())), TARGETS))
    return targets, corpus(texts, rows)


def write_pool(folder: Path, targets: Sequence[str], rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """`SOURCE.jsonl` of each source and `target.jsonl`; returns the UTF-8 bytes of the pool's texts by source."""
    folder.mkdir(parents=True, exist_ok=True)
    size: dict[str, int] = {}
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row["text"])
    for source, texts in by_source.items():
        _write(folder / f"{source}.jsonl", texts)
        size[source] = sum(len(t.encode("utf-8", "surrogatepass")) for t in texts)
    _write(folder / SOURCE_TARGETS, targets)
    return size


def _write(path: Path, texts: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)


def write_lines(path: Path, data: Path | None, rows: Sequence[dict[str, Any]], size: int) -> dict[str, str]:
    """A JSONL file of at least `size` bytes for ingest alone; returns the mapping of its columns.

    With `data` it holds the lines of `arxiv_daily` as they came, eight columns each; without, those of the pool,
    again and again.
    """
    if data:
        files = sorted((data / "arxiv_daily" / "data").glob("*.jsonl"))
        lines: Iterator[bytes] = (line for file in files for line in file.open("rb"))
        columns = {"text": "{title}\n\n{summary}", "task": "categories"}
    else:
        lines = cycle([json.dumps({"text": r["text"]}, ensure_ascii=False).encode() + b"\n" for r in rows])
        columns = {"text": "text"}
    held = 0
    with path.open("wb") as out:
        for line in lines:
            held += out.write(line)
            if held >= size:
                break
    return columns
