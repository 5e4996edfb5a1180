"""Real questions to learn and to be judged on: with a passage that holds the answer, with another's, or without."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.context_labels import T0
from mixtura.rows import content_id, table

READ = ("adversarial_qa_*", "sciq_Direct_Question", "quoref_*")
CLOSED = ("sciq_Direct_Question_Closed_Book_", "kilt_tasks_hotpotqa_*")
ASKED = re.compile(r"([^\s\":][^\":\n]{8,}?) ?\?")
WORDS = 4  # of the longest answer


@dataclass(frozen=True)
class Question:
    """A question, and perhaps a passage to read.

    label: 1 where the passage holds its answer; text: the start of the whole text that its own passage is a piece of.
    """

    question: str
    answer: str
    passage: str = ""
    label: int = 0
    text: str = ""

    def ask(self) -> str:
        """What the user says."""
        return f"{self.passage}\n\n{self.question}" if self.passage else self.question


def questions(data: Path, piece: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions with `piece` words of their passage around the answer, and closed-book ones; each once, in any order.

    A passage is the longest line of its prompt; the template's own words are left out.
    """
    rng = np.random.default_rng(seed)
    read: dict[str, Question] = {}
    for prompt, answer in _records(data, READ):
        passage = max(prompt.split("\n"), key=len)
        words = passage.split()
        asked = ASKED.search(prompt.replace(passage, ""))
        if asked and len(words) >= piece and answer in passage and asked[1] not in read:
            around = len(passage[: passage.index(answer)].split())
            first = int(np.clip(around - rng.integers(4, piece - 8), 0, len(words) - piece))
            shown = " ".join(words[first : first + piece]).strip('"')
            if answer in shown:
                read[asked[1]] = Question(f"{asked[1]}?", answer, shown, 1, passage[:60])
    closed = {
        a[1]: Question(f"{a[1]}?", answer) for prompt, answer in _records(data, CLOSED) if (a := ASKED.search(prompt))
    }
    drawn = [[some[i] for i in rng.permutation(len(some))] for some in (list(read.values()), list(closed.values()))]
    return drawn[0], drawn[1]


def _records(data: Path, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Prompts and short answers."""
    for path in (p for pattern in patterns for p in sorted((data / T0).glob(f"{pattern}.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            answer = record["completion"].removesuffix("<|endoftext|>").strip()
            if len(answer) > 2 and len(answer.split()) <= WORDS:
                yield re.sub(r"[ \t]+", " ", record["prompt"].strip()), answer


def parted(rows: list[Question], sizes: Sequence[int]) -> list[list[Question]]:
    """Parts of these sizes, and what is left; no text is in two of them, so that some rows are in none.

    Raises:
        ValueError: there are too few rows.
    """
    parts: list[list[Question]] = [[] for _ in range(len(sizes) + 1)]
    limits = [*sizes, len(rows)]
    home: dict[str, int] = {}
    for row in rows:
        short = [i for i, size in enumerate(limits) if len(parts[i]) < size]
        part = home.setdefault(row.text or row.question, short[0])
        if part in short:
            parts[part].append(row)
    if not parts[-1]:
        raise ValueError(f"need {sum(sizes)} questions and more; got {len(rows)}")
    return parts


def swapped(rows: list[Question], seed: int) -> list[Question]:
    """The same questions, each with the passage of another that does not hold its answer."""
    rng = np.random.default_rng(seed)
    made = []
    for row in rows:
        order = (rows[i].passage for i in rng.permutation(len(rows)))
        made.append(replace(row, passage=next(p for p in order if row.answer.lower() not in p.lower()), label=0))
    return made


def frame_of(rows: list[Question]) -> pl.DataFrame:
    """Rows as a mixture has them, each id once; `source` is the label."""
    made = []
    for q in rows:
        messages = [
            {"role": r, "content": c, "tool_calls": None} for r, c in (("user", q.ask()), ("assistant", q.answer))
        ]
        made.append({"id": content_id({"messages": messages}), "source": str(q.label), "messages": messages})
    return pl.DataFrame(table(made)).unique("id", keep="first", maintain_order=True)
