"""A causal LM small enough to make in a test: random weights, but a real tokenizer and real files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from generators import COMMON, COOKING, LAW

from mixtura.recipe import TinyModel
from mixtura.trainer.model import prepare_tiny

WORDS = [*COOKING, *LAW, *COMMON]
TEXTS = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 24)) for i in range(1, 40)]


@cache
def tiny_lm() -> str:
    """Folder of a Llama of 20,000 weights and 300 tokens, made once per process and gone with it."""
    home = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return str(prepare_tiny(TEXTS, TinyModel(layers=2, width=24, heads=2, vocabulary=300), home / "lm", seed=3))
