"""Conversations whose answers do, or do not, depend on what the user gave to read; the labels need no model.

Sets of real data, each with a label of 1 where the answer depends on the given text. Length says nothing in three:

- `passage matched`: passage questions and summaries, each beside a closed-book question or an instruction whose
  prompt is as long (within 3 %; among those, the nearest in the answer's length).
- `swapped`: passage questions, each twice: with its passage, and with another one of the same length that its answer
  does not stand in.
- `input matched`: instructions with an `input` field, each beside one without whose prompt is as long.

And three plain ones, in which length gives the label away:

- `passage`: questions with their passage, and summaries, against closed-book questions and instructions.
- `input`: instructions with an `input` field against those without.
- `twins`: the same questions and answers with their passage and without (SciQ).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

T0 = "self_instruct_t0/data/finetuning/t0_train_50k/data_per_template"
EXTRACTIVE = (  # the answer stands in the passage, or the row is left out
    "adversarial_qa_dbert_based_on", "adversarial_qa_dbidaf_question_context_answer",
    "adversarial_qa_droberta_tell_what_it_is", "quoref_Given_Context_Answer_Question", "quoref_Find_Answer",
    "ropes_prompt_beginning", "sciq_Direct_Question", "duorc_SelfRC_answer_question",
)  # fmt: skip
TOLD = (
    "dream_baseline", "dream_read_the_following_conversation_and_answer_the_question", "xsum_DOC_tldr",
    "samsum_Sum_up_the_following_dialogue", "samsum_Summarize_", "gigaword_in_a_nutshell",
)  # fmt: skip
CLOSED = (
    "sciq_Direct_Question_Closed_Book_", "kilt_tasks_hotpotqa_straighforward_qa", "kilt_tasks_hotpotqa_formulate",
    "kilt_tasks_hotpotqa_complex_question", "kilt_tasks_hotpotqa_combining_facts",
    "wiki_qa_Direct_Answer_to_Question", "commonsense_qa_answer_given_question_without_options",
)  # fmt: skip
ALPACA = "llamafactory_demo/data/alpaca_en_demo.json"
ROLEPLAY = "gpteacher/Roleplay/roleplay-simple-deduped-roleplay-instruct.json"
INLINE = re.compile(r'[\n":]')  # an instruction that may hold a text to work on, though it has no input
LONGEST = 1_200  # characters of a prompt and an answer: some 300 tokens, so that a CPU can read enough of them


@dataclass(frozen=True)
class Labelled:
    """One conversation of a single exchange.

    label: 1 where the answer depends on the given text; pair: the same of two rows that were matched.
    """

    source: str
    prompt: str
    answer: str
    label: int
    pair: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """As in a row."""
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]


def labelled(data: Path, rows: int, seed: int = 0) -> dict[str, list[Labelled]]:
    """The sets by name, with `rows` of each label at most, evenly from their sources; another seed, other rows."""
    rng = np.random.default_rng(seed)
    read = {n: [r for r in _template(data, n, 1) if _stands(r)] for n in EXTRACTIVE}
    told = read | {n: list(_template(data, n, 1)) for n in TOLD}
    closed = {n: list(_template(data, n, 0)) for n in CLOSED}
    instructions = {"alpaca": list(_alpaca(data / ALPACA)), "roleplay": list(_alpaca(data / ROLEPLAY))}
    given = {n: [r for r in rows_of if r.label] for n, rows_of in instructions.items()}
    bare = {n: [r for r in rows_of if not r.label] for n, rows_of in instructions.items()}
    closed |= {n: [r for r in rows_of if not INLINE.search(r.prompt)] for n, rows_of in bare.items()}
    bare_of = {_question(r): r for r in closed["sciq_Direct_Question_Closed_Book_"]}
    asked = [r for r in read["sciq_Direct_Question"] if _question(r) in bare_of]
    return {
        "passage matched": _matched(told, closed, rows, rng),
        "swapped": list(_swapped(_even(read, 2 * rows, rng), read))[: 2 * rows],
        "input matched": _matched(given, bare, rows, rng),
        "passage": _even(told, rows, rng) + _even(closed, rows, rng),
        "input": _even(given, rows, rng) + _even(bare, rows, rng),
        "twins": [
            replace(half, pair=str(i))
            for i, r in enumerate(_even({"": asked}, rows, rng))
            for half in (r, bare_of[_question(r)])
        ],
    }


def words(text: str) -> int:
    """Words, numbers and signs: what most tokenizers' counts go with."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _matched(
    dependent: dict[str, list[Labelled]], free: dict[str, list[Labelled]], rows: int, rng: np.random.Generator
) -> list[Labelled]:
    """Pairs of prompts of one length: dependent rows evenly from their sources, each with a free row of its own."""
    others = sorted(_even(free, 1 << 30, rng), key=lambda r: words(r.prompt))
    lengths = [words(r.prompt) for r in others]
    taken: set[int] = set()
    pairs: list[Labelled] = []
    for row in _even(dependent, 1 << 30, rng):
        n = words(row.prompt)
        near = range(bisect_left(lengths, n * 0.97), bisect_left(lengths, n * 1.03 + 1e-9))
        if fit := [i for i in near if i not in taken]:
            best = min(fit, key=lambda i: abs(np.log((words(others[i].answer) + 1) / (words(row.answer) + 1))))
            taken.add(best)
            pair = f"{len(taken)}"
            pairs += [replace(row, pair=pair), replace(others[best], pair=pair)]
        if len(pairs) == 2 * rows:
            break
    return pairs


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
    """Each row, and the same with another passage of its source: that of the nearest length that lacks the answer.

    Rows without such a passage within 3 % are left out.
    """
    for i, row in enumerate(rows):
        mine, n = _passage(row.prompt), words(row.prompt)
        others = {p for r in passages[row.source] if (p := _passage(r.prompt)) != mine}
        prompts = [row.prompt.replace(mine, p, 1) for p in sorted(others) if row.answer.lower() not in p.lower()]
        other = min(prompts, key=lambda p: abs(words(p) - n), default="")
        if abs(words(other) - n) <= 0.03 * n:
            yield replace(row, pair=str(i))
            yield replace(row, prompt=other, label=0, pair=str(i))


def _question(row: Labelled) -> str:
    """The line that asks."""
    return next(x for x in row.prompt.split("\n") if x.startswith("Q: "))


def _stands(row: Labelled) -> bool:
    """Whether the answer stands in the row's passage; some SciQ rows have an empty one."""
    return row.answer.lower() in _passage(row.prompt).lower()


def _passage(prompt: str) -> str:
    """The longest line: in these templates, the passage or the most of it."""
    return max(prompt.split("\n"), key=len)
