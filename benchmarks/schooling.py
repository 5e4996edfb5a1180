"""A small policy that answers in form before any mining: taught on other tools than those it is mined with.

A model made from nothing on a thousand rows learns their tools' names by heart, and cannot read a signature or copy a
value; a loop that starts there measures little else. So it first goes to school on Seal-Tools: one row in
five is its own question and gold, the others are endless made-up requests for its signatures, with its words as values.
Nothing of the set that is mined is shown, but its words to the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.small import Lesson

FOLDER = "seal_tools/Seal-Tools_Dataset"
FILES = ("dev.jsonl", "test_in_domain.jsonl", "test_out_domain.jsonl")
EVERY = 5  # half of a thousand real rows would be learned by heart if they came more often
MOST = 5  # parameters of a signature
SAID = ("the {p} is {v}", "{p} {v}", "with {v} as the {p}", "{v} for the {p}", "{p}: {v}", "{p} of {v}", "{v} {p}",
        "at {v}", "in {v}", "for {v}")  # fmt: skip
NAMED = 7  # of these name the parameter; the others leave it to be guessed


def signature(name: str, parameters: Sequence[str]) -> dict[str, Any]:
    """A tool as a chat template takes it."""
    properties = {p: {"type": "string"} for p in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def written(name: str, arguments: Mapping[str, str]) -> str:
    """A call as the mined rows write it."""
    return f"[{name}({', '.join(f'{k}={v!r}' for k, v in sorted(arguments.items()))})]"


class School:
    """Seal-Tools as lessons.

    Args:
        data: folder that holds `seal_tools/`.
    """

    def __init__(self, data: Path) -> None:
        root = data / FOLDER
        read = [json.loads(line) for line in (root / "tool.jsonl").read_text().splitlines()]
        self.about = {t["api_name"]: (t["api_description"], tuple(sorted(t["parameters"]))) for t in read}
        self.names = sorted(n for n, (_, p) in self.about.items() if len(p) <= MOST)
        rows = [json.loads(line) for f in FILES for line in (root / f).read_text().splitlines()]
        self.rows = [r for r in rows if self._usable(r)]
        self.values = sorted({str(v) for r in self.rows for c in r["calling"] for v in c["parameters"].values()})
        self.words = sorted({w for r in self.rows for w in re.findall(r"[A-Za-z]+", r["query"])})

    def _usable(self, row: Mapping[str, Any]) -> bool:
        calls = row["calling"]
        return len(calls) <= 2 and all(
            c["api"] in self.about and not any("API_call" in str(v) for v in c["parameters"].values()) for c in calls
        )

    def texts(self) -> Iterator[str]:
        """What a tokenizer should know."""
        for row in self.rows:
            yield row["query"]
        for name in self.names:
            yield f"{name}({', '.join(self.about[name][1])})"

    def lessons(self, rng: np.random.Generator) -> Iterator[Lesson]:
        """Without end: of `EVERY` lessons one is a real row, the others are made up."""
        while True:
            yield self._real(rng)
            for _ in range(EVERY - 1):
                yield self._made_up(rng)

    def _offered(self, rng: np.random.Generator, names: Sequence[str]) -> list[dict[str, Any]]:
        every = {*names, str(rng.choice(self.names))}
        return [signature(n, self.about[n][1]) for n in rng.permutation(sorted(every)).tolist()]

    def _real(self, rng: np.random.Generator) -> Lesson:
        row = self.rows[int(rng.integers(len(self.rows)))]
        calls = [written(c["api"], {k: str(v) for k, v in c["parameters"].items()})[1:-1] for c in row["calling"]]
        return Lesson(row["query"], self._offered(rng, [c["api"] for c in row["calling"]]), f"[{', '.join(calls)}]")

    def _made_up(self, rng: np.random.Generator) -> Lesson:
        name = str(rng.choice(self.names))
        about, parameters = self.about[name]
        given = rng.permutation(list(parameters)).tolist()[: int(rng.integers(0, 4))]
        arguments = {p: self._value(rng) for p in given}
        parts = [about if rng.random() < 0.5 else " ".join(re.findall(r"[A-Z]?[a-z]+|\d+", name)).lower()]
        parts += [str(rng.choice(SAID[:NAMED] if rng.random() < 0.8 else SAID)).format(p=_spoken(rng, p), v=v)
                  for p, v in arguments.items()]  # fmt: skip
        rng.shuffle(parts)
        said = str(rng.choice([", ", " ", " and ", ". "])).join(parts)
        return Lesson(said, self._offered(rng, [name]), written(name, arguments))

    def _value(self, rng: np.random.Generator) -> str:
        kind = rng.random()
        if kind < 0.3:
            return str(rng.choice(self.values))[:40]
        if kind < 0.45:
            return str(rng.integers(1, 1000))
        if kind < 0.55:
            return f"{rng.integers(1, 13)}:{rng.integers(60):02} {rng.choice(['am', 'pm'])}"
        words = [str(rng.choice(self.words)) for _ in range(int(rng.integers(1, 4)))]
        return " ".join(w.capitalize() if kind < 0.85 else w for w in words)


def _spoken(rng: np.random.Generator, parameter: str) -> str:
    words = parameter.split("_")
    return words[-1] if rng.random() < 0.3 else " ".join(words)
