"""The context selector on a GPU: tokens a second of a 1B-shaped model, and the ways of summing against each other.

    python -m benchmarks.context_gpu

The model has TinyLlama's shape and random weights, in bfloat16. Without a GPU a model of 4 layers of 64 stands in, in
float32, which tries the code. Tokens a second come with their share of the card's matrix rate. Ends with exit code 1
where the ways differ by more than bfloat16 rounds; the last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixtura.pipeline.attention.conversation import Answer, Reading
from mixtura.pipeline.attention.options import RESPONSE, USER, Way
from mixtura.pipeline.attention.reader import AttentionReader
from mixtura.pipeline.lm import CausalLM

LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": 4}
TOLERANCE = 5e-3  # of a mass: the kernel rounds its sums to bfloat16, by 2.8e-3 at most where it was measured


def saved(shape: dict[str, int], folder: Path, vocabulary: int, heads: int) -> str:
    """A Llama with random weights, and a tokenizer, in a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from mixtura.trainer.model import train_tokenizer

    torch.manual_seed(0)
    options = {**shape, "num_key_value_heads": heads, "vocab_size": vocabulary, "max_position_embeddings": 8192}
    LlamaForCausalLM(LlamaConfig(**options)).save_pretrained(folder)
    train_tokenizer(["salt and butter"], 300).save_pretrained(folder)
    return str(folder)


def readings(length: int, count: int) -> list[Reading]:
    """Conversations of random tokens: half is the user's, half the answer's."""
    rng = np.random.default_rng(length)
    kinds = np.r_[0, np.full(length // 2 - 1, USER), np.full(length - length // 2, RESPONSE)].astype(np.int8)
    answers = (Answer(1, length // 2, length),)
    return [Reading(rng.integers(10, 200, length).astype(np.int32), kinds, answers) for _ in range(count)]


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall clock of the second run; the first warms up."""
    for _ in range(2):
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - begin


def matrix_rate(device: str) -> float:
    """Operations a second of a large product in the model's type."""
    n, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device)


def operations(shape: dict[str, int], heads: int, layers: int, length: int) -> float:
    """Of a token in the layers before the probed one: two for each weight, and attention to half the length."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width * heads // shape["num_attention_heads"]
    return layers * (2 * (2 * width**2 + 2 * width * keys + 3 * width * inner) + 2 * width * length)


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, heads = (LARGE, 4) if device == "cuda" else (SMALL, 2)
    lengths, tokens = ((512, 2048, 8192), 1 << 18) if device == "cuda" else ((64, 256), 1 << 10)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    rate = matrix_rate(device)
    with tempfile.TemporaryDirectory() as home:
        folder = saved(shape, Path(home) / "lm", 32_000 if device == "cuda" else 304, heads)
        lm = CausalLM(folder, max_tokens=8192, device=device, batch_tokens=32_768 if device == "cuda" else 512)
        reader = AttentionReader(lm)
        for length in lengths:
            some = readings(length, tokens // length)
            per_second = tokens / seconds(lambda r=some: reader.accounts(r), device)
            share = per_second * operations(shape, heads, reader.layer, length) / rate
            figures |= {f"tokens_per_s_{length}": round(per_second), f"share_of_matrix_rate_{length}": round(share, 4)}
        figures["largest_difference"] = round(_difference(lm, readings(lengths[0], 4)), 6)
    print(json.dumps(figures))
    sys.exit(figures["largest_difference"] > TOLERANCE)


def _difference(lm: CausalLM, some: list[Reading]) -> float:
    """The largest difference of any column between the kernel's sums and the exact ones."""
    ways: tuple[Way, Way] = ("indicator", "rows")
    found = [AttentionReader(lm, way=way).accounts(some) for way in ways]
    pairs = [(a[1], b[1]) for a, b in zip(*found, strict=True)]
    return max(abs(a[c] - b[c]) for a, b in pairs for c in a if c not in ("sinkless", "share"))


if __name__ == "__main__":
    main()
