"""A selector of turns whose scores are written in the answers: the last word of each, where that is a number."""

from __future__ import annotations

from typing import Any

import polars as pl

from mixtura.pipeline import contract
from mixtura.pipeline.contract import Fitted, Needs, Shard

LOWEST = -1.0


class Spec(contract.Spec):
    """No option."""


class ScriptedTurns:
    """What `mix.marks` needs of a selector, and nothing else."""

    name, source, needs, scale, Spec = "scripted_turns", "the answers", Needs(columns=("messages",)), "threshold", Spec

    def turn_columns(self, spec: Spec) -> tuple[str, ...]:
        return ("turn_scores", "turn_halves")

    def fit(self, spec: Spec, **given: Any) -> Fitted:
        return Fitted(facts={"rows": len(given["sample"])})

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        rows = [_scores(messages or []) for messages in shard.rows["messages"].to_list()]
        scores = [[s for _, s in row] for row in rows]
        return pl.DataFrame(
            {
                "id": shard.rows["id"],
                "score": [float(max((s for s in row if s is not None), default=LOWEST)) for row in scores],
                "turns": [[t for t, _ in row] for row in rows],
                "turn_scores": scores,
                "turn_halves": [[None if s is None else s / 2 for s in row] for row in scores],
                "unscored": [[None if s is not None else "unscripted" for s in row] for row in scores],
            },
            schema_overrides={
                "turns": pl.List(pl.Int32),
                "turn_scores": pl.List(pl.Float32),
                "turn_halves": pl.List(pl.Float32),
                "unscored": pl.List(pl.String),
            },
        )


def _scores(messages: list[dict[str, Any]]) -> list[tuple[int, float | None]]:
    return [(i, _number(m["content"])) for i, m in enumerate(messages) if m["role"] == "assistant"]


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").split()[-1])
    except (ValueError, IndexError):
        return None


SELECTOR = ScriptedTurns()
