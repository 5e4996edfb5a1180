"""Small language models for benchmarks: made from nothing, taught by their answers' loss, and quick to learn to copy.

Two choices make a model of two layers learn in a minute what takes byte pairs an hour: a word is the same tokens
wherever it stands, so that copying a value is repeating it; and tools are shown as signatures, a quarter of the tokens
of their JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixtura.recipe import TinyModel
from mixtura.trainer.model import END, PAD, SPECIAL, START

PIECES = Regex(r"\s|[A-Za-z]+|\d|[^\sA-Za-z\d]")
TOOL = "<|tool|>"
TEMPLATE = """\
{%- for t in tools or [] %}{%- set f = t.function if t.function is defined else t %}{{- '<|tool|>' + f.name + '(' \
+ (f.parameters.properties.keys() | join(', ')) + ')' }}{%- endfor %}
{%- for m in messages %}{{- '<|' + m.role + '|>' }}
{%- if m.role == 'assistant' %}{% generation %}{{- m.content + eos_token }}{% endgeneration %}
{%- else %}{{- m.content }}{% endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""


Encoded = tuple[list[int], list[int]]  # tokens of a prompt and of its answer


@dataclass(frozen=True)
class Lesson:
    """A question and its answer. said: what the user says; tools: offered; answer: the text to learn."""

    said: str
    tools: Sequence[dict[str, Any]]
    answer: str


def start(texts: Iterable[str], size: TinyModel, folder: Path, *, seed: int) -> Path:
    """Write a Llama-shaped model with random weights, whose tokenizer cuts words out and learns from `texts`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special, alphabet = [*SPECIAL, TOOL], pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size.vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=START, eos_token=END, chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size.width, intermediate_size=4 * size.width,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        initializer_range=size.width**-0.5, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(folder: Path, lessons: Iterator[Lesson], *, steps: int, batch: int, rate: float, longest: int = 256) -> Path:
    """Go on with a model in place: AdamW, one cycle of the rate; the loss is that of the answers alone.

    Args:
        folder: of the model.
        lessons: endless; those longer than `longest` tokens are passed over.
        steps: of `batch` lessons.
        batch: lessons of a step.
        rate: the highest.
        longest: tokens of prompt and answer.
    """
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    batches = _batches((_encoded(tokenizer, x) for x in lessons), batch, longest)
    model.train()
    for step, rows in enumerate(islice(batches, steps), 1):
        loss = _loss(model, rows, tokenizer.pad_token_id)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step}: loss of answers {loss.item():.4f}", flush=True)
    model.eval().save_pretrained(folder)
    return folder


def _batches(encoded: Iterator[Encoded], size: int, longest: int) -> Iterator[list[Encoded]]:
    """Eight batches at a time, of lessons of like length, or half of a batch would be padding; then in any order."""
    short = (e for e in encoded if len(e[0]) + len(e[1]) <= longest)
    for turn in count():
        several = sorted(islice(short, 8 * size), key=lambda e: len(e[0]) + len(e[1]))
        order = torch.randperm(8, generator=torch.Generator().manual_seed(turn)).tolist()
        yield from (several[k * size : (k + 1) * size] for k in order)


def _encoded(tokenizer: Any, lesson: Lesson) -> Encoded:
    said = [{"role": "user", "content": lesson.said}]
    prompt = tokenizer.apply_chat_template(
        said, tools=list(lesson.tools), tokenize=False, add_generation_prompt=True
    )  # fmt: skip
    before, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, lesson.answer))
    return before, [*answer, tokenizer.eos_token_id]


def _loss(model: Any, rows: Sequence[Encoded], pad: int) -> torch.Tensor:
    """Mean loss per answer token; logits are made where they are read only, or the vocabulary would cost most."""
    ids = torch.full((len(rows), max(len(a) + len(b) for a, b in rows)), pad)
    read = torch.zeros_like(ids, dtype=torch.bool)
    for i, (before, answer) in enumerate(rows):
        ids[i, : len(before) + len(answer)] = torch.tensor(before + answer)
        read[i, len(before) - 1 : len(before) + len(answer) - 1] = True
    hidden = model.model(input_ids=ids).last_hidden_state[read]
    return F.cross_entropy(model.lm_head(hidden), torch.roll(ids, -1, 1)[read])
