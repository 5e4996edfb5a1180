"""Texts of many scripts, twice, and a file of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

TEXTS = [
    "The cat sat on the mat; the cat slept.",
    "A cat and a dog sat on the mat.",
    "Stock prices fell as interest rates rose.",
    "Interest rates rose again, and stock markets fell.",
    "道可道，非常道。名可名，非常名。",
    "非常道也，非常名也。",
    "नमस्ते दुनिया, हिन्दी में नमस्ते दुनिया",
    "İstanbul'da ΟΔΟΣ über_cool naïve 42",
    "",
    "?!",
] * 2


def rows_file(path: Path, texts: list[str]) -> str:
    turns = [None if i % 2 else [{"role": "user", "content": t}] for i, t in enumerate(texts)]
    schema = {
        "id": pl.String,
        "text": pl.String,
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    }
    documents = [t if i % 2 else None for i, t in enumerate(texts)]
    pl.DataFrame(
        {"id": [f"r{i}" for i in range(len(texts))], "text": documents, "messages": turns}, schema=schema
    ).write_parquet(path)
    return str(path)
