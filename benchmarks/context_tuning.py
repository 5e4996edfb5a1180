"""Does the indicator help? A model fine-tuned with marks by label, by score, at random, of like length, or with none.

    python -m benchmarks.context_tuning --data FOLDER --model FOLDER --out FOLDER [--seeds 1,2,3] [--arms none,label]
        [--rate 3e-4] [--epochs 2] [--rows 120] [--held test|development] [--minutes 25]

Real questions in three kinds of rows, as many of each: with a piece of their own passage, which holds the answer; with
another's, which does not; and closed-book. Only the first lean on the context, so a model that learns from all of them
without a mark learns to distrust what it is given: the loss that Wang et al. 2024 describe, planted. In a seed all arms
learn the same rows in the same order, and only the marks differ; held out are other texts. The upper layers of the
model are tuned (`context_upper`). What an earlier call finished is read from `--out`, so a long run may come in pieces.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.context_questions import Question, frame_of, parted, questions, swapped
from benchmarks.context_upper import CutModel, Item, Told
from mixtura.pipeline import marking
from mixtura.pipeline.contract import Shard
from mixtura.recipe import Marks

INDICATOR = "[IND]"
PIECE = 30  # words of a passage that a row shows
UPPER = 10  # layers that are tuned
HELD = {"development": 60, "test": 120}  # held-out questions with a passage, and as many without
ARMS = ("none", "label", "random", "length", "raw", "peak")
SHARE = 1 / 3  # of the answers is marked: as many as have their own passage


def scores(rows: pl.DataFrame, model: Path, column: str, keep: Path) -> pl.DataFrame:
    """`id, turn, score` of every answer by the selector `context`, read with the model before it is tuned."""
    from mixtura.registry import find

    selector = find("selectors", "context")
    spec = selector.Spec(model=str(model), score=column, max_tokens=256)
    if not keep.exists():
        shard = Shard(rows.select("id", "messages", "chosen", "tools"))
        fitted = selector.fit(spec, sample=Shard(shard.rows.head(8)), target=None, reference=None, seed=0)
        selector.score(spec, fitted, shard).write_parquet(keep)
    return marking.turn_scores("context", column, pl.read_parquet(keep))


def places(arm: str, rows: pl.DataFrame, model: Path, keep: Path, seed: int) -> list[bool]:
    """Whether each row is marked, in the order of the rows."""
    told = marking.answers(rows)
    if arm in ("raw", "peak"):
        told = told.join(scores(rows, model, arm, keep), on=["id", "turn"], how="left", maintain_order="left")
    else:
        told = told.with_columns(score=pl.col("source").cast(pl.Float64))  # the label: own passage 1, else 0
    control: Any = arm if arm in ("random", "length") else None
    made = marking.mark(told, Marks(selector="context", share=SHARE, control=control), seed=seed)
    return made["marked"].to_list()


def asked(rows: Sequence[Question], marked: Sequence[bool], cut: CutModel) -> list[Item]:
    """Rows as tokens, with the indicator behind the user's words where it is due."""
    return [
        cut.item(f"{q.ask()} {INDICATOR}" if mark else q.ask(), q.answer) for q, mark in zip(rows, marked, strict=True)
    ]


