"""Texts per second of the encoder stage against plain `SentenceTransformer.encode`, on real text of mixed length.

    python -m benchmarks.embedding [--data DIR] [--quick] [--texts 512] [--rounds 4] [--model FOLDER]

The encoder is a BERT of MiniLM's size (6 layers of 384) with random weights: its speed is that of a trained one. All
contestants take turns on the same texts, and a ratio is the median over turns, because neighbours move single runs by
a third. `products` is the bare matrix product of the model's linear layers for the texts' own tokens: nothing exact can
be faster. With a GPU the same once more there. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.corpora import texts_of
from benchmarks.models import random_encoder
from mixtura.pipeline.embed import fit_encoder, load_encoder
from mixtura.pipeline.embed.packed import tiles
from mixtura.pipeline.embed.sentence import SentenceEncoder
from mixtura.pipeline.work import Workers
from mixtura.recipe import Embed
from mixtura.store import Store
from mixtura.trainer.model import quiet

PLAIN_BATCH = 32  # the library's own default
MANY = 10_000  # texts whose padding is counted, without computing them
CHECKED = 64  # texts whose vectors are compared


@dataclass
class Turns:
    """Wall and CPU seconds of contestants that take turns."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def play(self, contestants: dict[str, Callable[[], Any]], rounds: int) -> None:
        """Run everyone `rounds` times, each round starting with another."""
        names = list(contestants)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                wall, cpu = time.perf_counter(), time.process_time()
                contestants[name]()
                self.wall.setdefault(name, []).append(time.perf_counter() - wall)
                self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def ratio(self, slow: str, fast: str, *, cpu: bool = False) -> float:
        """Median over turns of one's seconds by another's."""
        took = self.cpu if cpu else self.wall
        return statistics.median(a / b for a, b in zip(took[slow], took[fast], strict=True))

    def rate(self, name: str, texts: int) -> float:
        """Texts per second, the median turn's."""
        return texts / statistics.median(self.wall[name])

    def table(self, title: str, texts: int, base: str, *, alone: bool = True) -> None:
        """Print a line per contestant; with CPU seconds where this process does all the work alone."""
        print(
            f"\n{title:34}{'texts/s':>9}{'wall s':>9}{'× ' + base:>12}", f"{'CPU s':>8}{'by CPU':>9}" if alone else ""
        )
        for name in self.wall:
            wall, cpu = (statistics.median(kind[name]) for kind in (self.wall, self.cpu))
            print(f"{name:34}{texts / wall:9.1f}{wall:9.2f}{self.ratio(base, name):12.2f}", end="")
            print(f"{cpu:9.2f}{self.ratio(base, name, cpu=True):9.2f}" if alone else "", flush=True)


def mixed_texts(data: Path | None, folder: Path) -> list[str]:
    """Up to 2,000 texts each of kinds from 40 characters to 5,000 in many scripts, in an order by hash."""
    readers = texts_of(data, MANY, folder)
    if data:
        readers |= _short_texts(data)
        readers["titles"] = (text.split("\n")[0] for text in texts_of(data, MANY, folder)["arxiv"])
    texts = {text for reader in readers.values() for text in islice(reader, 2_000 if data else MANY) if text}
    return sorted(texts, key=lambda t: hashlib.blake2b(t.encode("utf-8", "surrogatepass")).digest())


def _short_texts(data: Path) -> dict[str, Iterator[str]]:
    """Manual pages, poems, school problems, and news sentences in a dozen languages."""
    pages = sorted(data.glob("tldr_pages/pages*/*/*.md"), key=lambda p: hashlib.blake2b(str(p).encode()).digest())
    poems = sorted(data.glob("chinese_poetry/*/poet.tang*.json"))
    problems = data / "gsm8k/grade_school_math/data/train.jsonl"
    news = sorted(data.glob("ntrex/NTREX-128/*.txt"))[::10]
    return {
        "tldr": (page.read_text("utf-8") for page in pages),
        "poems": ("".join(p["paragraphs"]) for file in poems for p in json.loads(file.read_text("utf-8"))),
        "problems": (json.loads(line)["question"] for line in problems.open(encoding="utf-8")),
        "news": (line for file in news for line in file.read_text("utf-8").splitlines()[:150]),
    }


