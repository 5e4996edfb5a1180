"""A causal LM that reads rows: pooled hidden states, and the loss of their tokens.

Rows are padded on the right to a class of length, and every batch of a class has one shape, filled up with copies.
A causal model's numbers at a token do not depend on what comes after it, so the padding changes nothing and no mask
is needed; that the model is causal is tried out when it is opened. On a CPU (f32, one thread) a row's numbers are
equal bit for bit whatever the shard; on a GPU (bf16) they hold for one card and one library version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.embed.norm import unit
from mixtura.pipeline.lengths import batch_size, length_batches
from mixtura.pipeline.models import find_model, first_line, model_digest, pick_device, pickled_weights
from mixtura.pipeline.threads import one_thread

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIBRARIES = ("torch", "transformers", "tokenizers")
SLICE = 4_096  # rows tokenised at once: bounds memory, and leaves few half-empty batches
CHARS_PER_TOKEN = 32  # text beyond this many per token of the window is not tokenised; English has 4 to 5
LOGITS = 1 << 28  # values of a batch of logits: 1 GiB in f32, unless a single row has more
PROBE = 8  # tokens on which causality is tried out


class Spec(contract.Spec):
    """Options of every selector that reads rows with a causal LM."""

    model: str = Field(
        min_length=1,
        description="A transformers causal LM with safetensors weights: a folder, or a name on the hub. Larger ones "
        "judge better, and cost time in proportion.",
    )
    revision: str | None = Field(default=None, description="Revision of a model from a hub.")
    max_tokens: PositiveInt = Field(
        default=2048, description="Tokens of a row that the model reads, from its start; fewer cost less on long rows."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where the model runs.")
    batch_tokens: PositiveInt = Field(
        default=16_384, description="Tokens in a batch on a GPU; lower it when memory is short."
    )


@dataclass(frozen=True)
class Located:
    """A model on this machine.

    folder: its files.
    digest: of their contents.
    device: where it runs.
    batch_tokens: tokens of a batch there, padding included.
    """

    folder: str
    digest: str
    device: str
    batch_tokens: int

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers, for an artefact's key; where it lies does not."""
        return {"digest": self.digest, "device": self.device, "batch_tokens": self.batch_tokens}


def locate(spec: Spec, name: str, *, key: str) -> Located:
    """Find a model without loading it.

    Args:
        spec: options; `name` stands for its `model`, with variables of the recipe filled in.
        name: a folder, or a name on the hub.
        key: the recipe's key that names it, for errors.

    Raises:
        InputError: no such model, pickled weights, or no such device.
    """
    folder = find_model(name, spec.revision, key=key)
    if pickled := pickled_weights(Path(folder)):
        raise _unfit(key, folder, "must hold its weights as safetensors", pickled)
    device = pick_device(spec.device, key=key.removesuffix("model") + "device")
    return Located(folder, model_digest(folder), device, batch_size(device, spec.batch_tokens))


def open_model(spec: Spec) -> CausalLM:
    """The model that a selector's options name; loaded once per process.

    Raises:
        InputError: as `locate` and `CausalLM`.
    """
    found = locate(spec, spec.model, key="model")
    return _opened(found.folder, found.digest, spec.max_tokens, found.device, found.batch_tokens)


@lru_cache(maxsize=1)
def _opened(folder: str, digest: str, max_tokens: int, device: str, batch_tokens: int) -> CausalLM:
    return CausalLM(folder, max_tokens=max_tokens, device=device, batch_tokens=batch_tokens)


