"""What the context selector costs, against a plain pass and the released procedure, and what its scores are worth.

    python -m benchmarks.context [--data DIR] [--model FOLDER] [--quick] [--only costs|auroc] [--rows 30]
        [--seeds 0,1,2] [--sets ...] [--attention] [--keep FILE]

Without `--model` the probe is a Llama of 12 layers of 256 with random weights: its costs are those of a trained one,
its scores are a control. With `--data` the conversations that are timed are real ones at their own lengths; without,
they are docstrings of the standard library, halved, and nothing is labelled. Processor seconds of one thread are
compared, so that other work on the machine counts little. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.context_chats import chats
from benchmarks.context_evidence import by_layer, measure, table
from benchmarks.dedup import ONE_THREAD
from benchmarks.stages import ROOT
from mixtura.pipeline.attention.options import Measure

RELEASED_TOKENS = 2047  # to which the released code pads every conversation
LENGTHS = (512, 1024, 2048, 4096, 8192)
SHAPE = {"layers": 12, "width": 256, "heads": 8, "vocabulary": 4096}
FLAT = {"layers": 3, "width": 256, "heads": 8, "vocabulary": 512}  # memory is that of a layer, not of their number


def probe(texts: list[str], shape: dict[str, int], folder: Path) -> str:
    """A Llama with random weights and a tokenizer that knows the texts."""
    from mixtura.recipe import TinyModel
    from mixtura.trainer.model import prepare_tiny

    return str(prepare_tiny(texts, TinyModel(**shape), folder, seed=0))


def seconds(work: Callable[[], Any]) -> float:
    """Processor seconds."""
    before = time.process_time()
    work()
    return time.process_time() - before


def costs(model: str, conversations: list[list[dict[str, Any]]], *, rounds: int, released: int) -> dict[str, float]:
    """Seconds for each conversation of the fast way, of a plain pass to the same layer, and of the released procedure.

    Args:
        model: folder.
        conversations: each with an answer.
        rounds: of the first two, turn by turn; the median ratio counts.
        released: conversations on which the released procedure is timed: each costs the same, whatever its length.
    """
    from mixtura.pipeline.attention.conversation import Transcriber
    from mixtura.pipeline.attention.reader import AttentionReader
    from mixtura.pipeline.lengths import CPU_TOKENS
    from mixtura.pipeline.lm import CausalLM

    lm = CausalLM(model, max_tokens=2048, device="cpu", batch_tokens=CPU_TOKENS)
    reader, scribe = AttentionReader(lm), Transcriber(lm.tokenizer, lm.window)
    readings = [r for c in conversations for r in scribe.read(c).readings]
    tokens = sum(len(r.tokens) for r in readings)
    fast, plain = [], []
    for at in range(rounds + 1):  # the first warms up
        took = seconds(lambda: reader.accounts(readings)), seconds(lambda: _truncated(reader, readings))
        if at:
            fast.append(took[0])
            plain.append(took[1])
    each = _released(model, readings[:released]) if released else float("nan")
    lengths = statistics.quantiles([len(r.tokens) for r in readings], n=20)
    print(
        f"{len(readings)} conversations, {tokens / len(readings):.0f} tokens on average (5 % to 95 %: {lengths[0]:.0f} "
        f"to {lengths[-1]:.0f}); layer {reader.layer}"
    )
    per = [statistics.median(took) / len(readings) for took in (fast, plain)]
    print(f"seconds each: fast {per[0]:.4f}, plain pass {per[1]:.4f}, released procedure {each:.3f}")
    return {
        "over_truncated_forward": statistics.median(f / p for f, p in zip(fast, plain, strict=True)),
        "speedup_vs_full_attention": each * len(readings) / statistics.median(fast),
        "tokens_per_s": tokens / statistics.median(fast),
    }


def _truncated(reader: Any, readings: Any) -> None:
    """The same batches through the embedding and the layers up to the probed one, that one whole; no head."""
    import torch

    from mixtura.pipeline.threads import one_thread

    config = reader.lm.model.config
    layers, config.num_hidden_layers = config.num_hidden_layers, reader.layer + 1
    try:
        for _, ids in reader._batches(readings, reader.lm.batch_tokens):
            with torch.inference_mode(), one_thread():
                reader.lm.model.base_model(input_ids=ids)
    finally:
        config.num_hidden_layers = layers


def _released(model: str, readings: Any) -> float:
    """Seconds for a conversation by the released procedure: padded, every layer, every attention kept, the head too."""
    import torch
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    took = []
    for reading in readings:
        ids = torch.zeros((1, RELEASED_TOKENS), dtype=torch.int64)
        ids[0, : len(reading.tokens)] = torch.from_numpy(reading.tokens[:RELEASED_TOKENS].astype("int64"))
        mask = torch.zeros_like(ids)
        mask[0, : len(reading.tokens)] = 1
        with torch.inference_mode():
            took.append(seconds(lambda i=ids, m=mask: whole(input_ids=i, attention_mask=m, output_attentions=True)))
    return statistics.median(took)


def memory(lengths: tuple[int, ...]) -> tuple[float, dict[int, float]]:
    """The exponent of peak memory over length, from the shortest to the longest, and MiB beyond the model's own.

    Half of each conversation is the answer, so rows grow with length as well. Measured in a process of its own.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = probe(["salt and butter " * 50], FLAT, Path(home) / "lm")
        command = [sys.executable, "-m", "benchmarks.context", "--peaks", folder, *map(str, lengths)]
        env = {**os.environ, **ONE_THREAD}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"memory could not be measured: {done.stderr[-1000:]}")
    found = {int(n): mib for n, mib in json.loads(done.stdout.splitlines()[-1]).items()}
    shortest, longest = min(found), max(found)
    return math.log(found[longest] / found[shortest]) / math.log(longest / shortest), found


