"""Load a causal LM and its tokenizer safely, or make a tiny one from a config and the mixture's own texts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mixtura.errors import InputError
from mixtura.recipe import TinyModel, Train
from mixtura.store import seal, sync_folder
from mixtura.trainer.chat import ROLES, TEMPLATE

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
SPECIAL = [PAD, START, END, *(f"<|{role}|>" for role in ROLES)]
POSITIONS = 8192  # longest sequence a tiny model accepts; rotary positions cost no parameters
TOKENIZER_CHARS = 30_000_000  # the tokenizer learns from the first so many; counts of pairs settle long before


@dataclass(frozen=True)
class Loaded:
    """A model in float32, its tokenizer, and the type that its weights had on disk."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no advice from transformers inside; the caller's settings return after it."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load(spec: Train, folder_or_name: str) -> Loaded:
    """Load by folder or name: safetensors only, no code from the model's repository.

    Raises:
        InputError: no such model, pickled weights, custom code, too short a context, or a tokenizer that the model's
            embedding does not cover.
    """
    thing = f"train.model {folder_or_name!r}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_name, revision=spec.revision, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder_or_name, revision=spec.revision, trust_remote_code=False, use_safetensors=True, dtype="auto"
        )
    except (OSError, ValueError, ImportError, KeyError) as e:
        raise InputError(
            thing,
            "must be a causal LM that transformers loads without custom code, with safetensors weights and a tokenizer",
            got=str(e).strip().splitlines()[0],
            next_step="Name a model's folder, or a model of the hub",
        ) from e
    dtype = model.dtype
    model.float()
    rows = int(model.get_input_embeddings().num_embeddings)  # pyright: ignore[reportArgumentType]
    if len(tokenizer) > rows:
        raise InputError(thing, f"must embed all {len(tokenizer)} tokens of its tokenizer", got=rows)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and spec.sequence_length > limit:
        raise InputError("train.sequence_length", f"must be at most the model's {limit}", got=spec.sequence_length)
    return Loaded(model, tokenizer, dtype)


def prepare_tiny(texts: Iterable[str], spec: TinyModel, out: Path, *, seed: int) -> Path:
    """Make a small Llama-shaped model with a tokenizer trained on `texts`, and save both.

    Two mixtures can then be trained from the same weights with the same tokens.

    Args:
        texts: what the tokenizer learns from, first `TOKENIZER_CHARS` characters; order does not matter below that.
        spec: layers, width, heads, vocabulary.
        out: folder to write, whole or not at all; an existing one is replaced.
        seed: of the weights.

    Returns:
        `out`, which `AutoModelForCausalLM.from_pretrained` loads.

    Raises:
        InputError: the vocabulary is too small for bytes and control tokens, or there is no text.
    """
    with quiet():
        tokenizer = train_tokenizer(texts, spec.vocabulary)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(_tiny_config(spec, tokenizer))
        draft = out.with_name(f".{out.name}.draft")
        save(Loaded(model, tokenizer, torch.float32), draft)
    replace_folder(draft, out)
    return out


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every string has tokens, so nothing is unknown.

    Raises:
        InputError: vocabulary below 256 bytes and the control tokens, or no text at all.
    """
    smallest = 256 + len(SPECIAL)
    if vocabulary < smallest:
        raise InputError(
            "train.model.vocabulary", f"must be at least {smallest} (bytes, control tokens)", got=vocabulary
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = _limited(texts, TOKENIZER_CHARS)
    if not (first := next(sample, None)):
        raise InputError("mixture", "must hold text to train a tokenizer on", got="none")
    backend.train_from_iterator(_chain(first, sample), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def save(loaded: Loaded, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer into a new folder, and sync them to disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nn.Module.to(loaded.model, dtype=loaded.dtype)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            seal(path)


def replace_folder(draft: Path, final: Path) -> None:
    """Put a finished folder under its final name; an earlier one goes."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(draft, final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _tiny_config(spec: TinyModel, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=-(-8 * spec.width // 3 // 32) * 32,  # SwiGLU's 8/3 of the width (Shazeer 2020), aligned
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),  # control tokens come first in the vocabulary
        bos_token_id=SPECIAL.index(START),
        eos_token_id=SPECIAL.index(END),
    )


def _limited(texts: Iterable[str], chars: int) -> Iterator[str]:
    for text in texts:
        if chars <= 0:
            return
        if text:
            yield text[:chars]
            chars -= len(text)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