def padding(lengths: np.ndarray, texts: Sequence[str], encoder: SentenceEncoder) -> dict[str, float]:
    """Tokens computed by tokens of the texts: plain batches (sorted by characters) and tiles."""
    order = np.argsort([-len(t) for t in texts], kind="stable")
    parts = [lengths[order[i : i + PLAIN_BATCH]] for i in range(0, len(texts), PLAIN_BATCH)]
    plain = sum(int(p.max()) * len(p) for p in parts)
    packed = sum(t.size for t in tiles(lengths.tolist(), encoder.batch_tokens, encoder.window))
    return {"plain": plain / int(lengths.sum()), "packed": packed / int(lengths.sum())}


def products(model: Path, tokens: int, device: str, tile: int) -> Callable[[], None]:
    """The matrix products of the linear layers for so many tokens, a tile at a time, in the encoder's dtype."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    make = lambda *shape: torch.randn(*shape, device=device, dtype=dtype)  # noqa: E731
    square, up, down = make(width, width), make(inner, width), make(width, inner)
    narrow, wide = make(tile, width), make(tile, inner)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(layers * max(1, round(tokens / tile))):
                for _ in range(4):
                    torch.nn.functional.linear(narrow, square)
                torch.nn.functional.linear(narrow, up)
                torch.nn.functional.linear(wide, down)
            if device == "cuda":
                torch.cuda.synchronize()

    return run


def _encoder(model: Path, device: str) -> SentenceEncoder:
    return SentenceEncoder(
        str(model), "not needed", max_chars=Embed().max_chars, device=device, batch_tokens=Embed().batch_tokens
    )


def _stop_packing(encoder: SentenceEncoder) -> None:
    """What the encoder was before it packed."""
    if encoder.packed is not None:
        encoder.packed.restore()
        encoder.packed = None


def contest(model: Path, texts: Sequence[str], device: str, rounds: int) -> tuple[Turns, dict[str, Any]]:
    """Everyone on one device; on a CPU with one thread, as the pipeline runs its processes."""
    encoder, padded = (_encoder(model, device) for _ in range(2))
    assert encoder.packed is not None, "this model cannot be packed here"
    _stop_packing(padded)
    plain = SentenceTransformer(str(model), device=device)
    lengths = np.array([len(i) for i in encoder.model.tokenizer(list(texts), truncation=True)["input_ids"]])
    tuned = 512 if device == "cuda" else 8

    contestants: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.encode(list(texts), normalize_embeddings=True),
        f"plain, batches of {tuned}": lambda: plain.encode(list(texts), batch_size=tuned, normalize_embeddings=True),
        "ours, padded batches": lambda: padded.encode(texts),
        "ours": lambda: encoder.encode(texts),
        "products": products(model, int(lengths.sum()), device, encoder.batch_tokens),
        "tokenising": lambda: encoder.model.tokenizer(list(texts), truncation=True),
    }
    if device == "cuda":
        half = SentenceTransformer(str(model), device=device, model_kwargs={"dtype": torch.bfloat16})
        run = lambda: half.encode(list(texts), batch_size=tuned, normalize_embeddings=True)  # noqa: E731
        contestants[f"plain, bf16, batches of {tuned}"] = run
    turns = Turns()
    encoder.encode(texts[:CHECKED]), plain.encode(list(texts[:CHECKED]))  # warm up
    turns.play(contestants, rounds)
    some = list(texts[:CHECKED])
    ours, again = encoder.encode(some), encoder.encode(some[::-1])[::-1]
    error = np.abs(ours - plain.encode(some, normalize_embeddings=True)).max()
    return turns, {
        "texts": len(texts),
        "tokens": int(lengths.sum()),
        "texts_per_s": turns.rate("ours", len(texts)),
        "plain_texts_per_s": turns.rate("plain", len(texts)),
        "speedup": turns.ratio("plain", "ours"),
        "speedup_by_cpu": turns.ratio("plain", "ours", cpu=True),
        "speedup_tuned_plain": turns.ratio(f"plain, batches of {tuned}", "ours"),
        "over_products": turns.ratio("ours", "products", cpu=device == "cpu"),
        "largest_difference": float(error),
        "bits_moved_by_order": int((ours != again).any(axis=1).sum()),
        "padding": padding(lengths, texts, encoder),
    }


def encode_part(job: tuple[str, list[str]]) -> int:
    """One worker's share; the encoder is loaded once per process."""
    return len(load_encoder(Embed(encoder=job[0], device="cpu")).encode(job[1]))


