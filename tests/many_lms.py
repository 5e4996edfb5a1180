"""Causal LMs of several shapes with random weights, each on disk with the tokenizer of `tiny_lm`."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tiny_lm import tiny_lm

from mixtura.pipeline.lm import CausalLM

WINDOW = 12  # of the shapes that slide
COMMON = {"vocab_size": 304, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ROTARY = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", ROTARY | {"num_key_value_heads": 4}),
    "llama-grouped": ("Llama", ROTARY | {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2", ROTARY | {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3", ROTARY | {"num_key_value_heads": 1, "head_dim": 16}),
    "mistral-sliding": ("Mistral", ROTARY | {"num_key_value_heads": 2, "sliding_window": WINDOW}),
    "gemma2": (
        "Gemma2",
        ROTARY
        | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0}
        | {"query_pre_attn_scalar": 8},
    ),
    "gpt2": ("GPT2", COMMON | {"n_positions": 512, "n_embd": 32, "n_layer": 4, "n_head": 4}),
    "gpt-neox": ("GPTNeoX", ROTARY | {"rotary_pct": 0.5}),
}


@cache
def folder(shape: str) -> str:
    """The model's folder, made once per process and gone with it."""
    name, settings = SHAPES[shape]
    torch.manual_seed(len(shape))
    model = tf.AutoModelForCausalLM.from_config(getattr(tf, f"{name}Config")(**settings))
    with torch.no_grad():
        for weight in model.parameters():  # larger than models start with: attention that prefers something
            weight.mul_(4 if weight.ndim > 1 else 1)
    home = Path(tempfile.mkdtemp()) / "lm"
    atexit.register(shutil.rmtree, home.parent, ignore_errors=True)
    model.save_pretrained(home)
    tf.AutoTokenizer.from_pretrained(tiny_lm()).save_pretrained(home)
    return str(home)


@cache
def opened(shape: str, batch_tokens: int = 128, max_tokens: int = 256) -> CausalLM:
    """As `lm.open_model` would open it on a CPU."""
    return CausalLM(folder(shape), max_tokens=max_tokens, device="cpu", batch_tokens=batch_tokens)
