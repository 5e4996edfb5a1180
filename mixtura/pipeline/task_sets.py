"""Sub-task sets: the rows of one step, or of one action, as a data set of their own, each with its card.

A row's `task` is `domain/action/step`; its step's set and its action's set hold it in the split that the mixture gave
it, in the mixture's order. So the rows of an action are those of its steps, and no split changes between sets.

Source: AnyTaskTune (arXiv:2407.07094): one data set per pair of action and step. Differs: cards are made from the rows
(one of the published cards bears another set's title), and every set has held-out splits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mixtura.pipeline import tables
from mixtura.pipeline.card import code, grid, hub_license, md, size_category
from mixtura.pipeline.mix import SPLITS
from mixtura.pipeline.wording import by_count, count

Level = Literal["step", "action"]
FOLDER = "sets"
PARTS: dict[Level, int] = {"action": 2, "step": 3}  # parts of a task's name that name the set


@dataclass(frozen=True)
class TaskSet:
    """One set that was written. rows: by split."""

    title: str
    level: Level
    folder: str
    rows: dict[str, int]


def write_task_sets(folder: Path, levels: Sequence[Level], mixture: str) -> list[TaskSet]:
    """Write `sets/LEVEL/TITLE/SPLIT/SPLIT-00000-of-00001.parquet` and `README.md` of every set.

    Args:
        folder: the mixture's draft, its splits written.
        levels: which sets.
        mixture: its name, for the cards.

    Returns:
        The sets, in order of level and title; only rows of builders that name a task are in one.
    """
    splits = {s: _rows(folder / s) for s in SPLITS if (folder / s).is_dir()}
    written = []
    for level in levels:
        titles = pl.concat([_titled(r, level)["title"] for r in splits.values()]).drop_nulls().unique().sort()
        for title in titles:
            mine = {s: _titled(r, level).filter(pl.col("title") == title).drop("title") for s, r in splits.items()}
            mine = {s: r for s, r in mine.items() if r.height}
            home = folder / FOLDER / level / re.sub(r"[^A-Za-z0-9._-]", ".", title.replace("/", "."))
            for split, rows in mine.items():
                (home / split).mkdir(parents=True)
                schema = pq.read_schema(next((folder / split).glob("*.parquet")))
                tables.write(home / split / f"{split}-00000-of-00001.parquet", _like(rows, schema), group_rows=4096)
            card = render_set_card(title, level, mine, mixture)
            (home / "README.md").write_text(card, encoding="utf-8")
            where = home.relative_to(folder).as_posix()
            written.append(TaskSet(title, level, where, {s: r.height for s, r in mine.items()}))
    return written


def render_set_card(title: str, level: Level, rows: dict[str, pl.DataFrame], mixture: str) -> str:
    """The card of one set, from its rows alone.

    Args:
        title: `domain/action` or `domain/action/step`.
        level: which of the two.
        rows: split → rows as they are written.
        mixture: the name of the mixture that they are part of.
    """
    everything = pl.concat(list(rows.values()))
    languages = _tally(everything["language"])
    prompts = _tally(everything["meta"].str.json_path_match("$.prompt_language"))
    licenses = _tally(everything["license"])
    head = {
        "pretty_name": title,
        "license": sorted({hub_license(n) for n in licenses}),
        **({"language": sorted(n for n in languages if n)} if any(languages) else {}),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(everything.height)],
        "tags": ["mixtura", "sub-task"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": s, "path": f"{s}/*.parquet"} for s in rows]},
        ],
    }
    parents = everything["parents"].explode(keep_nulls=False, empty_as_null=False).n_unique()
    tokens = int(everything["tokens"].cast(pl.Int64).sum())
    steps = by_count(_tally(everything["task"]))
    told = [
        "---\n" + yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000) + "---",
        f"# {title}",
        f"The rows of one {level} of the mixture {md(mixture)}: **{count(everything.height, 'row')}** and "
        f"**{count(tokens, 'token')}**, made of {count(parents, 'row')}. A row is in the split that its parent is in.",
        grid(["split", "rows"], [[s, f"{r.height:,}"] for s, r in rows.items()]),
        grid(["step", "rows"], [[s, f"{n:,}"] for s, n in steps]),
        _listed("Languages of the texts", languages),
        _listed("Languages of the instructions", prompts),
        _listed("Licences", licenses),
        f"```python\nfrom datasets import load_dataset\n\nrows = load_dataset({_quoted(title)})\n```",
    ]
    return "\n\n".join(t for t in told if t) + "\n"


def _quoted(title: str) -> str:
    return '"PATH/TO/' + title.replace("/", ".") + '"'


def _rows(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob("*.parquet")))


def _titled(rows: pl.DataFrame, level: Level) -> pl.DataFrame:
    """With `title`, null where a row is of no sub-task: it was not built, or its task has another form."""
    parts = pl.col("task").str.split("/")
    whole = (parts.list.len() == PARTS["step"]) & pl.col("parents").is_not_null()
    return rows.with_columns(title=pl.when(whole).then(parts.list.head(PARTS[level]).list.join("/")))


def _like(rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return tables.conform(rows, schema)


def _tally(values: pl.Series) -> dict[str, int]:
    counts = values.fill_null("").value_counts().sort(values.name or "")
    return dict(counts.iter_rows())


def _listed(word: str, counts: dict[str, int]) -> str:
    said = ", ".join(f"{code(k) if k else 'not stated'} ({n:,})" for k, n in by_count(counts))
    return f"{word}: {said}." if said else ""
