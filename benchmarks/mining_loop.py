"""The loop of `mixtura mine` on real tool use: verified failures against perplexity, random rows, more right answers.

python -m benchmarks.mining_loop DATA [--seeds 3] [--rounds 2] [--quick]

DATA holds the Schema-Guided Dialogue set (`sgd/`). Each turn in which a user says what they want is a question; right
is a call of that intent with the values that the turn gives; an intent of another service is offered beside it. A
small LM is made and warmed up on right answers, one a seed; each arm then goes on from it, as many steps a round.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import small
from mixtura.recipe import TinyModel
from mixtura.recipe_file import build
from mixtura.stages.plan import Plan, Settings

ARMS = {
    "verified, searched": {
        "by": "verified",
        "search": {"by": "tree", "step": "argument", "simulations": 3, "width": 3},
    },
    "verified": {"by": "verified"},
    "perplexity": {"by": "perplexity"},
    "random": {"by": "random"},
    "verified, answers": {"by": "verified", "learn": "answers"},
    "perplexity, answers": {"by": "perplexity", "learn": "answers"},
    "random, answers": {"by": "random", "learn": "answers"},
}
MORE = "right answers"  # the control that learns no pairs: the warm-up's rows again, at as many tokens


def schemas(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(service, intent) → its tool: every slot that the intent takes, as text."""
    found = {}
    for path in sorted(root.glob("*/schema.json")):
        for service in json.loads(path.read_text()):
            said = {s["name"]: s["description"] for s in service["slots"]}
            for intent in service["intents"]:
                names = sorted({*intent["required_slots"], *intent["optional_slots"]} & set(said))
                properties = {n: {"type": "string", "description": said[n]} for n in names}
                function = {"name": intent["name"], "description": intent["description"]}
                function["parameters"] = {"type": "object", "properties": properties, "required": []}
                found[service["service_name"], intent["name"]] = {"type": "function", "function": function}
    return found


