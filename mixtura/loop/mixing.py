"""Rows that the loop made become a mixture like any other, with card and ledger, and are trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtura.loop.cast import Item
from mixtura.recipe import Clean, Columns, Mix, Output, Pick, Recipe, Selection, Source, Splits
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings
from mixtura.stages.publish import Published
from mixtura.store import write_synced

ABOUT = ("license", "language", "task")  # columns of a row that stay columns; the others go into its meta
VALIDATION = 0.05


def answers(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Conversations that end with the right answer, for the warm-up."""
    return [
        {
            "messages": [dict(m) for m in (*i.question.prompt, i.question.gold)],
            "tools": json.dumps(list(i.question.tools), ensure_ascii=False) if i.question.tools else None,
            **i.about,
            "about": {"row": i.id, "difficulty": list(i.difficulty.order)},
        }
        for i in items
    ]


def rights(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs without their wrong answers: conversations that end with the right one, equal ones once."""
    found = {}
    for pair in pairs:
        rest = {k: v for k, v in pair.items() if k not in ("prompt", "chosen", "rejected")}
        made = {"messages": [*pair["prompt"], *pair["chosen"]], **rest}
        found.setdefault(json.dumps([made["messages"], pair["tools"]], sort_keys=True), made)
    return list(found.values())


def mixture(plan: Plan, folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> Published:
    """Write records beside the mixture that is made of them.

    Args:
        plan: of the loop; its store serves every mixture.
        folder: gets `rows.jsonl` and `mixture/`.
        name: of the mixture.
        records: with `messages`, or with `prompt`, `chosen` and `rejected`; and `tools`, `source`, `license` and so on.

    Raises:
        InputError: the folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(_line(r), ensure_ascii=False, sort_keys=True) + "\n" for r in records)
    path = folder / "rows.jsonl"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_synced(path, text)
    settings = Settings(base=str(folder), store=str(plan.store.root), workers=1, output=str(folder / "mixture"))
    return curate(Plan.of(_recipe(plan.recipe, name, records), settings))


def _recipe(recipe: Recipe, name: str, records: Sequence[Mapping[str, Any]]) -> Recipe:
    pairs = "chosen" in records[0]
    about = {c: c for c in ABOUT} | {"tools": "tools"}
    columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"} if pairs else {"messages": "messages"}
    sources = {s.license for s in recipe.sources.values()}
    rows = Source(
        files=["rows.jsonl"],
        columns=Columns(**columns, **about),
        license=sources.pop() if len(sources) == 1 else "unknown",
    )
    return Recipe(
        name=name,
        seed=recipe.seed,
        sources={"mined": rows},
        clean=Clean(
            unicode="none", near_dedup=None, tokenizer=recipe.clean.tokenizer
        ),  # the model's own words, as said
        select=[Selection(selector="uniform", pick=Pick(rule="threshold", threshold=-1e6))],
        mix=Mix(splits=Splits(validation=VALIDATION)),
        output=Output(form="preference" if pairs else "messages", rows_per_file=recipe.output.rows_per_file),
    )


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    return {c: None for c in ABOUT} | dict(record)
