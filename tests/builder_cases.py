"""Rows that each builder can work on, shared by the common suite and the builders' own tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import polars as pl

from mixtura.pipeline.builder import Built, Means
from mixtura.pipeline.contract import Shard
from mixtura.registry import find
from mixtura.rows import content_id, table


def conversation(asked: str, answered: str, *, system: str | None = None) -> list[dict[str, Any]]:
    """Turns of one exchange."""
    said = [("system", system)] if system else []
    return [
        {"role": role, "content": content, "tool_calls": None}
        for role, content in [*said, ("user", asked), ("assistant", answered)]
    ]


def made_row(
    number: int, *, source: str = "web", meta: Mapping[str, Any] | None = None, **columns: Any
) -> dict[str, Any]:
    """A row of the pool, as clean leaves it."""
    content = {k: v for k, v in columns.items() if k in ("text", "messages", "chosen", "rejected", "tools")}
    row = {"id": content_id(content), "source": source, "file": f"{source}.jsonl", "offset": number, "license": "mit"}
    return row | {"language": "en", "tokens": 5, "meta": orjson.dumps(meta).decode() if meta else None} | columns


def shard_of(rows: Sequence[Mapping[str, Any]], vectors: np.ndarray | None = None) -> Shard:
    """A shard of schema ROW."""
    return Shard(pl.DataFrame(table(rows)), vectors)


@dataclass(frozen=True)
class Case:
    """What a builder is tried on."""

    shard: Shard
    options: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    generator: Any = None

    def means(self, seed: int = 3) -> Means:
        return Means(seed, self.files, self.generator)


def run(word: str, case: Case, *pieces: Shard, seed: int = 3) -> list[Built]:
    """Fit on the whole case, then build each piece, or the whole."""
    builder = find("builders", word)
    spec = builder.Spec.model_validate(case.options)
    fitted = builder.fit(spec, [case.shard], case.means(seed))
    return [builder.build(spec, fitted, p, case.means(seed)) for p in pieces or (case.shard,)]


def pieces_of(shard: Shard, sizes: Sequence[int]) -> list[Shard]:
    """Consecutive cuts of a shard."""
    ends = np.cumsum([0, *sizes])
    ends = np.append(ends[ends < len(shard)], len(shard))
    return [
        Shard(shard.rows[a:b], None if shard.vectors is None else shard.vectors[a:b])
        for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def twins_case(n: int = 60, seed: int = 0) -> Case:
    """Questions in pairs of near vectors; answers of their own."""
    rng = np.random.default_rng(seed)
    rows = [made_row(i, messages=conversation(f"question {i}", f"answer {i}")) for i in range(n)]
    return Case(shard_of(rows, unit(rng.normal(size=(n, 8)))), {"context_share": 0.4})


CASES = {"twins": twins_case}