def questions(root: Path) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Service, intent, what the user says, and the values given with it."""
    for path in sorted(root.glob("*/dialogues_*.json")):
        for dialogue in json.loads(path.read_text()):
            for turn in dialogue["turns"]:
                for frame in turn["frames"] if turn["speaker"] == "USER" else []:
                    acts = frame["actions"]
                    if intent := next((a["values"][0] for a in acts if a["act"] == "INFORM_INTENT"), None):
                        given = {a["slot"]: a["values"][0] for a in acts if a["act"] == "INFORM" and a["values"]}
                        yield frame["service"], intent, turn["utterance"], given


def write_pool(root: Path, folder: Path, rows: int | None) -> int:
    """The rows as JSON lines; returns how many. Offers are drawn by a fixed seed."""
    tools, rng, lines = schemas(root), random.Random(0), []
    for service, intent, said, given in questions(root):
        tool = tools[service, intent]["function"]
        arguments = {k: v for k, v in sorted(given.items()) if k in tool["parameters"]["properties"]}
        others = rng.sample([t for (s, _), t in sorted(tools.items()) if s != service], 8)
        offered = {tool["name"]: tools[service, intent]}
        for other in others:
            if len(offered) < 2:
                offered.setdefault(other["function"]["name"], other)
        call = f"[{intent}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})]"
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": call}]
        shuffled = sorted(offered.values(), key=lambda t: rng.random())
        lines.append(json.dumps({"messages": turns, "tools": json.dumps(shuffled), "task": intent}))
    rng.shuffle(lines)
    lines = lines[:rows]
    (folder / "pool.jsonl").write_text("\n".join(lines) + "\n")
    return len(lines)


def recipe(name: str, model: str, seed: int, spec: argparse.Namespace, **mine: Any) -> dict[str, Any]:
    """The recipe of one run."""
    return {
        "name": name,
        "seed": seed,
        "sources": {"sgd": {"files": "pool.jsonl", "license": "CC-BY-SA-4.0", "revision": "e852981"}},
        "clean": {"near_dedup": None},
        "select": [{"selector": "uniform", "pick": {"rule": "threshold", "threshold": -1e6}}],
        "mix": {"splits": {"validation": 0.0, "test": 0.2}},
        "output": {"form": "messages"},
        "train": {
            "model": model, "sequence_length": 256, "batch_tokens": 4096, "epochs": spec.epochs,
            "learning_rate": 2e-3, "device": "cpu", "loss": "completion",
            "preference": {"loss": spec.loss, "learning_rate": spec.rate, "nll": spec.nll, "beta": spec.beta},
        },
        "mine": {
            "heldout_tools": 0.1, "samples": 4, "max_tokens": 40, "stop": False, "steps": spec.steps,
            "pairs": spec.pairs, "rows": spec.tried, "learning_rate": spec.answers_rate, **mine,
        },
    }  # fmt: skip


def start_model(folder: Path, width: int, seed: int) -> str:
    """A small model with random weights, whose tokenizer knows the rows and shows tools as signatures."""
    lines = [json.loads(x) for x in (folder / "pool.jsonl").read_text().splitlines()]
    texts = [m["content"] for r in lines for m in r["messages"]]
    names = sorted({t["function"]["name"] + "(" + ", ".join(t["function"]["parameters"]["properties"]) + ")"
                    for r in lines for t in json.loads(r["tools"])})  # fmt: skip
    size = TinyModel(layers=2, width=width, heads=4, vocabulary=1500)
    return str(small.start([*texts, *names * 20], size, folder / f"start-{seed}", seed=seed))


def mined(folder: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """One loop, told line by line."""
    from mixtura.loop.session import mine

    settings = Settings(base=str(folder), workers=1, output=str(folder / "mixtures" / tree["name"]))
    return mine(Plan.of(build(tree), settings), tell=lambda line: print(f"  {tree['name']}: {line}", flush=True))


def more(folder: Path, warm: dict[str, Any], seed: int, spec: argparse.Namespace) -> dict[str, Any]:
    """The control: right answers again, as many tokens a round as the arm with pairs read."""
    from mixtura import registry
    from mixtura.checks.tool_calls import Spec as Options
    from mixtura.loop.cast import cast
    from mixtura.loop.measure import kept, measure
    from mixtura.loop.policy import Policy
    from mixtura.loop.session import read_splits
    from mixtura.recipe import Train
    from mixtura.trainer import train

    last = Path(warm["folder"])
    who = cast(
        read_splits(folder / "mixtures" / warm["name"]),
        registry.find("checks", "tool_calls"),
        Options(),
        heldout_tools=0.1,
    )
    model, stages = str(last / warm["model"]), []
    for number in range(1, spec.rounds + 1):
        settings = Train(
            model=model, sequence_length=256, batch_tokens=4096, learning_rate=spec.more_rate, steps=spec.steps,
            device="cpu",
        )  # fmt: skip
        out = folder / f"more-{seed}-{number}"
        step = sorted(last.glob("warmup-*"))[-1]
        facts = train(step / "mixture", settings, out=out, seed=seed * 1000 + number)
        model = str(out)
        policy = Policy(model, settings, folder / ".mixtura" / "replies")
        first = measure(
            Policy(last / warm["model"], settings, folder / ".mixtura" / "replies").model, who.heldout, max_tokens=40
        )
        found = measure(policy.model, who.heldout, max_tokens=40)
        read = [json.loads(x).get("tokens", 0) for x in (out / "metrics.jsonl").read_text().splitlines()]
        stages.append({"measured": {k: v.facts() for k, v in found.items()}, "tokens": sum(read), "pairs": 0,
                       "kept": kept(first["rows"], found["rows"]), "steps": facts["steps"]})  # fmt: skip
    return {"stages": [warm["stages"][0], *stages]}


def table(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown: mean and range over seeds of the pass rates, by arm and round."""
    lines = [
        "| arm | round | held-out rows | held-out tools | kept | pairs | tokens read |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, runs in results.items():
        for number in range(len(runs[0]["stages"])):
            stages = [r["stages"][number] for r in runs]
            sets = [
                [100 * s["measured"][k]["rate"] for s in stages]
                for k in ("rows", "tools")
                if k in stages[0]["measured"]
            ]
            said = [f"{np.mean(v):.1f} % ({min(v):.1f} to {max(v):.1f})" for v in sets]
            keep = [100 * s["kept"] for s in stages if s.get("kept") is not None]
            lines.append(
                f"| {arm} | {number} | {' | '.join(said)} | {f'{np.mean(keep):.1f} %' if keep else '–'} | "
                f"{np.mean([s['pairs'] for s in stages]):.0f} | {np.mean([s['tokens'] for s in stages]):,.0f} |"
            )
    return lines


def main() -> None:
    """Run every arm with every seed; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; kept, so that a run can go on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--tried", type=int, default=300, help="rows that a round puts to the model")
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--loss", default="dpo")
    parser.add_argument("--beta", type=float, default=None)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--more-rate", type=float, default=2e-4)
    parser.add_argument("--answers-rate", type=float, default=5e-4)
    parser.add_argument("--nll", type=float, default=1.0)
    parser.add_argument("--arms", nargs="*", default=[*ARMS, MORE])
    parser.add_argument("--quick", action="store_true")
    spec = parser.parse_args()
    if spec.quick:
        spec.seeds, spec.rounds, spec.rows, spec.width, spec.epochs = 1, 1, 300, 48, 3
    torch.set_num_threads(1)
    folder = spec.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    count = write_pool(spec.data / "sgd", folder, spec.rows)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in spec.arms}
    for seed in range(spec.first, spec.first + spec.seeds):
        # a seed's warm model and arms share one split: another seed's held-out rows were in this one's warm-up
        warm = mined(
            folder, recipe(f"warm-{seed}", start_model(folder, spec.width, seed), seed, spec, warmup=2, rounds=0)
        )
        for arm in spec.arms:
            if arm == MORE:
                results[arm].append(more(folder, warm, seed, spec))
                continue
            begin = str(Path(warm["folder"]) / warm["model"])
            tree = recipe(
                f"{arm.replace(', ', '-')}-{seed}", begin, seed, spec, warmup=0, rounds=spec.rounds, **ARMS[arm]
            )
            results[arm].append(mined(folder, tree))
        print("\n".join(table({a: r for a, r in results.items() if r})), flush=True)
    if spec.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    rates = {a: [[s["measured"]["rows"]["rate"] for s in r["stages"]] for r in runs] for a, runs in results.items()}
    print(json.dumps({"rows": count, "seeds": spec.seeds, "pass_rate_by_round": rates}))


if __name__ == "__main__":
    main()
