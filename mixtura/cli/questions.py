"""`mixtura questions`: the Berkeley leaderboard's files as rows that a recipe reads."""

from __future__ import annotations

import json
from pathlib import Path

from mixtura.cli.terminal import console, relative
from mixtura.errors import InputError
from mixtura.toolcalls.leaderboard import read_questions


def write(questions: Path, out: Path, answers: Path | None) -> None:
    """Write one JSON line per case, whole or not at all."""
    if out.exists():
        raise InputError(f"file {out}", "must not exist yet", next_step="Name another, or remove it")
    found = read_questions(questions, answers)
    lines = [json.dumps(q.record(), ensure_ascii=False) for q in found]
    part = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        part.replace(out)
    except OSError as e:
        raise InputError(f"file {out}", f"cannot be written ({e})") from e
    calls = sum(bool(q.expected.calls) for q in found)
    console.print(f"{relative(str(out))}: {len(found):,} questions, {calls:,} with calls that are right")
