"""A world of tools in which it is known what a model was never taught and which golds are wrong.

Each tool has a verb that asks for it. A small language model learns some of the tools; the pool holds rows of all, and
a share of its golds is corrupted, one class of error after another. So a miner can be judged: it must rank the tools
that were not taught above the others, name them, and set the corrupted golds apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixtura.pipeline.contract import Shard
from mixtura.recipe import TinyModel
from mixtura.trainer.model import prepare_tiny

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
        turns = [*asked, {"role": "assistant", "content": json.dumps(gold)}]
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
    """Train a small model on endless rows of the other tools; the loss is that of the answers alone.

    Args:
        folder: to write.
        untaught: names of tools that it must not see, not even offered.
        steps: of `BATCH` rows.
        seed: of weights and rows.
        size: of the model.
    """
    rng = np.random.default_rng([seed, 2])
    verbs = [v for v in VERBS if f"{v}_it" not in untaught]
    # its tokenizer knows every word: what the model does not know is what to do with them
    said = [f"{v} in {p} for {n} {json.dumps(schema(v))}" for v in VERBS for p in PLACES for n in NUMBERS]
    prepare_tiny(said, size or TinyModel(layers=2, width=64, heads=4, vocabulary=512), folder, seed=seed)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        ids, labels = _batch(tokenizer, [_taught(rng, verbs) for _ in range(BATCH)])
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval().save_pretrained(folder)
    return folder


def _taught(rng: np.random.Generator, verbs: Sequence[str]) -> tuple[list[dict[str, str]], list[dict[str, Any]], str]:
    while True:
        asked, tools, call = conversation(rng, str(rng.choice(verbs)))
        if all(t["name"].removesuffix("_it") in verbs for t in tools):
            return asked, tools, json.dumps(call)


def _batch(
    tokenizer: Any, rows: Sequence[tuple[list[dict[str, str]], list[dict[str, Any]], str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    both = []
    for asked, tools, answer in rows:
        prompt = tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        both.append((before, [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]))
    length = max(len(a) + len(b) for a, b in both)
    ids = torch.full((len(both), length), tokenizer.pad_token_id)
    labels = torch.full((len(both), length), -100)
    for i, (before, answer) in enumerate(both):
        ids[i, : len(before) + len(answer)] = torch.tensor(before + answer)
        labels[i, len(before) : len(before) + len(answer)] = torch.tensor(answer)
    return ids, labels


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive row scores above another one, ties counted half."""
    order = pl.Series(score).rank("average").to_numpy()
    n, m = int(positive.sum()), int((~positive).sum())
    return float((order[positive].sum() - n * (n + 1) / 2) / (n * m))
