"""A mixture's indicator as one token of the model: conditional fine-tuning (Wang et al. 2024, section 3.2).

The new token starts as the mean of the tokens that the model knows, in the input and in the output embedding. Its
first logit is then the mean of the others, so its probability is at most 1 / (V + 1) of any distribution that the
model had over V tokens, and no answer becomes less likely by more than the factor V / (V + 1): Hewitt 2021,
Initializing New Word Embeddings for Pretrained Language Models. Differs: no noise around the mean, so that the start
does not depend on a seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken

from mixtura.errors import InputError
from mixtura.trainer.model import Loaded


def indicator_of(mixture: Path) -> str | None:
    """The indicator that a mixture's rows are marked with; None where there are no marks.

    Raises:
        InputError: the mixture's summary is damaged.
    """
    path = mixture / "summary.json"
    if not path.is_file():  # a folder of Parquet that no run of ours wrote
        return None
    try:
        marks = json.loads(path.read_text(encoding="utf-8")).get("marks")
        return None if marks is None else str(marks["indicator"])
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as e:
        thing = f"mixture file {path.name!r}"
        raise InputError(thing, "must be what `mixtura run` wrote", got=str(e), next_step="Run it again") from e


def add_indicator(loaded: Loaded, indicator: str) -> int:
    """Make the indicator one token of tokenizer and model; nothing changes where it is one already.

    It is an ordinary token, not a special one: a user's text may hold it, and decoding shows it. Padding rows that
    some models keep behind their vocabulary are used before the embedding grows.

    Args:
        loaded: a model and its tokenizer; both are changed.
        indicator: the mixture's.

    Returns:
        The token's id.

    Raises:
        InputError: the tokenizer cannot take the token, or gives it away to a neighbour.
    """
    tokenizer, model = loaded.tokenizer, loaded.model
    known = len(tokenizer)
    if indicator not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(indicator, normalized=False)])
        if len(tokenizer) > int(model.get_input_embeddings().num_embeddings):  # pyright: ignore[reportArgumentType]
            # the library's own start is drawn at random from a normal distribution around the mean
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        _start(model, tokenizer.get_vocab()[indicator], known)
    token = tokenizer.get_vocab()[indicator]
    made: Any = tokenizer(f"text {indicator}", add_special_tokens=False)["input_ids"]
    if list(made).count(token) != 1 or made[-1] != token:
        step = "Choose another indicator in mix.marks, and run again"
        raise InputError("tokenizer", f"must read {indicator!r} as one token", got=made, next_step=step)
    return token


@torch.no_grad()
def _start(model: Any, token: int, known: int) -> None:
    """Set the token's rows to the mean of the first `known` rows, in float64."""
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inside] + ([outside] if outside is not None and outside.weight is not inside.weight else [])
    tensors = [layer.weight for layer in layers]
    if (bias := getattr(outside, "bias", None)) is not None:
        tensors.append(bias)
    for tensor in tensors:
        tensor[token] = tensor[:known].double().mean(0).to(tensor.dtype)
