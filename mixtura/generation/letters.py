"""Score a causal LM on multiple-choice questions: the likeliest letter after the cue, whatever the options' length.

Source: PalmX 2025 (arXiv:2509.02550): argmax of the next token's log-probability over the letters, each with a leading
space. Differs: a tokenizer to which a letter is more than one token is refused rather than scored wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mixtura.errors import InputError
from mixtura.pipeline.multiple_choice import LETTERS


def letter_tokens(tokenizer: Any, count: int) -> list[int]:
    """The token of ` A`, ` B`, ...

    Raises:
        InputError: a letter with its leading space is not one token of its own.
    """
    found = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in LETTERS[:count]]
    wrong = [LETTERS[i] for i, ids in enumerate(found) if len(ids) != 1]
    if wrong or len({ids[0] for ids in found}) < count:
        need = "must have one token for each letter with a leading space"
        raise InputError("tokenizer", need, got=f"more or none for {wrong or LETTERS[:count]}")
    return [ids[0] for ids in found]


@torch.inference_mode()
def letter_log_probabilities(model: Any, tokenizer: Any, prompts: Sequence[str], count: int) -> np.ndarray:
    """How likely each letter is as the next token.

    Args:
        model: a causal LM of transformers, in evaluation mode.
        tokenizer: its tokenizer.
        prompts: from `multiple_choice.Form.prompt`.
        count: options of each question.

    Returns:
        f64[n, count], nats, over the whole vocabulary; the prediction is the argmax of a row. One prompt at a time: a
        row's numbers do not depend on its company.

    Raises:
        InputError: see `letter_tokens`.
    """
    letters = letter_tokens(tokenizer, count)
    scores = np.empty((len(prompts), count))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
        logits = model(input_ids=ids).logits[0, -1].double()
        scores[i] = torch.log_softmax(logits, -1)[letters].cpu().numpy()
    return scores