class CausalLM:
    """A model on one device.

    Args:
        folder: of the model, see `models.find_model`.
        max_tokens: tokens of a row that are read.
        device: `cpu`, `cuda` or `mps`.
        batch_tokens: tokens of a batch, padding included.

    Raises:
        InputError: the folder does not load as a causal LM without pickles or code of its own.
    """

    def __init__(self, folder: str, *, max_tokens: int, device: str, batch_tokens: int) -> None:
        self.folder, self.device, self.batch_tokens = folder, device, batch_tokens
        self.model, self.tokenizer = _load(folder, device)
        config = self.model.config.get_text_config()
        self.window = min(max_tokens, getattr(config, "max_position_embeddings", None) or max_tokens)
        self.vocabulary = int(self.model.get_input_embeddings().num_embeddings)  # pyright: ignore
        start = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        self.start = next((i for i in start if isinstance(i, int)), None)
        if len(self.tokenizer) > self.vocabulary:
            need = f"must embed all {len(self.tokenizer)} tokens of its tokenizer"
            raise _unfit("model", folder, need, self.vocabulary)
        self._check_causal()

    def pooled(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The position-weighted mean of each row's last hidden states, at unit length.

        Token i of n (the start token is the first) weighs 2 i / (n (n + 1)): in a causal model, later tokens know more.

        Returns:
            f32[n, d], unit L2 norm, zeros for a row without a token; and i32[n], the tokens that were read.

        Raises:
            InputError: the model gives no hidden states, or states that are not finite.

        Source: Muennighoff 2022 (SGPT), section 3.1; with the last layer, Ivison et al. 2025 (RDS+), section 3.
        """
        import torch

        found: np.ndarray | None = None
        read = np.zeros(len(texts), np.int32)
        for rows, ids, lengths in self._batches(texts, self.batch_tokens):
            with torch.inference_mode(), one_thread():
                means = _weighted_mean(self._hidden(ids), lengths)[: len(rows)].cpu().numpy()
            if found is None:
                found = np.zeros((len(texts), means.shape[1]), np.float32)
            found[rows], read[rows] = unit(means), lengths[: len(rows)]
        if found is None:
            found = np.zeros((0, self._width()), np.float32)
        if not np.isfinite(found).all():
            raise _unfit("model", self.folder, "must give finite hidden states", "NaN or infinity")
        return found, read

    def losses(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Each row's mean token loss, -log p(token | those before it).

        The first token is judged after the start token where the tokenizer has one (or an end token), else not.

        Returns:
            f64[n], nats per token, NaN for a row without a judged token; and i32[n], the tokens that were judged.

        Raises:
            InputError: a loss is not finite.
        """
        total, judged = np.zeros(len(texts)), np.zeros(len(texts), np.int32)
        for rows, ids, lengths in self._batches(texts, min(self.batch_tokens, max(1, LOGITS // self.vocabulary))):
            total[rows] = self._token_losses(ids, lengths)[: len(rows)]
            judged[rows] = np.maximum(lengths[: len(rows)] - 1, 0)
        if not np.isfinite(total).all():
            raise _unfit("model", self.folder, "must give finite losses", "NaN or infinity")
        with np.errstate(invalid="ignore"):
            return total / judged, judged

    def _batches(self, texts: Sequence[str], batch_tokens: int) -> Iterator[tuple[list[int], torch.Tensor, np.ndarray]]:
        """(rows, ids i64[b, length], lengths i64[b]) of every batch; beyond the rows, b is filled with copies."""
        import torch

        for begin in range(0, len(texts), SLICE):
            tokens = self._tokens(texts[begin : begin + SLICE])
            lengths = np.array([len(t) for t in tokens], np.int64)
            for rows, length in length_batches(np.maximum(lengths, 1), batch_tokens, self.window):
                full = rows + [rows[-1]] * (max(1, batch_tokens // length) - len(rows))
                ids = np.zeros((len(full), length), np.int64)
                for at, row in enumerate(full):
                    ids[at, : lengths[row]] = tokens[row]
                yield [begin + row for row in rows], torch.from_numpy(ids).to(self.device), lengths[full]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text after the start token, at most `window`."""
        first = [] if self.start is None else [self.start]
        read = [text[: self.window * CHARS_PER_TOKEN] for text in texts]
        # a document that spells out a special token means its characters, not the token
        made: Any = self.tokenizer(
            read, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [(first + ids)[: self.window] if ids else [] for ids in made]

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """[b, length, d], the states after the last layer and its norm, of which the logits are made."""
        inner = self.model.base_model
        if inner is not self.model:
            states = getattr(inner(input_ids=ids), "last_hidden_state", None)
        else:
            every = getattr(self.model(input_ids=ids, output_hidden_states=True), "hidden_states", None)
            states = every[-1] if every else None
        if states is None or states.ndim != 3:
            raise _unfit("model", self.folder, "must give the hidden states of its last layer", type(inner).__name__)
        return states

    def _width(self) -> int:
        import torch

        with torch.inference_mode():
            return self._hidden(torch.zeros((1, 1), dtype=torch.int64, device=self.device)).shape[-1]

    def _token_losses(self, ids: torch.Tensor, lengths: np.ndarray) -> np.ndarray:
        """f64[b], the summed loss of each row's tokens but the first."""
        import torch
        from torch.nn.functional import cross_entropy

        total = np.zeros(len(ids))
        with torch.inference_mode(), one_thread():
            logits = self.model(input_ids=ids).logits
            for at, length in enumerate(lengths):  # row by row: the whole batch in f32 may be twice its memory
                loss = cross_entropy(logits[at, :-1].float(), ids[at, 1:], reduction="none")
                total[at] = loss.cpu().numpy().astype(np.float64)[: max(length - 1, 0)].sum()
        return total

    def _check_causal(self) -> None:
        """Change the last token: whatever comes before it must not notice."""
        import torch

        ids = torch.arange(PROBE, device=self.device)[None] % self.vocabulary
        other = ids.clone()
        other[0, -1] = 0
        with torch.inference_mode(), one_thread():
            first, second = (self.model(input_ids=i).logits[0, :-1].float() for i in (ids, other))
        spread = float(first.std())
        if not np.isfinite(spread):
            raise _unfit("model", self.folder, "must give finite logits", "NaN or infinity")
        rounding = min(0.1, 100 * torch.finfo(self.model.dtype).eps)  # experts may be grouped in another way
        if float((first - second).abs().max()) > rounding * spread:
            raise _unfit("model", self.folder, "must be causal: no token may see what comes after it", "one that does")


def _weighted_mean(states: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """f32[b, d]: token i of a row's `lengths` weighs in proportion to i; zeros for a row of length 0."""
    import torch

    place = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=torch.float32)
    inside = place * (place <= torch.from_numpy(lengths).to(states.device)[:, None])
    weights = inside / inside.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(weights[:, None], states.float())[:, 0]


def _load(folder: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    half = device == "cuda" and torch.cuda.is_bf16_supported()
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.bfloat16 if half else torch.float32,
            output_loading_info=True,
            **safe,
        )
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError, SafetensorError) as e:
        need = "must be a causal LM that transformers loads without custom code, with a tokenizer"
        raise _unfit("model", folder, need, first_line(e)) from e
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):  # transformers would fill them with random numbers
        need, got = "must hold every weight of its model", f"no {missing[0]} ({len(missing)} missing)"
        raise _unfit("model", folder, need, got)
    model.config.use_cache = False
    return model.to(device).eval(), tokenizer


def _unfit(key: str, folder: str, need: str, got: object) -> InputError:
    step = "Name the folder of a causal LM saved by transformers (save_pretrained), or one of the hub"
    return InputError(f"{key} {folder!r}", need, got=got, next_step=step)