def contest_of_cores(model: Path, texts: Sequence[str], rounds: int) -> Turns:
    """The whole machine: plain with a thread per core, ours with a process per core."""
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    plain = SentenceTransformer(str(model), device="cpu")
    jobs = [(str(model), list(texts[i :: 4 * cores])) for i in range(4 * cores)]
    turns = Turns()
    with Workers(cores) as workers:
        workers.map(encode_part, [(model_texts[0], ["warm up"]) for model_texts in jobs])
        turns.play(
            {
                "plain": lambda: plain.encode(list(texts), normalize_embeddings=True),
                "ours": lambda: workers.map(encode_part, jobs),
            },
            rounds,
        )
    return turns


def fitted_rate(texts: Sequence[str], folder: Path) -> float:
    """Texts per CPU second of the fitted encoder, fitted to 2,000 of them; the quickest of three."""
    spec = Embed()
    encoder = load_encoder(spec, fit_encoder(spec, texts[:2_000], seed=0, store=Store(folder), inputs=["texts"]))
    turns = Turns()
    turns.play({"fitted": lambda: encoder.encode(texts)}, 3)
    return len(texts) / min(turns.cpu["fitted"])


def measure(data: Path | None, model: Path | None, texts: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All figures, printed as tables on the way."""
    everything = mixed_texts(data, folder / "texts")
    model = model or random_encoder(everything, folder / "encoder", vocabulary=30_000)
    some = everything[:texts]
    torch.set_num_threads(1)
    turns, figures = contest(model, some, "cpu", rounds)
    turns.table("CPU, one thread", len(some), "plain")
    encoder = _encoder(model, "cpu")
    many = everything[:MANY]
    lengths = np.array([len(i) for i in encoder.model.tokenizer(many, truncation=True)["input_ids"]])
    print(f"\ntokens of {len(many):,} texts, percentiles 5 25 50 75 95:", np.percentile(lengths, [5, 25, 50, 75, 95]))
    figures["padding_of_many"] = padding(lengths, many, encoder)
    cores = contest_of_cores(model, some, rounds)
    cores.table(f"CPU, {os.cpu_count()} cores", len(some), "plain", alone=False)
    figures["speedup_all_cores"] = cores.ratio("plain", "ours")
    figures["texts_per_s_all_cores"] = cores.rate("ours", len(some))
    figures["fitted_texts_per_cpu_s"] = fitted_rate(many[:4_000], folder / "store")
    figures["gpu"] = None
    if torch.cuda.is_available():
        turns, figures["gpu"] = contest(model, everything, "cuda", rounds)
        turns.table(torch.cuda.get_device_name(), len(everything), "plain")
    return figures


def rounded(value: Any) -> Any:
    """Floats to four significant digits, all the way down."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked real data; else docstrings")
    parser.add_argument("--model", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--texts", type=int, default=512, help="that the CPU embeds; a GPU takes all there are")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each contestant")
    parser.add_argument("--quick", action="store_true", help="256 texts, 2 turns: 2 minutes on a free core")
    given = parser.parse_args()
    texts, rounds = (256, 2) if given.quick else (given.texts, given.rounds)
    with tempfile.TemporaryDirectory() as inside, quiet():
        print(json.dumps(rounded(measure(given.data, given.model, texts, rounds, Path(inside)))))


if __name__ == "__main__":
    main()
