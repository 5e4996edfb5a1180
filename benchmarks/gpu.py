"""CPU against GPU: the same answers, and how fast each is. `benchmarks/gpu.sh` runs it with the tests that need a GPU.

    python -m benchmarks.gpu [--data DIR] [--rows 5000] [--model FOLDER] [--steps 100] [--index-rows 200000]

Without `--model` the encoder is a BERT of MiniLM's size (6 layers of 384) with random weights: its speed is that of a
trained one. Without a GPU both sides are the CPU, which tries the code. Ends with exit code 1 where a check fails; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import embedding
from benchmarks.corpora import gather
from benchmarks.models import random_encoder
from mixtura.pipeline.embed import load_encoder
from mixtura.pipeline.index import Index
from mixtura.pipeline.transport import median_cost, soft_distances, solve_prices
from mixtura.recipe import Embed, TinyModel, Train
from mixtura.trainer import prepare_tiny, train
from mixtura.trainer.model import quiet

R = TypeVar("R")
COSINE_TOLERANCE = 0.01  # bf16 keeps 8 bits: the bound that embed/sentence.py states
LOSS_TOLERANCE = 0.05  # nats per token after the same steps, bf16 autocast against f32
TOP = 0.1  # of the rows are picked


class Figures:
    """What was measured, printed as it comes; `failed` names the checks that did not hold."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.failed: list[str] = []

    def note(self, name: str, value: Any) -> None:
        """Keep and print a figure."""
        self.values[name] = round(value, 5) if isinstance(value, float) else value
        print(f"{name:32}{self.values[name]}", flush=True)

    def check(self, name: str, value: float, holds: bool) -> None:
        """Keep and print a figure that must hold."""
        self.note(name, value)
        if not holds:
            self.failed.append(name)

    def timed(self, name: str, n: int, work: Callable[[], R]) -> R:
        """Run and note n per second."""
        began = time.perf_counter()
        result = work()
        self.note(name, n / (time.perf_counter() - began))
        return result


def other_device() -> Literal["cpu", "cuda"]:
    """The device that is compared with the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def sides() -> tuple[tuple[str, Literal["cpu", "cuda"]], ...]:
    """The name of each side and its device."""
    return ("cpu", "cpu"), ("gpu", other_device())


def compare_encoders(figures: Figures, model: Path, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Vectors of both devices, f32[n, d]; inner products must agree, and the order of rows must not matter."""
    found: dict[str, np.ndarray] = {}
    for side, device in sides():
        encoder = load_encoder(Embed(encoder=str(model), device=device))
        encoder.encode(texts[:64])  # warm up
        vectors = figures.timed(f"embed_rows_per_s_{side}", len(texts), lambda e=encoder: e.encode(texts))
        found[side] = vectors
        again = encoder.encode(list(reversed(texts[:500])))[::-1]
        figures.check(f"embed_moved_by_order_{side}", moved := float(np.abs(again - vectors[:500]).max()), moved == 0.0)
    some = slice(0, 1_000)
    inner = [found[s][some] @ found[s][some].T for s in ("cpu", "gpu")]
    figures.check(
        "embed_inner_product_error", worst := float(np.abs(inner[0] - inner[1]).max()), worst <= COSINE_TOLERANCE
    )
    return found


def compare_encoding_speed(figures: Figures, model: Path, texts: Sequence[str]) -> None:
    """Packed tiles against plain `SentenceTransformer.encode` by turns; see `benchmarks.embedding`."""
    device = other_device()
    some = texts if device == "cuda" else texts[:30]  # the CPU only tries the code
    turns, found = embedding.contest(model, some, device, rounds=3 if device == "cuda" else 1)
    turns.table(device, len(some), "plain")
    for name in ("texts_per_s", "plain_texts_per_s", "speedup", "speedup_tuned_plain", "over_products"):
        figures.note(f"embedding_{name}", found[name])


