"""Any sentence-transformers model as an encoder, from safetensors alone, offline where its files are at hand.

Rows are sorted into classes of length, and every batch of a class has one shape, filled up with copies: the
arithmetic of a row then depends on its own length and on nothing beside it. On a CPU (f32) vectors are equal bit for
bit whatever the shard; on a GPU (bf16) the same holds for one card and one library version, and inner products
between machines agree within 0.01.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixtura.errors import InputError, nearest
from mixtura.pipeline.embed.norm import unit
from mixtura.recipe import digest
from mixtura.store import file_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers")
SLICE = 8_192  # rows tokenised at once: bounds memory, and leaves few half-empty batches
CPU_TOKENS = 512  # a larger batch is no faster on a core, and filling it up costs more
SHORTEST = 16  # tokens of the first class of length
UNREAD = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".onnx", ".ot", ".msgpack", ".xml", ".md"}  # never loaded
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class SentenceEncoder:
    """A model on one device.

    Args:
        folder: of the model, see `find_model`.
        digest: of its files, see `model_digest`.
        max_chars: text beyond this is not read.
        device: `auto`, `cpu`, `cuda` or `mps`.
        batch_tokens: tokens of a batch on a GPU, padding included.

    Raises:
        InputError: the device is absent, or the folder does not load without pickles or code of its own.
    """

    def __init__(self, folder: str, digest: str, *, max_chars: int, device: str, batch_tokens: int) -> None:
        self.folder, self.digest, self.max_chars = folder, digest, max_chars
        self.device = pick_device(device)
        self.batch_tokens = batch_size(self.device, batch_tokens)
        self.model = _load(folder, self.device)
        self.prompt = _default_prompt(self.model)
        self.prompt_length = self.model.preprocess([""], prompt=self.prompt or None).get("prompt_length")
        self.window = self.model.max_seq_length or 512  # tokens that the model reads
        self.dimensions = self.encode([""]).shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, d], unit L2 norm, in order."""
        parts = [self._encode_slice(texts[i : i + SLICE]) for i in range(0, len(texts), SLICE)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def _encode_slice(self, texts: Sequence[str]) -> np.ndarray:
        tokenizer = self.model.tokenizer
        read = [self.prompt + text[: self.max_chars] for text in texts]
        encoded = tokenizer(read, truncation="longest_first", max_length=self.window, padding=False)
        keys = list(encoded.keys())
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        vectors: np.ndarray | None = None
        for rows, length in length_batches(lengths, self.batch_tokens, self.window):
            full = rows + [rows[-1]] * (max(1, self.batch_tokens // length) - len(rows))
            batch = {key: [encoded[key][row] for row in full] for key in keys}
            features = tokenizer.pad(batch, padding="max_length", max_length=length, return_tensors="pt")
            made = self._forward(dict(features))[: len(rows)]
            if vectors is None:
                vectors = np.zeros((len(texts), made.shape[1]), np.float32)
            vectors[rows] = unit(made)
        assert vectors is not None  # a slice has at least one row
        return vectors

    def _forward(self, features: dict[str, Any]) -> np.ndarray:
        import torch

        if self.prompt_length is not None:
            features["prompt_length"] = self.prompt_length
        with torch.inference_mode():
            on_device = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
            return self.model(on_device)["sentence_embedding"].float().cpu().numpy()


def find_model(name: str, revision: str | None = None) -> str:
    """Folder of a model: as given, or the hub's snapshot of a name (from the cache where the hub is out of reach).

    Raises:
        InputError: no such folder, no such name, or the name is neither cached nor reachable.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.absolute())
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        near = nearest(folder.name, [p.name for p in folder.parent.glob("*/")])
        raise InputError("embed.encoder", "must be a folder that exists, or a model's name", got=name, next_step=near)
    from huggingface_hub import snapshot_download

    repository = name if "/" in name else f"sentence-transformers/{name}"  # the library's own short names
    try:
        return snapshot_download(repository, revision=revision, ignore_patterns=[f"*{s}" for s in sorted(UNREAD)])
    except (OSError, ValueError) as e:
        raise InputError(
            f"embed.encoder {name!r}",
            "must be a model folder, or a model's name that is cached or can be downloaded",
            got=_first_line(e),
            next_step="Give the folder of a saved model, or encoder: fitted, which needs none",
        ) from e


def model_digest(folder: str) -> str:
    """Digest of the names and contents of every file that the model may read; the folder's own name does not count."""
    stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(Path(folder))]
    return _digest(folder, tuple(stamps))


def pick_device(wanted: str) -> str:
    """The device that a recipe's word means on this machine.

    Raises:
        InputError: the device is named, and absent.
    """
    import torch

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if have[d])
    if not have[wanted]:
        there = ", ".join(d for d in have if have[d])
        raise InputError("embed.device", f"must be one of {there} on this machine", got=wanted, next_step="Use auto")
    return wanted


def batch_size(device: str, batch_tokens: int) -> int:
    """Tokens in a batch on this device, padding included."""
    return min(batch_tokens, CPU_TOKENS) if device == "cpu" else batch_tokens


def length_class(length: int, window: int) -> int:
    """Tokens to which a row of `length` is padded: multiples of 16 up to 64, then four classes per doubling.

    Padding then wastes at most a fifth, 6 % on average, and a model of 512 tokens sees 16 shapes.
    """
    step = max(SHORTEST, 1 << max(0, (length - 1).bit_length() - 3))
    return min(-(-length // step) * step, max(window, length))


def length_batches(lengths: np.ndarray, batch_tokens: int, window: int) -> Iterator[tuple[list[int], int]]:
    """(rows, padded length) of every batch, longest first, so that memory that runs out does so at once.

    Args:
        lengths: i64[n], tokens per row, at least 1.
        batch_tokens: tokens in a batch, padding included; a longer row is a batch of its own.
        window: the most tokens that the model reads.
    """
    classes = np.array([length_class(int(n), window) for n in lengths], np.int64)
    for length in np.unique(classes)[::-1].tolist():
        rows = np.flatnonzero(classes == length).tolist()
        size = max(1, batch_tokens // length)
        for i in range(0, len(rows), size):
            yield rows[i : i + size], length


def _load(folder: str, device: str) -> SentenceTransformer:
    parts = _check_safe(Path(folder))
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    half = device == "cuda" and torch.cuda.is_bf16_supported()
    try:
        model = SentenceTransformer(
            folder,
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.bfloat16 if half else torch.float32},
        )
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError, SafetensorError) as e:
        raise _unfit(folder, "must load without code of its own", _first_line(e)) from e
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
        raise _unfit(str(folder), "must have a modules.json that lists its modules", _first_line(e)) from e
    for part in parts:
        pickled = [n for n in PICKLES if (part / n).exists()]
        if pickled and not list(part.glob("*.safetensors")):
            raise _unfit(str(folder), "must hold its weights as safetensors", f"{part.name}/{pickled[0]}")
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


def _files(folder: Path) -> list[Path]:
    """Files that may be read, sorted; hidden ones and other formats of the weights are left out."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in UNREAD and not any(s.startswith(".") for s in p.relative_to(folder).parts)
    )


@lru_cache(maxsize=8)
def _digest(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    return digest({os.path.relpath(path, folder).replace(os.sep, "/"): file_digest(path) for path, _, _ in stamps})


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
