"""Does the indicator help? A small model, fine-tuned with marks by label, by score, at random, of like length, or none.

    python benchmarks/context_tuning.py --data FOLDER [--quick] [--model FOLDER] [--device cuda] [--out FOLDER]

Real passage questions (adversarial QA, Quoref, SciQ) in three kinds of rows, as many of each: with their own passage,
which holds the answer; with another's, which does not; and closed-book questions. Only the first lean on the context,
so a model that learns from all of them without a mark learns to distrust what it is given: the loss that Wang et al.
2024 describe, planted. One base model has learned to read before; each arm goes on from it, on the same rows in the
same order, and only the marks differ. Held out are other passages. Of four answers, of which one is right, which does
the model find likeliest? With no skill at all that is right in a quarter of the cases.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura.pipeline import marking
from mixtura.pipeline.contract import Shard
from mixtura.recipe import Marks, TinyModel, Train
from mixtura.rows import content_id, table

T0 = "self_instruct_t0/data/finetuning/t0_train_50k/data_per_template"
READ = ("adversarial_qa_*_question_context_answer", "adversarial_qa_*_answer_the_following_q",
        "adversarial_qa_*_based_on", "quoref_*", "sciq_Direct_Question")  # fmt: skip
CLOSED = ("sciq_Direct_Question_Closed_Book_", "kilt_tasks_hotpotqa_*")
INDICATOR = "[IND]"
COPIES, COPIED = 4, 18  # shuffled texts from each passage that the base model learns to copy, and their words
TOKENS = 1_024  # of an optimiser step


@dataclass(frozen=True)
class Size:
    """How much is done: words of a passage that a row shows, steps of the base model, rows of each kind, passes."""

    model: TinyModel
    piece: int
    steps: int
    rows: int
    epochs: float
    test: int  # held-out questions of each kind
    seeds: int
    learning_rate: float = 1e-3  # of fine-tuning; a model that came trained moves less
    device: str = "cpu"


FULL = Size(TinyModel(layers=4, width=256, heads=4, vocabulary=2048), 60, 8_000, 500, 1, 400, 3)
QUICK = Size(TinyModel(layers=2, width=96, heads=3, vocabulary=512), 24, 600, 120, 1, 80, 3)


@dataclass(frozen=True)
class Question:
    """A question whose prompt holds `{}` where its passage stood; closed-book ones have no passage."""

    prompt: str
    answer: str
    passage: str = ""
    label: int = 0  # 1: the passage is its own

    def ask(self) -> str:
        """What the user says."""
        return self.prompt.replace("{}", self.passage, 1)


def questions(data: Path, piece: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Passage questions whose answer stands in their passage, and closed-book ones; each once, in a drawn order."""
    rng = np.random.default_rng(seed)
    read: dict[tuple[str, str], Question] = {}
    for prompt, answer in _records(data, READ):
        passage = max(prompt.split("\n"), key=len)
        words = passage.split()
        fits = len(words) >= piece and 1 <= len(answer.split()) <= 4 and len(answer) > 2
        if fits and answer in passage and "?" in prompt.replace(passage, ""):
            around = len(passage[: passage.index(answer)].split())
            first = int(np.clip(around - rng.integers(4, piece - 8), 0, len(words) - piece))
            shown = " ".join(words[first : first + piece])
            if answer in shown:
                question = Question(prompt.replace(passage, "{}", 1), answer, shown, 1)
                read.setdefault((question.prompt, answer), question)
    closed = {(p, a): Question(p, a) for p, a in _records(data, CLOSED) if len(a.split()) <= 4 and len(p) < 400}
    return [[q[i] for i in rng.permutation(len(q))] for q in (list(read.values()), list(closed.values()))]  # pyright: ignore