def compare_index(figures: Figures, vectors: np.ndarray, k: int = 10) -> None:
    """Exact search must give the same positions and bits on both devices; queries are the first rows themselves."""
    queries, answers = vectors[:1_000], []
    devices: tuple[tuple[str, Literal["cpu", "auto"]], ...] = (("cpu", "cpu"), ("gpu", "auto"))
    for side, device in devices:
        index = Index(vectors, device=device)
        index.search(queries[:8], k)  # warm up
        figures.note(f"index_device_{side}", index.device)
        rate = f"index_queries_per_s_{side}"
        answers.append(figures.timed(rate, len(queries), lambda i=index: i.search(queries, k)))
    different = sum(int((a != b).sum()) for a, b in zip(*answers, strict=True))
    figures.check("index_differences", different, different == 0)


def compare_picks(figures: Figures, vectors: dict[str, np.ndarray], targets: int) -> None:
    """Share of nudge's picks that both devices' vectors agree on; bf16 moves rows at the border, so only noted."""
    picks = []
    for side in ("cpu", "gpu"):
        y, x = vectors[side][:targets], vectors[side][targets:]
        epsilon = 0.03 * median_cost(x, y)
        prices = solve_prices(x[:5_000], y, epsilon=epsilon, tolerance=1e-3)
        soft = soft_distances(x, y, prices.price, epsilon=epsilon).soft
        picks.append(set(np.argsort(soft, kind="stable")[: round(TOP * len(x))].tolist()))
    figures.note("picks_in_common", len(picks[0] & picks[1]) / max(1, len(picks[0])))


def compare_trainers(figures: Figures, texts: Sequence[str], folder: Path, tiny: TinyModel, steps: int) -> None:
    """The same model from the same start on both devices: held-out losses must agree."""
    mixture, held = folder / "mixture", len(texts) // 10
    for split, rows in (("train", texts[held:]), ("validation", texts[:held])):
        (mixture / split).mkdir(parents=True)
        pq.write_table(pa.table({"text": list(rows)}), mixture / split / "rows.parquet")
    prepare_tiny(texts, tiny, folder / "start", seed=1)
    after = []
    for side, device in sides():
        spec = Train(model=str(folder / "start"), device=device, steps=steps, sequence_length=256, batch_tokens=4_096)
        tokens = steps * spec.batch_tokens
        work = lambda s=spec, n=side: train(mixture, s, out=folder / f"model-{n}", seed=1)  # noqa: E731
        facts = figures.timed(f"train_tokens_per_s_{side}", tokens, work)
        losses = facts["heldout"]["validation"]
        after.append(losses["after"]["loss"])
        learned = losses["before"]["loss"] - losses["after"]["loss"]
        figures.check(f"train_loss_fell_{side}", learned, learned > 0)
    figures.check("train_loss_difference", gap := abs(after[0] - after[1]), gap <= LOSS_TOLERANCE)


def random_units(n: int, d: int) -> np.ndarray:
    """f32[n, d], unit L2 norm."""
    vectors = np.random.default_rng(0).standard_normal((n, d), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the unpacked real data; else docstrings")
    parser.add_argument("--rows", type=int, default=5_000, help="texts that both devices embed")
    parser.add_argument("--model", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--steps", type=int, default=100, help="of the trainer")
    parser.add_argument("--index-rows", type=int, default=200_000, help="random unit vectors beside them in the index")
    parser.add_argument("--layers", type=int, default=6, help="of the random encoder and of the trained model")
    given = parser.parse_args()
    figures = Figures()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: the CPU stands in"
    figures.note("gpu", name)
    with tempfile.TemporaryDirectory() as inside, quiet():
        folder = Path(inside)
        targets, rows = gather(given.data, given.rows, folder / "texts")
        texts = [*targets, *(r["text"] for r in rows)]
        model = given.model or random_encoder(texts, folder / "encoder", layers=given.layers)
        vectors = compare_encoders(figures, model, texts)
        compare_encoding_speed(figures, model, texts)
        compare_index(
            figures, np.concatenate([vectors["cpu"], random_units(given.index_rows, vectors["cpu"].shape[1])])
        )
        compare_picks(figures, vectors, len(targets))
        tiny = TinyModel(layers=given.layers, width=384, heads=6, vocabulary=4_096)
        compare_trainers(figures, texts[:5_000], folder, tiny, given.steps)
    print(json.dumps(figures.values | {"failed": figures.failed}))
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main())
