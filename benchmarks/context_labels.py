"""Conversations whose answers do, or do not, depend on what the user gave to read; the labels need no model.

Three sets of real data, each with a label of 1 where the answer depends on the given text:

- `passage`: questions with their passage, and summaries of an article, against closed-book questions and instructions.
- `swapped`: the same passage questions, half of them with another passage of the same length in its place.
- `input`: instructions with an `input` field against those without.
- `twins`: the same questions and answers with their passage and without (SciQ).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

T0 = "self_instruct_t0/data/finetuning/t0_train_50k/data_per_template"
PASSAGES = (
    "adversarial_qa_dbert_based_on", "adversarial_qa_dbidaf_question_context_answer",
    "adversarial_qa_droberta_tell_what_it_is", "quoref_Given_Context_Answer_Question", "quoref_Find_Answer",
    "ropes_prompt_beginning", "sciq_Direct_Question",
    "duorc_SelfRC_answer_question", "dream_baseline", "xsum_DOC_tldr", "samsum_Sum_up_the_following_dialogue",
)  # fmt: skip
CLOSED = (
    "sciq_Direct_Question_Closed_Book_", "kilt_tasks_hotpotqa_straighforward_qa", "kilt_tasks_hotpotqa_formulate",
    "kilt_tasks_hotpotqa_complex_question", "wiki_qa_Direct_Answer_to_Question", "common_gen_Put_together",
)  # fmt: skip
ALPACA = "llamafactory_demo/data/alpaca_en_demo.json"
ROLEPLAY = "gpteacher/Roleplay/roleplay-simple-deduped-roleplay-instruct.json"
LONGEST = 1_600  # characters of a prompt and an answer: some 400 tokens, so that a CPU can read enough of them


@dataclass(frozen=True)
class Labelled:
    """One conversation of a single exchange. label: 1 where the answer depends on the given text."""

    source: str
    prompt: str
    answer: str
    label: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """As in a row."""
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]


def labelled(data: Path, rows: int, seed: int = 0) -> dict[str, list[Labelled]]:
    """The sets by name, with `rows` of each label at most, drawn evenly from their sources."""
    rng = np.random.default_rng(seed)
    passages = {n: list(_template(data, n, 1)) for n in PASSAGES}
    closed = {n: list(_template(data, n, 0)) for n in CLOSED}
    alpaca, roleplay = list(_alpaca(data / ALPACA)), list(_alpaca(data / ROLEPLAY))
    bare = [r for r in (*alpaca, *roleplay) if not r.label]
    closed |= {"alpaca without input": [r for r in alpaca if not r.label]}
    questions = {n: r for n, r in passages.items() if not n.startswith(("xsum", "samsum", "dream"))}
    return {
        "passage": _even(passages, rows, rng) + _even(closed, rows, rng),
        "swapped": list(_swapped(_even(questions, 2 * rows, rng), passages)),
        "input": _even({"a": [r for r in (*alpaca, *roleplay) if r.label]}, rows, rng) + _even({"b": bare}, rows, rng),
        "twins": _even({"a": passages["sciq_Direct_Question"]}, rows, np.random.default_rng(seed))
        + _even({"b": closed["sciq_Direct_Question_Closed_Book_"]}, rows, np.random.default_rng(seed)),
    }


def _template(data: Path, name: str, label: int) -> Iterator[Labelled]:
    for line in (data / T0 / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        answer = record["completion"].removesuffix("<|endoftext|>").strip()
        if answer and len(record["prompt"]) <= LONGEST:
            yield Labelled(name, record["prompt"].strip(), answer, label)


def _alpaca(path: Path) -> Iterator[Labelled]:
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for r in records:
        given, answer = (r.get("input") or "").strip(), (r.get("output") or r.get("response") or "").strip()
        prompt = f"{r['instruction']}\n\n{given}" if given else r["instruction"]
        if answer and len(prompt) <= LONGEST and len(answer) <= LONGEST:
            yield Labelled(path.stem, prompt, answer, int(bool(given)))


def _even(sources: dict[str, list[Labelled]], rows: int, rng: np.random.Generator) -> list[Labelled]:
    """At most `rows`, each source in turn giving one, in an order drawn by `rng`."""
    drawn = [[rows_of[i] for i in rng.permutation(len(rows_of))] for rows_of in sources.values()]
    longest = max(map(len, drawn))
    return [d[i] for i in range(longest) for d in drawn if i < len(d)][:rows]


def _swapped(rows: list[Labelled], passages: dict[str, list[Labelled]]) -> Iterator[Labelled]:
    """Every second row with another passage of its source: that of the nearest length that lacks the answer."""
    for i, row in enumerate(rows):
        mine = _passage(row.prompt)
        if i % 2 == 0:
            yield row
            continue
        others = [p for r in passages[row.source] if (p := _passage(r.prompt)) != mine]
        others = [p for p in others if row.answer.lower() not in p.lower()]
        other = min(others, key=lambda p: (abs(len(p) - len(mine)), p))
        yield Labelled(row.source, row.prompt.replace(mine, other, 1), row.answer, 0)


def _passage(prompt: str) -> str:
    """The longest line: in these templates, the passage or the most of it."""
    return max(prompt.split("\n"), key=len)
