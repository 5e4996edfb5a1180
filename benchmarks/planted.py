"""A world of tools in which it is known what a model was never taught and which golds are wrong.

Each tool has a verb that asks for it. A small language model learns some of the tools; the pool holds rows of all, and
a share of its golds is corrupted, one class of error after another. So a miner can be judged: it must rank the tools
that were not taught above the others, name them, and set the corrupted golds apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import small
from mixtura.pipeline.contract import Shard
from mixtura.recipe import TinyModel

VERBS = ("book", "call", "cook", "draw", "fetch", "hire", "lock", "mail", "play", "rent", "scan", "sell")
PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Paris", "Delhi")
NUMBERS = (2, 3, 4, 5)
ERRORS = ("value", "wrong_tool", "missing_required", "hallucinated_arg", "type")
UNTAUGHT = 2
BATCH = 16


@dataclass(frozen=True)
class World:
    """Rows and the truth about them.

    rows: as a selector reads them; corrupt: str[n], the planted error, '' where the gold is right.
    taught: bool[n], whether the model has seen rows of the tool that the row asks for.
    untaught: names of the tools that it has not.
    """

    rows: pl.DataFrame
    taught: np.ndarray
    corrupt: np.ndarray
    untaught: tuple[str, ...]

    @property
    def shard(self) -> Shard:
        """For a selector."""
        return Shard(self.rows)


def schema(verb: str) -> dict[str, Any]:
    """Of a verb's tool: every one takes a place, and a number that may be left out."""
    properties = {"place": {"type": "string"}, "n": {"type": "integer"}}
    return {"name": f"{verb}_it", "parameters": {"type": "object", "properties": properties, "required": ["place"]}}


def conversation(
    rng: np.random.Generator, verb: str
) -> tuple[list[dict[str, str]], list[dict[str, Any]], dict[str, Any]]:
    """A question, the two tools offered, and the right call."""
    other = str(rng.choice([v for v in VERBS if v != verb]))
    tools = [schema(v) for v in rng.permutation([verb, other]).tolist()]
    place, n = str(rng.choice(PLACES)), int(rng.choice(NUMBERS))
    arguments: dict[str, Any] = {"place": place}
    asked = f"{verb} in {place}"
    if rng.random() < 0.5:
        arguments["n"] = n
        asked += f" for {n}"
    return [{"role": "user", "content": asked}], tools, {"name": f"{verb}_it", "arguments": arguments}


def written(call: dict[str, Any]) -> str:
    """A call as text, in the form of Python: half the tokens of JSON."""
    return f"[{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})]"


def corrupted(
    call: dict[str, Any], tools: Sequence[dict[str, Any]], error: str, rng: np.random.Generator
) -> dict[str, Any]:
    """A gold with one planted error."""
    name, arguments = call["name"], dict(call["arguments"])
    if error == "value":
        arguments["place"] = str(rng.choice([p for p in PLACES if p != arguments["place"]]))
    elif error == "wrong_tool":
        name = next(t["name"] for t in tools if t["name"] != name)
    elif error == "missing_required":
        del arguments["place"]
    elif error == "hallucinated_arg":
        arguments["colour"] = "red"
    else:
        arguments["place"] = [arguments["place"]]
    return {"name": name, "arguments": arguments}


def world(*, rows: int, seed: int, corrupt_share: float = 0.1) -> World:
    """A pool of all tools, of which the last few (by the seed) are not taught."""
    rng = np.random.default_rng([seed, 1])
    untaught = tuple(rng.permutation(VERBS)[:UNTAUGHT].tolist())
    records, taught, corrupt = [], [], []
    for i in range(rows):
        verb = VERBS[i % len(VERBS)]
        asked, tools, call = conversation(rng, verb)
        error = ERRORS[len([c for c in corrupt if c]) % len(ERRORS)] if rng.random() < corrupt_share else ""
        gold = corrupted(call, tools, error, rng) if error else call
        turns = [*asked, {"role": "assistant", "content": written(gold)}]
        records.append({"id": f"{seed}-{i:05}", "messages": [t | {"tool_calls": None} for t in turns],
                        "tools": json.dumps(tools), "meta": None})  # fmt: skip
        taught.append(verb not in untaught)
        corrupt.append(error)
    turn = pl.Struct({n: pl.String for n in ("role", "content", "tool_calls")})
    types = {"id": pl.String, "messages": pl.List(turn), "tools": pl.String, "meta": pl.String}
    return World(
        pl.DataFrame(records, schema=types), np.array(taught), np.array(corrupt), tuple(f"{v}_it" for v in untaught)
    )


def teach(folder: Path, *, untaught: Sequence[str], steps: int, seed: int, size: TinyModel | None = None) -> Path:
    """Train a small model on endless rows of the other tools.

    Args:
        folder: to write.
        untaught: names of tools that it must not see, not even offered.
        steps: of `BATCH` rows.
        seed: of weights and rows.
        size: of the model.
    """
    # its tokenizer knows every word: what the model does not know is what to do with them
    said = [f"{v} in {p} for {n} {written({'name': f'{v}_it', 'arguments': {'place': p, 'n': n, 'colour': 'red'}})}"
            for v in VERBS for p in PLACES for n in NUMBERS]  # fmt: skip
    small.start(said, size or TinyModel(layers=2, width=64, heads=4, vocabulary=512), folder, seed=seed)
    return small.teach(folder, _lessons(untaught, seed), steps=steps, batch=BATCH, rate=2e-3)


def _lessons(untaught: Sequence[str], seed: int) -> Iterator[small.Lesson]:
    rng = np.random.default_rng([seed, 2])
    verbs = [v for v in VERBS if f"{v}_it" not in untaught]
    while True:
        asked, tools, call = conversation(rng, str(rng.choice(verbs)))
        if all(t["name"] not in untaught for t in tools):
            yield small.Lesson(asked[0]["content"], tools, written(call))


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive row scores above another one, ties counted half."""
    order = pl.Series(score).rank("average").to_numpy()
    n, m = int(positive.sum()), int((~positive).sum())
    return float((order[positive].sum() - n * (n + 1) / 2) / (n * m))
