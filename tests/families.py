"""Small random models of several families, with one tokenizer and real files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from tiny_lm import tiny_lm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from mixtura.generation.local import LocalModel
from mixtura.pipeline import lm

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = SIZE | {"num_key_value_heads": 2, "max_position_embeddings": 512}
WINDOW = 12  # of the sliding ones: shorter than every prompt of the tests
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=512),
}  # fmt: skip


@cache
def folder(family: str) -> str:
    home = Path(tempfile.mkdtemp()) / family
    atexit.register(shutil.rmtree, home.parent, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm())
    config = CONFIGS[family]
    # loaded as Qwen2's, the tokenizer has a token more
    config.update({
        "vocab_size": len(tokenizer) + (family == "qwen2"), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    })  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = AutoModelForCausalLM.from_config(config)
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name and "wte" not in name:
                weight.data.mul_(6)  # else every token is as likely as the next
    model.save_pretrained(home)
    tokenizer.save_pretrained(home)
    return str(home)


def opened(path: str, **options) -> LocalModel:
    spec = lm.Spec.model_validate({"model": path, "device": "cpu"} | options)
    return LocalModel(lm.open_model(spec), lm.locate(spec, path, key="model"))
