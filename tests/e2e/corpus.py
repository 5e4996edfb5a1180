"""A small corpus of seven sources in six formats, the same bytes every time, and ways to curate it.

Everything a pool can hold is in it: documents, conversations, groups, exact copies within and across sources, near
copies, copies of target rows, records that cleaning drops and records that do not parse.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard

from mixtura import recipe_file
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Quiet, Settings
from mixtura.stages.publish import Published

STAGES = ("ingest", "clean", "dedup", "embed", "score", "pick", "mix", "write")
TOPICS = {name: [f"{name[:3]}{s}{e}" for s in "abdefgiklm" for e in "anostuvx"] for name in ("cell", "stone", "ship")}
BROKEN = [b'{"text": "cut', b'\xff\xfe{"text": 1}', b"[1, 2]", b'{"other": 1}']

RECIPE: dict[str, Any] = {
    "name": "small",
    "seed": 7,
    "sources": {
        "web": {"files": "data/web", "license": "cc0-1.0", "language": "en", "max_quarantine": 0.2},
        "wire": {"files": "data/wire.jsonl.zst", "license": "mit"},
        "papers": {
            "files": "data/papers.parquet",
            "columns": {"text": "{title}\n\n{abstract}", "split_group": "venue"},
        },
        "chat": {"files": "data/chat.json", "max_quarantine": 0.2},
        "orders": {"files": "data/orders.json"},
        "table": {"files": "data/*.csv", "columns": {"prompt": "input", "completion": "output"}},
        "notes": {"files": "data/notes/**/*.md"},
    },
    "target": {"files": "data/target.jsonl", "rows": 24, "heldout_rows": 6},
    "clean": {"min_chars": 30, "repetition": {}},
    "embed": {"dimensions": 12, "features": 500, "fit_rows": 150, "fit_on": ["web", "papers"]},
    "select": [
        {"selector": "nudge", "pick": {"budget_tokens": 2400, "caps": {"*": {"share": 0.6}}}},
        {
            "name": "replay",
            "selector": "uniform",
            "sources": ["web", "wire", "papers", "chat", "orders", "table"],
            "pick": {"budget_rows": 50},
        },
    ],
    "mix": {
        "weights": {"nudge": 0.75, "replay": 0.25},
        "unit": "tokens",
        "splits": {"validation": 0.1, "test": 0.05},
    },
    "output": {"rows_per_file": 30},
}


def build(base: Path) -> Path:
    """Write the corpus and its recipe below a folder; returns the recipe's path."""
    rng = random.Random(0)
    say = Writer(rng)
    data = base / "data"
    (data / "web").mkdir(parents=True)
    (data / "notes" / "old").mkdir(parents=True)

    target = [say("cell") for _ in range(30)]
    web = [say(t) for t in ("cell", "stone", "ship") for _ in range(25)]
    web += web[3:9] + [f"{t} anew" for t in web[20:26]] + target[:3] + ["short", "", "stone stone " * 20]
    lines = [json.dumps({"text": t, "n": i}).encode() for i, t in enumerate(web)]
    for i, line in enumerate(BROKEN):
        lines.insert(10 + 7 * i, line)
    (data / "web" / "a.jsonl").write_bytes(b"\n".join(lines[:50]) + b"\n")
    (data / "web" / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[50:]), mtime=0))
    (data / "web" / "README.md").write_text("About the data, no data.")

    wire = [say("ship") for _ in range(30)] + web[40:44]
    packed = zstandard.compress("\n".join(json.dumps({"text": t, "lang": "en"}) for t in wire).encode())
    (data / "wire.jsonl.zst").write_bytes(packed)

    papers = {
        "title": [say("cell", 6) for _ in range(30)],
        "abstract": [say("cell") for _ in range(30)],
        "venue": [f"v{i % 7}" for i in range(30)],
    }
    pq.write_table(pa.table(papers), data / "papers.parquet", row_group_size=8)

    chats: list[Any] = [_sharegpt(say("stone"), say("cell")) for _ in range(20)]
    chats[5:5] = [{"conversations": [{"from": "human", "value": 5}]}, chats[2]]
    (data / "chat.json").write_text(json.dumps(chats, indent=1))
    orders = [{"instruction": say("ship"), "input": "", "output": say("cell")} for _ in range(20)]
    (data / "orders.json").write_text(json.dumps(orders))

    with (data / "table.csv").open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["input", "output", "weight"])
        out.writerows([say("stone"), f'{say("ship")}\n"quoted", and on', i] for i in range(20))

    for i in range(14):
        folder = data / "notes" / ("old" if i % 3 == 0 else "")
        (folder / f"n{i:02}.md").write_text(f"# Note {i}\n\n{say('stone')}\n")
    (data / "target.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in target))
    return write_recipe(base)


def write_recipe(base: Path, **changes: Any) -> Path:
    """The recipe with some of its keys replaced; a key with dots reaches inside."""
    tree = json.loads(json.dumps(RECIPE))
    for path, value in changes.items():
        *inner, last = path.split("__")
        node = tree
        for key in inner:
            node = node[int(key) if isinstance(node, list) else key]
        node[last] = value
    path = base / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


class Writer:
    """Writes texts on a topic: 40 % of the words are its own, the rest everybody's."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.common = [f"w{i}" for i in range(200)]

    def __call__(self, topic: str, words: int = 30) -> str:
        choose = self.rng.choice
        return " ".join(choose(TOPICS[topic] if self.rng.random() < 0.4 else self.common) for _ in range(words))


def _sharegpt(question: str, answer: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


class Counting(Quiet):
    """Remembers what each stage reused and computed."""

    def __init__(self) -> None:
        self.reused: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        self.reused[stage] += reused
        self.computed[stage] += computed


def curate_here(recipe: Path, **settings: Any) -> tuple[Published, Counting]:
    """Curate in this process; one worker unless told otherwise."""
    teller = Counting()
    given = Settings(base=str(recipe_file.base_of(recipe)), **{"workers": 1, **settings})
    return curate(Plan.of(recipe_file.load(recipe), given, teller)), teller


def command(*words: str | Path) -> list[str]:
    """The command line's words, run by this interpreter."""
    return [sys.executable, "-c", "from mixtura.cli import main; main()", *map(str, words)]


def quick_environment(**more: str) -> dict[str, str]:
    """One thread per library: two test processes share two cores."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(threads, "1"), **more}


def mixtura(*words: str | Path, timeout: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    env = quick_environment(**more)
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=timeout, check=False, env=env)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes; links are told, not followed."""
    return {
        p.relative_to(folder).as_posix(): f"-> {os.readlink(p)}" if p.is_symlink() else _digest(p)
        for p in sorted(folder.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def splits_of(mixture: Path) -> pl.DataFrame:
    """All rows of a mixture, split by split, in the order written."""
    files = [f for s in ("train", "validation", "test") for f in sorted((mixture / s).glob("*.parquet"))]
    return pl.concat([pl.read_parquet(f).with_columns(split=pl.lit(f.parent.name)) for f in files])


def balances(mixture: Path) -> Mapping[str, Mapping[str, int]]:
    """Records of each source by fate, out of the ledger."""
    ledger = pl.read_parquet(mixture / "ledger.parquet")
    counted: dict[str, dict[str, int]] = {}
    for source, fate, n in ledger.group_by("source", "fate").len().sort("source", "fate").iter_rows():
        counted.setdefault(source, {})[fate] = n
    return counted


def partial(store: Path, mixtures: Sequence[Path]) -> list[str]:
    """What lies under a final name and is not whole: the thing that must never be seen.

    An artefact or a mixture is whole when its manifest names exactly its files, with their sizes and digests.
    """
    folders = [p for p in store.glob("*/??/*") if p.parts[-3] != "tmp"] + [m for m in mixtures if m.exists()]
    return [f"{f}: {fault}" for f in folders if (fault := _fault(f))]


def _fault(folder: Path) -> str:
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as e:
        return repr(e)
    there = contents(folder)
    there.pop("manifest.json")
    told = {name: facts["sha256"] for name, facts in files.items()}
    return "" if there == told else f"holds {sorted(there)}; its manifest says {sorted(told)}"