def _records(data: Path, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in (p for pattern in patterns for p in sorted((data / T0).glob(f"{pattern}.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            prompt, answer = record["prompt"].strip(), record["completion"].removesuffix("<|endoftext|>").strip()
            if answer and "{}" not in prompt:
                yield re.sub(r"[ \t]+", " ", prompt), answer


def parts(read: list[Question], closed: list[Question], test: int) -> tuple[list[Question], ...]:
    """Base, tuning and held-out passage questions, no passage in two of them; tuning and held-out closed-book ones."""
    by_passage: dict[str, int] = {}
    sides: tuple[list[Question], ...] = ([], [], [])
    for q in read:
        key = q.passage[40:100]
        side = by_passage.setdefault(key, (2 if len(sides[2]) < test else 0 if len(sides[0]) <= len(sides[1]) else 1))
        sides[side].append(q)
    return (*sides, closed[test:], closed[:test])


def swapped(rows: list[Question], others: list[Question], seed: int) -> list[Question]:
    """The same questions with the passage of another that does not hold their answer."""
    rng = np.random.default_rng(seed)
    made = []
    for row in rows:
        other = next(
            o for i in rng.permutation(len(others)) if row.answer.lower() not in (o := others[i]).passage.lower()
        )
        made.append(replace(row, passage=other.passage, label=0))
    return made


def folder_of(path: Path, rows: pl.DataFrame, marked: bool, text: Sequence[str] = ()) -> Path:
    """A mixture's folder as `train` reads it."""
    (path / "train").mkdir(parents=True, exist_ok=True)
    frame = rows.select("id", "messages").with_columns(text=pl.lit(None, dtype=pl.String))
    if text:
        documents = pl.DataFrame(table([{"id": content_id({"text": t}), "text": t} for t in text]))
        frame = pl.concat([frame, documents.select(frame.columns)])
    frame.sort("id").write_parquet(path / "train" / "rows.parquet")
    (path / "summary.json").write_text(json.dumps({"marks": {"indicator": INDICATOR} if marked else None}))
    return path


def frame_of(rows: list[Question]) -> pl.DataFrame:
    """Rows as a mixture has them, each id once."""
    made = []
    for q in rows:
        messages = [
            {"role": r, "content": c, "tool_calls": None} for r, c in (("user", q.ask()), ("assistant", q.answer))
        ]
        made.append({"id": content_id({"messages": messages}), "source": str(q.label), "messages": messages})
    return pl.DataFrame(table(made)).unique("id", keep="first", maintain_order=True)


def base_model(folder: Path, rows: list[Question], size: Size, seed: int) -> Path:
    """A model that reads: shuffled words said twice teach it to copy, questions with their passage to answer."""
    from mixtura.trainer import train

    rng = np.random.default_rng(seed)
    shuffled = [" ".join(rng.permutation(q.passage.split())[:COPIED]) for q in rows for _ in range(COPIES)]
    data = folder_of(folder / "base-data", frame_of(rows), False, [f"{w}\n{w}" for w in shuffled])
    settings = _settings(size.model, size, loss="all", steps=size.steps, learning_rate=4e-3)
    facts = train(data, settings, out=folder / "base", seed=seed, progress=_tell)
    print(f"base: {facts['parameters']:,} parameters, {facts['seconds']:.0f} s", flush=True)
    return folder / "base"


def _settings(model: str | TinyModel, size: Size, **more: Any) -> Train:
    length = 128 if size.piece <= 24 else 256
    more |= {"sequence_length": length, "batch_tokens": TOKENS, "checkpoint_every": 100_000, "device": size.device}
    return Train(model=model, **more)


def _tell(progress: Any) -> None:
    if progress.step % 50 == 0:
        print(f"  step {progress.step}/{progress.steps} loss {progress.loss:.3f}", flush=True)


class Judge:
    """Ranks answers by a model: mean log-probability of their tokens."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).to(device).eval()
        self.device = device

    def right(self, rows: list[Question], indicator: str = "") -> np.ndarray:
        """bool[n]: whether the row's own answer is the likeliest of the four that its group of four rows has.

        Likeliest against how likely it is under the four prompts on average, else common answers would win everywhere
        (in the spirit of Zhao et al. 2021, Calibrate Before Use). Chance is one quarter.
        """
        rows = rows[: len(rows) // 4 * 4]
        pairs = [(q, rows[i // 4 * 4 + k].answer) for i, q in enumerate(rows) for k in range(4)]
        prompts = [self._prompt(q, indicator) for q in rows]
        found = self._scores([(prompts[i // 4], a) for i, (_, a) in enumerate(pairs)])
        scores = np.array(found).reshape(-1, 4, 4)  # group, question, answer
        return ((scores - scores.mean(1, keepdims=True)).argmax(2) == np.arange(4)).ravel()

    def _prompt(self, q: Question, indicator: str) -> list[int]:
        said = f"{q.ask()} {indicator}" if indicator else q.ask()
        made = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(made["input_ids"])

    def _scores(self, pairs: list[tuple[list[int], str]]) -> list[float]:
        torch = self.torch
        out = []
        for at in range(0, len(pairs), 32):
            some = [(p, self.tokenizer(a, add_special_tokens=False)["input_ids"]) for p, a in pairs[at : at + 32]]
            width = max(len(p) + len(a) for p, a in some)
            ids = torch.zeros((len(some), width), dtype=torch.long)
            for i, (p, a) in enumerate(some):
                ids[i, : len(p) + len(a)] = torch.tensor(p + a)  # causal: what stands behind a row changes nothing
            with torch.inference_mode():
                logs = self.model(ids.to(self.device)).logits.float().log_softmax(-1).cpu()
            for i, (p, a) in enumerate(some):
                rows = torch.arange(len(p) - 1, len(p) + len(a) - 1)
                out.append(float(logs[i, rows, torch.tensor(a)].mean()))
        return out


ARMS = ("none", "label", "random", "length", "raw", "gain")
SHARE = 1 / 3  # of the answers: those with their own passage


def scores(rows: pl.DataFrame, model: Path, column: str) -> pl.DataFrame:
    """`id, turn, score` of every answer by the selector `context`, read with the base model itself."""
    from mixtura.registry import find

    selector = find("selectors", "context")
    spec = selector.Spec(model=str(model), score=column)
    shard = Shard(rows.select("id", "messages", "chosen", "tools"))
    fitted = selector.fit(spec, sample=shard, target=None, reference=None, seed=0)
    return marking.turn_scores("context", "turn_scores", selector.score(spec, fitted, shard))


def marks_of(arm: str, rows: pl.DataFrame, model: Path, seed: int) -> list[list[int]]:
    """Places to mark in each row, in the order of the rows."""
    told = marking.answers(rows)
    if arm in ("raw", "gain"):
        told = told.join(scores(rows, model, arm), on=["id", "turn"], how="left", maintain_order="left")
    else:
        told = told.with_columns(score=pl.col("source").cast(pl.Float64))  # the label: own passage 1, else 0
    control: Any = arm if arm in ("random", "length") else None
    made = marking.mark(told, Marks(selector="context", share=SHARE, control=control), seed=seed)
    chosen = dict(made.group_by("id").agg(pl.col("place").filter("marked")).iter_rows())
    return [list(chosen[i]) for i in rows["id"]]


def tuned(arm: str, rows: pl.DataFrame, model: Path, folder: Path, size: Size, seed: int) -> tuple[Path, float]:
    """The model after fine-tuning on one arm's rows; and the share of its marks that are on rows of label 1."""
    from mixtura.trainer import train

    marked, right = rows, float("nan")
    if arm != "none":
        places = marks_of(arm, rows, model, seed)
        hit = [s == "1" for s, p in zip(rows["source"], places, strict=True) if p]
        right = sum(hit) / len(hit)
        marked = rows.with_columns(marking.written(rows["messages"], places, INDICATOR))
    data = folder_of(folder / f"{arm}-{seed}-data", marked, arm != "none")
    settings = _settings(str(model), size, epochs=size.epochs, learning_rate=size.learning_rate)
    train(data, settings, out=folder / f"{arm}-{seed}", seed=seed)
    return folder / f"{arm}-{seed}", right


def experiment(data: Path, out: Path, size: Size, model: Path | None) -> list[dict[str, Any]]:
    """Every arm and seed, a line of results each; what an earlier call finished is read, not repeated.

    The base model is `model`, or one that is made here.
    """
    read, closed = questions(data, size.piece, 0)
    base, tune, test, closed_tune, closed_test = parts(read, closed, size.test)
    test, closed_test = test[: size.test], closed_test[: size.test]
    model = model or (out / "base" if (out / "base").exists() else base_model(out, base, size, 0))
    held = {"passage": test, "closed": closed_test}
    done = out / "results.jsonl"
    lines = [json.loads(x) for x in done.read_text().splitlines()] if done.exists() else []
    by_hand, by_score = ARMS[:4], ARMS[4:]
    runs = [(a, s) for arms in (by_hand, by_score) for s in range(size.seeds) for a in arms]
    for arm, seed in [("base", 0), *runs]:
        if any(x["arm"] == arm and x["seed"] == seed for x in lines):
            continue
        folder, right = model, float("nan")
        if arm != "base":
            own, less = tune[: size.rows], closed_tune[: size.rows]
            rows = frame_of([*own, *swapped(own, base, seed + 1), *less])
            folder, right = tuned(arm, rows, model, out, size, seed)
        judge = Judge(folder, size.device)
        tags = ("",) if arm in ("base", "none") else ("", INDICATOR)
        hits = {f"{n}{'+' if t else ''}": judge.right(q, t).tolist() for n, q in held.items() for t in tags}
        lines.append({"arm": arm, "seed": seed, "marks_right": right, "hits": hits})
        with done.open("a") as f:
            f.write(json.dumps(lines[-1]) + "\n")
        print(arm, seed, f"{right:.2f}", {k: round(float(np.mean(v)), 3) for k, v in hits.items()}, flush=True)
    return lines


def interval(lines: list[dict[str, Any]], arm: str, key: str, other: tuple[str, str]) -> tuple[float, float, float]:
    """Difference in accuracy to another arm's, with a 95 % interval over seeds and questions, both resampled."""
    ours = np.array([x["hits"][key] for x in lines if x["arm"] == arm], float)
    theirs = np.array([x["hits"][other[1]] for x in lines if x["arm"] == other[0]], float)
    gap = ours - theirs
    rng = np.random.default_rng(0)
    drawn = [gap[np.ix_(rng.integers(len(gap), size=len(gap)), rng.integers(gap.shape[1], size=gap.shape[1]))].mean()
             for _ in range(2_000)]  # fmt: skip
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(gap.mean()), float(low), float(high)


def report(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The table, printed, and what the last line says."""
    keys = ("passage", "passage+", "closed", "closed+")
    print("\n| arm | marks on leaning answers | " + " | ".join(keys) + " |\n|---|" + "---:|" * (len(keys) + 1))
    accuracy: dict[str, dict[str, float]] = {}
    for arm in ("base", *ARMS):
        mine = [x for x in lines if x["arm"] == arm]
        if not mine:
            continue
        accuracy[arm] = {
            k: round(float(np.mean([x["hits"][k] for x in mine])), 4) for k in keys if k in mine[0]["hits"]
        }
        right = np.mean([x["marks_right"] for x in mine])
        cells = [f"{accuracy[arm][k]:.3f}" if k in accuracy[arm] else "" for k in keys]
        print(f"| {arm} | {'' if np.isnan(right) else f'{right:.2f}'} | {' | '.join(cells)} |")
    gains: dict[str, Any] = {}
    for arm in (a for a in ARMS[1:] if a in accuracy):
        gains[arm] = {
            "over_none": interval(lines, arm, "passage+", ("none", "passage")),
            "over_random": interval(lines, arm, "passage+", ("random", "passage+")),
            "of_the_indicator": interval(lines, arm, "passage+", (arm, "passage")),
        }
        for name, (mean, low, high) in gains[arm].items():
            print(f"{arm}, passage+, {name.replace('_', ' ')}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return {"accuracy": accuracy, "gains": gains, "seeds": max((x["seed"] for x in lines), default=0) + 1}


def main() -> None:
    """Run, print the table, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked sets")
    parser.add_argument("--out", type=Path, help="where models and results are kept; by default a temporary folder")
    parser.add_argument("--model", type=Path, help="a causal LM to begin from; by default a small one is made to read")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer rows, three seeds")
    given = parser.parse_args()
    import tempfile

    import torch

    torch.set_num_threads(1)  # sums in one order
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        size = replace(QUICK if given.quick else FULL, device=given.device)
        size = replace(size, learning_rate=2e-5) if given.model else size
        lines = experiment(given.data, given.out or Path(temporary), size, given.model)
    facts = report(lines)
    print(
        json.dumps(
            {
                "cpu_seconds": round(time.process_time() - begun, 1),
                "questions": len(lines[0]["hits"]["passage"]),
                **facts,
            }
        )
    )


if __name__ == "__main__":
    main()
