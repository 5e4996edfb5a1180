"""Real conversations at their own lengths: chats, instructions, dialogues with tools, passage questions."""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.context_labels import ALPACA, T0

Chat = list[dict[str, Any]]
DIALOGUES = "hh_rlhf/harmless-base/test.jsonl.gz"
TOOLS = "llamafactory_demo/data/glaive_toolcall_en_demo.json"
READING = ("adversarial_qa_dbert_based_on", "quoref_Find_Answer", "duorc_SelfRC_answer_question", "dream_baseline")
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
MODULES = (
    "argparse", "collections", "datetime", "email.message", "functools", "itertools", "json", "logging", "pathlib",
)  # fmt: skip


def chats(data: Path | None, rows: int) -> list[Chat]:
    """Conversations with an answer each at least, as many of each kind, in an order that is the same every time.

    Args:
        data: folder of the unpacked sets; None takes halved docstrings of the standard library, which are short.
        rows: at most.
    """
    if data is None:
        halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in sorted(set(_docstrings()))]
        return [_exchange(*half) for half in halves][:rows]
    kinds = [list(_dialogues(data)), list(_tools(data)), list(_instructions(data)), list(_reading(data))]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(kind)) for kind in kinds]
    return [kinds[i % len(kinds)][orders[i % len(kinds)][i // len(kinds)]] for i in range(rows)]


def _exchange(asked: str, answered: str) -> Chat:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _dialogues(data: Path) -> Iterator[Chat]:
    """Of several turns, of people with an assistant."""
    with gzip.open(data / DIALOGUES, "rt", encoding="utf-8") as lines:
        for line in lines:
            turns = re.split(r"\n\n(Human|Assistant): ", json.loads(line)["chosen"])[1:]
            said = [(turns[i], turns[i + 1].strip()) for i in range(0, len(turns) - 1, 2)]
            if said and all(text for _, text in said) and said[-1][0] == "Assistant":
                yield [
                    {"role": {"Human": "user", "Assistant": "assistant"}[who], "content": text} for who, text in said
                ]


def _tools(data: Path) -> Iterator[Chat]:
    """With calls of tools, as text, and what these returned."""
    for record in json.loads((data / TOOLS).read_text(encoding="utf-8")):
        turns = record["conversations"]
        yield [{"role": ROLES.get(t["from"], "assistant"), "content": t["value"]} for t in turns]


def _instructions(data: Path) -> Iterator[Chat]:
    for r in json.loads((data / ALPACA).read_text(encoding="utf-8")):
        if r["output"].strip():
            yield _exchange("\n\n".join(x for x in (r["instruction"], r["input"]) if x), r["output"])


def _reading(data: Path) -> Iterator[Chat]:
    """Questions with a passage of any length."""
    for name in READING:
        for line in (data / T0 / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            yield _exchange(record["prompt"], record["completion"].removesuffix("<|endoftext|>"))


def _docstrings() -> Iterator[str]:
    for name in MODULES:
        for _, thing in inspect.getmembers(importlib.import_module(name)):
            members = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
            yield from (d for m in members if (d := inspect.getdoc(m)) and len(d) > 80)