class Experiment:
    """Arms over seeds, one line of results each.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        read, closed = questions(args.data, PIECE, 0)
        sizes = [HELD["development"], HELD["test"]]
        *held_read, self.read = parted(read, sizes)
        *held_closed, self.closed = parted(closed, sizes)
        at = list(HELD).index(args.held)
        self.held = {"passage": held_read[at], "closed": held_closed[at]}
        self.cut = CutModel(args.model, INDICATOR, UPPER, args.out / "below")
        self.done = args.out / f"results-{args.held}.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """What is finished."""
        return [json.loads(x) for x in self.done.read_text().splitlines()] if self.done.exists() else []

    def run(self) -> None:
        """Every arm and seed that is not finished, until the time is up."""
        end = time.monotonic() + 60 * self.args.minutes
        wanted = [("base", 0), *((arm, seed) for seed in self.args.seeds for arm in self.args.arms)]
        key = {"rate": self.args.rate, "epochs": self.args.epochs, "rows": self.args.rows}
        for arm, seed in wanted:
            if any(line["arm"] == arm and line["seed"] == seed and line["key"] == key for line in self.lines()):
                continue
            if time.monotonic() > end:
                print("time is up: run again to go on", flush=True)
                return
            line = {"arm": arm, "seed": seed, "key": key} | self.one(arm, seed)
            with self.done.open("a") as f:
                f.write(json.dumps(line) + "\n")
            told = {k: f"{np.mean(v['exact']):.3f} {np.mean(v['nats']):.2f}" for k, v in line["held"].items()}
            print(arm, seed, f"{line['marks_right']:.2f}", told, f"{line['seconds']:.0f} s", flush=True)

    def rows_of(self, seed: int) -> list[Question]:
        """What all arms of a seed learn."""
        rng, n = np.random.default_rng(seed), self.args.rows
        if min(len(self.read) / 2, len(self.closed)) < n:
            raise SystemExit(f"--rows must be at most {min(len(self.read) // 2, len(self.closed))}; got {n}")
        own = [self.read[i] for i in rng.permutation(len(self.read))[: 2 * n]]
        less = [self.closed[i] for i in rng.permutation(len(self.closed))[:n]]
        return [*own[:n], *swapped(own[n:], seed), *less]

    def one(self, arm: str, seed: int) -> dict[str, Any]:
        """Tune an arm, and judge it with the indicator and without."""
        began = time.process_time()
        upper, right, losses = self.cut.upper(), float("nan"), [float("nan")]
        if arm != "base":
            rows = self.rows_of(seed)
            frame = frame_of(rows)
            keep = self.args.out / f"scores-{seed}-{self.args.rows}.parquet"
            marks = [False] * len(rows) if arm == "none" else places(arm, frame, self.args.model, keep, seed)
            if any(marks):
                right = float(np.mean([q.label for q, mark in zip(rows, marks, strict=True) if mark]))
            items = asked(rows, marks, self.cut)
            losses = upper.tune(items, self.cut.below(items), rate=self.args.rate, epochs=self.args.epochs, seed=seed)
        held = {}
        for name, some in self.held.items():
            for tag in (False,) if arm in ("base", "none") else (False, True):
                items = asked(some, [tag] * len(some), self.cut)
                held[f"{name}{'+' if tag else ''}"] = _columns(upper.told(items, self.cut.below(items)))
        seconds = time.process_time() - began
        return {"marks_right": right, "loss": losses[-1], "seconds": round(seconds, 1), "held": held}


def _columns(told: Sequence[Told]) -> dict[str, list[float]]:
    return {"exact": [int(t.exact) for t in told], "nats": [round(t.nats, 4) for t in told]}


def difference(
    lines: list[dict[str, Any]], ours: tuple[str, str], theirs: tuple[str, str], measure: str
) -> tuple[float, float, float]:
    """Mean difference of two arms, each asked in a way, with a 95 % interval over seeds and questions, drawn again.

    Args:
        lines: of results.
        ours: arm and what it is asked, such as `passage+`.
        theirs: the same of the other, in the same seeds.
        measure: `exact` or `nats`.
    """
    found = []
    for arm, held in (ours, theirs):
        by_seed = {x["seed"]: x["held"][held][measure] for x in lines if x["arm"] == arm}
        found.append(np.array([by_seed[s] for s in sorted(by_seed)], float))
    gap = found[0] - found[1]
    rng = np.random.default_rng(0)
    seeds, asked_of = gap.shape
    drawn = [
        gap[np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, asked_of, asked_of))].mean() for _ in range(2000)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(gap.mean()), float(low), float(high)


def report(lines: list[dict[str, Any]]) -> None:
    """The table of arms, and the differences that the question is about."""
    print("| arm | seeds | marks on own passages | passage | passage+ | closed | closed+ |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for arm in dict.fromkeys(x["arm"] for x in lines):
        mine = [x for x in lines if x["arm"] == arm]
        cells = []
        for name in ("passage", "passage+", "closed", "closed+"):
            some = [x["held"][name] for x in mine if name in x["held"]]
            means = [np.mean([x[m] for x in some]) for m in ("exact", "nats")] if some else []
            cells.append(f"{means[0]:.3f}, {means[1]:.2f}" if some else "")
        right = np.mean([x["marks_right"] for x in mine])
        print(f"| {arm} | {len(mine)} | {'' if np.isnan(right) else f'{right:.2f}'} | {' | '.join(cells)} |")
    have = {x["arm"] for x in lines}
    for arm in [a for a in ARMS[1:] if a in have]:
        for other in [(arm, "passage"), *((o, f"passage{'+' * (o != 'none')}") for o in ("none", "random", "length"))]:
            if other[0] in have and other != (arm, "passage+"):
                gaps = [difference(lines, (arm, "passage+"), other, m) for m in ("exact", "nats")]
                told = "; ".join(
                    f"{m} {g:+.3f} [{lo:+.3f}, {hi:+.3f}]"
                    for m, (g, lo, hi) in zip(("exact", "nats"), gaps, strict=True)
                )
                print(f"{arm} passage+ less {other[0]} {other[1]}: {told}")


def main() -> None:
    """Run what is not finished, and print the table of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked real data")
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal LM of Llama's form that reads")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2, 3])
    parser.add_argument("--arms", type=lambda s: s.split(","), default=list(ARMS))
    parser.add_argument("--rows", type=int, default=120, help="of each of the three kinds")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--held", choices=HELD, default="test")
    parser.add_argument("--minutes", type=float, default=25, help="no arm begins after these")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(args)
    experiment.run()
    key = {"rate": args.rate, "epochs": args.epochs, "rows": args.rows}
    report([x for x in experiment.lines() if x["key"] == key])


if __name__ == "__main__":
    main()
