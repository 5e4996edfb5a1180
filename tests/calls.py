"""A small tool-use pool: what is asked names the tool and its one argument, so that a tiny model can learn it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml

TOOLS = {"paint": ["red", "blue", "gold"], "open": ["door", "gate", "lid"], "sing": ["bass", "alto"], "bake": ["pie"]}
RECIPE = {
    "name": "calls",
    "sources": {"pool": {"files": "pool.jsonl", "license": "mit"}},
    "clean": {"near_dedup": None},
    "select": [{"selector": "uniform", "pick": {"rule": "threshold", "threshold": -1e6}}],
    "mix": {"splits": {"validation": 0.0, "test": 0.25}},
    "output": {"form": "messages"},
    "train": {
        "model": {"layers": 1, "width": 32, "heads": 2, "vocabulary": 400},
        "sequence_length": 192,
        "batch_tokens": 1536,
        "epochs": 14,
        "learning_rate": 1e-2,
        "preference": {"learning_rate": 1e-3, "nll": 0.2},
    },
    "mine": {
        "heldout_tools": 0.2,
        "warmup": 2,
        "rounds": 1,
        "samples": 4,
        "max_tokens": 24,
        "options": {},
    },
}


def schema(name: str) -> dict:
    properties = {"what": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": ["what"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def rows(n: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    made = []
    for i in range(n):
        tool = rng.choice(list(TOOLS))
        what, other = rng.choice(TOOLS[tool]), rng.choice([t for t in TOOLS if t != tool])
        turns = [
            {"role": "user", "content": f"{rng.choice(['please', 'now', 'go and'])} {tool} the {what} no {i}"},
            {"role": "assistant", "content": f"[{tool}(what='{what}')]"},
        ]
        made.append({"messages": turns, "tools": json.dumps([schema(t) for t in sorted([tool, other])])})
    return made


def build(base: Path, count: int = 90, **mine) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    (base / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(count)))
    (base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"mine": RECIPE["mine"] | mine}))
    return base / "recipe.yaml"
