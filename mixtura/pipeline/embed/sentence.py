"""Any sentence-transformers model as an encoder, from safetensors alone, offline where its files are at hand.

Texts are packed into tiles of a fixed number of tokens (`packed`). Models that cannot be packed read padded batches:
rows are sorted into classes of length, and every batch of a class has one shape, filled up with copies. Either way the
arithmetic of a row depends on its own tokens and on nothing beside it. On a CPU (f32) vectors are equal bit for bit
whatever the shard; on a GPU (bf16) the same holds for one card and one library version, and inner products between
machines agree within 0.01.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixtura.errors import InputError
from mixtura.pipeline.embed.norm import unit
from mixtura.pipeline.embed.packed import PackedModel
from mixtura.pipeline.lengths import batch_size, length_batches
from mixtura.pipeline.models import first_line, pick_device, pickled_weights
from mixtura.pipeline.threads import one_thread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers")
SLICE = (
    4_096  # rows tokenised at once, while those before are computed: bounds memory, and leaves few part-filled tiles
)
TRIAL = ("", "one", "two words", "a text of six words here", "and one that is much longer than they are " * 9)
AGREE = {"cpu": 1e-4, "cuda": 2e-2}  # packed against padded, per element: f32 sums in another order; bf16's 8 bits
UNFIT = (NotImplementedError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)


class SentenceEncoder:
    """A model on one device.

    Args:
        folder: of the model, see `models.find_model`.
        digest: of its files, see `models.model_digest`.
        max_chars: text beyond this is not read.
        device: `auto`, `cpu`, `cuda` or `mps`.
        batch_tokens: tokens of a batch on a GPU, padding included.

    Raises:
        InputError: the device is absent, or the folder does not load without pickles or code of its own.
    """

    def __init__(self, folder: str, digest: str, *, max_chars: int, device: str, batch_tokens: int) -> None:
        self.folder, self.digest, self.max_chars = folder, digest, max_chars
        self.device = pick_device(device, key="embed.device")
        place = f"cuda:{own_gpu()}" if self.device == "cuda" else self.device
        self.batch_tokens = batch_size(self.device, batch_tokens)
        self.model = _load(folder, place)
        self.prompt = _default_prompt(self.model)
        self.prompt_length: Any = self.model.preprocess([""], prompt=self.prompt or None).get("prompt_length")
        self.window = self.model.max_seq_length or 512  # tokens that the model reads
        self.packed = self._packed()
        self.dimensions = self.encode([""]).shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, d], unit L2 norm, in order."""
        parts = list(self.stream(texts[i : i + SLICE] for i in range(0, len(texts), SLICE)))
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def stream(self, batches: Iterable[Sequence[str]]) -> Iterator[np.ndarray]:
        """As `encode`, batch by batch; a thread tokenises the next batch while one is computed."""
        before: Future[dict[str, list[Any]]] | None = None
        with ThreadPoolExecutor(1) as ahead:
            for batch in batches:
                tokenised = ahead.submit(self._tokenise, batch)
                if before is not None:
                    yield self._vectors(before.result())
                before = tokenised
            if before is not None:
                yield self._vectors(before.result())

    def _packed(self) -> PackedModel | None:
        """The packed model, where a trial shows that it gives the vectors that padded batches give."""
        network: Any = self.model[0]
        if self.device not in AGREE or not getattr(network.model, "is_backend_compatible", bool)():
            return None
        trial = self._tokenise(TRIAL)
        expected = self._padded(trial)
        packed = PackedModel(self.model, tokens=self.batch_tokens, window=self.window)
        try:
            worst = np.abs(unit(packed(_arrays(trial), self.prompt_length)) - expected).max()
        except UNFIT:
            worst = np.inf
        if worst <= AGREE[self.device]:  # a NaN does not pass
            return packed
        packed.restore()
        return None

    def _tokenise(self, texts: Sequence[str]) -> dict[str, list[Any]]:
        """What the tokenizer gives for every text, unpadded."""
        read = [self.prompt + text[: self.max_chars] for text in texts]
        return dict(self.model.tokenizer(read, truncation="longest_first", max_length=self.window, padding=False))

    def _vectors(self, encoded: dict[str, list[Any]]) -> np.ndarray:
        """f32[n, d], unit L2 norm."""
        if not encoded["input_ids"]:
            return np.zeros((0, self.dimensions), np.float32)
        # several threads cut sums by the shape of their work, so that a row's bits would depend on its company
        with one_thread() if self.device == "cpu" else nullcontext():
            if self.packed is None:
                return self._padded(encoded)
            return unit(self.packed(_arrays(encoded), self.prompt_length))

    def _padded(self, encoded: dict[str, list[Any]]) -> np.ndarray:
        tokenizer = self.model.tokenizer
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        vectors: np.ndarray | None = None
        for rows, length in length_batches(lengths, self.batch_tokens, self.window):
            full = rows + [rows[-1]] * (max(1, self.batch_tokens // length) - len(rows))
            batch = {key: [values[row] for row in full] for key, values in encoded.items()}
            features = tokenizer.pad(batch, padding="max_length", max_length=length, return_tensors="pt")
            made = self._forward(dict(features))[: len(rows)]
            if vectors is None:
                vectors = np.zeros((len(lengths), made.shape[1]), np.float32)
            vectors[rows] = unit(made)
        assert vectors is not None  # there is at least one row
        return vectors

    def _forward(self, features: dict[str, Any]) -> np.ndarray:
        import torch

        if self.prompt_length is not None:
            features["prompt_length"] = self.prompt_length
        with torch.inference_mode():
            on_device = {k: v.to(self.model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
            return self.model(on_device)["sentence_embedding"].float().cpu().numpy()


def _arrays(encoded: dict[str, list[Any]]) -> list[np.ndarray]:
    return [np.array(ids, np.int64) for ids in encoded["input_ids"]]


def own_gpu() -> int:
    """Number of the GPU that this process uses: worker processes take them in turns, the main process the first.

    Their names end in the number that multiprocessing gave them, from 1 on.
    """
    import torch

    number = multiprocessing.current_process().name.rpartition("-")[2]
    return (int(number) - 1) % max(1, torch.cuda.device_count()) if number.isdecimal() else 0


def _load(folder: str, device: str) -> SentenceTransformer:
    parts = _check_safe(Path(folder))
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    try:
        model = SentenceTransformer(
            folder,
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.bfloat16 if half else torch.float32},
        )
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError, SafetensorError) as e:
        raise _unfit(folder, "must load without code of its own", first_line(e)) from e
    model.eval()
    reads = getattr(model[0], "modality_config", {})
    if "text" not in reads or "message" in reads or model.tokenizer is None:
        raise _unfit(folder, "must be a text model with a tokenizer", type(model[0]).__name__)
    _check_complete(model, folder, parts[0])
    return model


def _check_safe(folder: Path) -> list[Path]:
    """The folders of the model's modules, first to last; pickles and other kinds of folder are refused unopened."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        parts = [folder / m["path"] for m in modules]
    except FileNotFoundError as e:
        have = sorted(p.name for p in folder.iterdir())[:6]
        raise _unfit(str(folder), "must be a sentence-transformers model, with modules.json", have) from e
    except (ValueError, LookupError, TypeError) as e:
        raise _unfit(str(folder), "must have a modules.json that lists its modules", first_line(e)) from e
    for part in parts:
        if pickled := pickled_weights(part):
            raise _unfit(str(folder), "must hold its weights as safetensors", f"{part.name}/{pickled}")
    if not parts:
        raise _unfit(str(folder), "must have a modules.json that lists its modules", [])
    return parts


def _check_complete(model: SentenceTransformer, folder: str, part: Path) -> None:
    """Refuse a file without some of the weights: transformers would fill them with random numbers.

    Only a load of the network by itself tells what was missing; it costs the reading of the weights once more.
    """
    network: Any = model[0].model
    _, loading = type(network).from_pretrained(
        part, output_loading_info=True, local_files_only=True, use_safetensors=True
    )
    missing = sorted(k for k in loading["missing_keys"] if "pooler" not in k)  # a head that pooling does not use
    if missing:
        raise _unfit(folder, "must hold every weight of its model", f"no {missing[0]} ({len(missing)} missing)")


def _default_prompt(model: SentenceTransformer) -> str:
    """What the model wants before every text, or nothing."""
    return (model.prompts or {}).get(model.default_prompt_name or "") or ""


def _unfit(folder: str, need: str, got: object) -> InputError:
    step = "Save the model anew with sentence-transformers (model.save_pretrained), or name another"
    return InputError(f"embed.encoder {folder!r}", need, got=got, next_step=step)