def _print_peaks(folder: str, lengths: list[int]) -> None:
    """Length → MiB of resident memory, at its peak while one conversation is scored, beyond that before the first.

    From short to long, so that memory which a longer one takes has not been held back by the allocator before.
    """
    import numpy as np

    from benchmarks.stages import _forget_peak, _peak_gib
    from mixtura.pipeline.attention.conversation import Answer, Reading
    from mixtura.pipeline.attention.options import RESPONSE, USER
    from mixtura.pipeline.attention.reader import AttentionReader
    from mixtura.pipeline.lm import CausalLM

    reader = AttentionReader(CausalLM(folder, max_tokens=max(lengths), device="cpu", batch_tokens=1), layer=2)

    def score(n: int) -> float:
        kinds = np.r_[np.zeros(1), np.full(n // 2 - 1, USER), np.full(n - n // 2, RESPONSE)].astype(np.int8)
        tokens = np.random.default_rng(0).integers(10, reader.lm.vocabulary, n).astype(np.int32)
        _forget_peak()
        reader.accounts([Reading(tokens, kinds, (Answer(1, n // 2, n),))])
        return 1024 * _peak_gib()

    score(64)  # libraries take their own memory at the first use
    _forget_peak()
    before = 1024 * _peak_gib()
    print(json.dumps({n: round(score(n) - before, 1) for n in sorted(lengths)}))


ATTENTION: frozenset[Measure] = frozenset({"attention"})
CAUSAL: frozenset[Measure] = frozenset({"attention", "gain", "barred"})
SETS: dict[str, frozenset[Measure]] = {"passage matched": CAUSAL, "swapped": CAUSAL} | dict.fromkeys(
    ("input matched", "passage", "input", "twins"), ATTENTION
)  # what is measured on each: the passes of the causal scores are for the sets in which length says nothing


def scored(model: str, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Set → score → AUROC with its 95 % interval; empty without labelled data. Prints both scores' AUROC by layer."""
    if args.data is None:
        return {}
    seeds = [int(s) for s in args.seeds.split(",")]
    with tempfile.TemporaryDirectory() as home:
        keep = args.keep or Path(home) / "values.json"
        wanted = {name: ATTENTION if args.attention else SETS[name] for name in args.sets.split(",")}
        found = measure(model, args.data, args.rows, seeds, keep, wanted)
    for name, rows in found.items():
        print(f"{name}, {len(rows)} rows, by layer:", json.dumps(by_layer(rows)))
    return {name: table(rows) for name, rows in found.items()}


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    if sys.argv[1:2] == ["--peaks"]:
        _print_peaks(sys.argv[2], [int(n) for n in sys.argv[3:]])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked real data")
    parser.add_argument("--model", help="folder of a causal LM; without it, a small one with random weights")
    parser.add_argument("--rows", type=int, default=30, help="of each label and seed, in each labelled set")
    parser.add_argument("--timed", type=int, default=64, help="conversations that are timed")
    parser.add_argument("--seeds", default="0,1,2", help="of the draws of labelled rows")
    parser.add_argument("--sets", default=",".join(SETS), help="labelled sets to measure")
    parser.add_argument("--attention", action="store_true", help="no causal scores: one pass for each row")
    parser.add_argument(
        "--keep", type=Path, help="file of the labelled rows' values; what it has is not measured again"
    )
    parser.add_argument("--only", choices=("costs", "auroc"), help="one half of the benchmark")
    parser.add_argument("--quick", action="store_true", help="fewer rows, sets and seeds")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.timed, args.seeds, args.sets = 24, 32, "0", "passage matched,swapped,passage"
    figures: dict[str, Any] = {"probe": "random" if args.model is None else Path(args.model).name}
    with tempfile.TemporaryDirectory() as home:
        conversations = chats(args.data, args.timed)
        texts = [t["content"] for c in conversations for t in c]
        model = args.model or probe(texts, SHAPE, Path(home) / "lm")
        if args.only != "auroc":
            figures["conversations"] = "docstrings" if args.data is None else "real"
            figures |= costs(model, conversations, rounds=3, released=1 if args.quick else 3)
            figures["memory_exponent"], peaks = memory(LENGTHS)
            print("tokens → MiB:", ", ".join(f"{n} → {mib:.0f}" for n, mib in peaks.items()))
        if args.only != "costs":
            figures["auroc"] = scored(model, args)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
