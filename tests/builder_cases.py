"""Rows that each builder can work on, shared by the common suite and the builders' own tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import polars as pl
from answering import Scripted

from mixtura.generation.contract import Ask
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


def choices_case(n: int = 40) -> Case:
    """Questions with their options in a column; some without a right one."""
    rows = [
        made_row(
            i,
            messages=conversation(f"question {i}?", f"option {i % 3}" if i % 7 else "none of them"),
            meta={"options": [f"option {k}" for k in range(3)]},
        )
        for i in range(n)
    ]
    return Case(shard_of(rows), {"options": "options"})


def probes_case(n: int = 40) -> Case:
    """Requests, some of which no leetspeak can say so that it is read back."""
    rows = [
        made_row(i, messages=conversation(f"Tell me about {'x' * (i + 1)} please" + " 7" * (i % 2), "as you wish"))
        for i in range(n)
    ]
    return Case(shard_of([*rows, made_row(n, text="a document")]))


def multilingual_case(n: int = 60) -> Case:
    """Labelled sentences of two data sets, more than the cap."""
    rows = [
        made_row(i, source=("news", "web")[i % 2], text=f"sentence {i}", meta={"label": ["good", "bad", "-1"][i % 3]})
        for i in range(n)
    ]
    prompts = {
        "rate": {"inputs": {"en": "Good or bad? {text}", "de": "Gut oder schlecht? {text}"}, "target": "{label}"}
    }
    return Case(shard_of(rows), {"prompts": prompts, "cap": 7, "hidden": {"label": ["-1"]}})


TASKS = """
domain: shop
actions:
  answer:
    steps:
      sort:
        kind: classify
        instructions:
          en: ["What is it about?", "Name the topic of: {text}"]
          de: ["Worum geht es?"]
        rows: {where: {kind: [mail]}, budget: 10}
        output: "{label}"
        output_schema: {type: string, enum: [parcel, refund]}
      pull:
        kind: extract
        instructions: {en: ["Give who wrote and the order."]}
        rows: {cap: 12}
        output: {who: "{who}", order: "{order}"}
        output_schema:
          type: object
          properties: {who: {type: string}, order: {type: integer, minimum: 100}}
          required: [who, order]
          additionalProperties: false
  rate:
    steps:
      score:
        kind: score
        instructions: {de: ["Wie dringend, von 1 bis 5?"]}
        rows: {sources: [web], floor: 3}
        output: "{urgency}"
        output_schema: {type: integer, minimum: 1, maximum: 5}
"""


def subtask_case(n: int = 60) -> Case:
    """Mails of a shop, with labels, spans and scores in columns, some of them wrong."""
    rows = [
        made_row(
            i,
            source=("web", "desk")[i % 3 == 0],
            language=("en", "de")[i % 2],
            text=f"mail {i}: where is my order {90 + i}?",
            meta={
                "kind": "mail" if i % 5 else "note", "label": ["parcel", "refund", "other"][i % 3],
                "who": f"person {i}", "order": 90 + i, "urgency": i % 7,
            },
        )
        for i in range(n)
    ]  # fmt: skip
    return Case(shard_of(rows), {"tasks": "tasks.yaml"}, {"tasks": TASKS})


SCHEMA = [
    {
        "service_name": "Trains.1",
        "description": "Book trains",
        "slots": [
            {"name": "to", "description": "Where to", "is_categorical": False, "possible_values": []},
            {"name": "class", "description": "Class", "is_categorical": True, "possible_values": ["first", "second"]},
            {"name": "seats", "description": "Seats", "is_categorical": True, "possible_values": ["1", "2"]},
            {"name": "bike", "description": "Bike", "is_categorical": True, "possible_values": ["True", "False"]},
        ],
        "intents": [{"name": "Book", "required_slots": ["to"]}],
    },
    {
        "service_name": "Hotels",
        "description": "",
        "slots": [{"name": "city", "description": "City", "is_categorical": False, "possible_values": []}],
        "intents": [],
    },
]


def said(speaker: str, utterance: str, **states: dict[str, list[str]]) -> dict[str, Any]:
    """A turn of a schema-guided dialogue; `Trains` stands for `Trains.1`."""
    frames = [
        {"service": "Trains.1" if s == "Trains" else s, "slots": [], "state": {"slot_values": v}}
        for s, v in states.items()
    ]
    return {"speaker": speaker, "utterance": utterance, "frames": frames}


def toolstate_case(n: int = 30) -> Case:
    """Dialogues of one or two services, more than the cap, one broken and one where nothing is stated."""
    rows = []
    for i in range(n):
        turns = [
            said("USER", f"to town {i}", Trains={"to": [f"town {i}"]}),
            said("SYSTEM", "first or second?"),
            said("USER", "second, two seats", Trains={"to": [f"town {i}"], "class": ["second"], "seats": ["2"]}),
            said("SYSTEM", "done"),
        ]
        if i % 3 == 0:
            turns.append(said("USER", "and a hotel", Hotels={"city": [f"Town {i}", f"town {i}"]}))
        rows.append(made_row(i, text=f"dialogue {i}", meta={"turns": turns}))
    rows.append(made_row(n, text="broken", meta={"turns": [said("USER", "hm", Boats={"to": ["sea"]})]}))
    rows.append(made_row(n + 1, text="idle", meta={"turns": [said("USER", "hello"), said("SYSTEM", "hello")]}))
    return Case(
        shard_of(rows), {"schema_file": "schema.json", "cap": 8}, {"schema_file": orjson.dumps(SCHEMA).decode()}
    )


def render_case(n: int = 60) -> Case:
    """Reviews in two clouds of vectors; a third of them with a label."""
    rng = np.random.default_rng(4)
    side = rng.integers(0, 2, n)
    vectors = unit(rng.normal(0, 0.5, (n, 4)) + np.where(side, 1, -1)[:, None] * np.eye(4)[0])
    rows = [made_row(i, text=f"review {i}", meta={"label": str(s)} if i % 3 == 0 else None) for i, s in enumerate(side)]
    return Case(shard_of(rows, vectors), {"label": "{label}", "words": {"0": "terrible", "1": "great"}})


def sums_case(**options: Any) -> Case:
    """Sums that a model gets right, wrong, or right at the second try, and one row that has no number."""

    def reply(ask: Ask, sample: int) -> str:
        said = ask.messages[-1]["content"]
        number = int(said.split()[2])
        right = number % 3 == 0 if "Correct answer" not in said else number % 3 == 1
        return f"It makes {2 * number + (0 if right and sample % 2 == 0 else 1)}"

    rows = [made_row(i, messages=conversation(f"What is {i} + {i} ?", f"{2 * i}")) for i in range(30)]
    rows.append(made_row(30, messages=conversation("What is it?", "Nobody knows")))
    return Case(shard_of(rows), {"model": "scripted", "check": "numeric"} | options, generator=Scripted(reply))


CASES = {
    "onpolicy": lambda: sums_case(samples=4),
    "render": render_case,
    "selfanswer": sums_case,
    "choices": choices_case,
    "multilingual": multilingual_case,
    "probes": probes_case,
    "subtask": subtask_case,
    "toolstate": toolstate_case,
    "twins": twins_case,
}
