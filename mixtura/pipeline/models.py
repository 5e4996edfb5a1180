"""Model folders: found by name or path, known by their contents, and never read as pickles."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from mixtura.errors import InputError, nearest
from mixtura.recipe.model import digest
from mixtura.store import file_digest

UNREAD = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".onnx", ".ot", ".msgpack", ".xml", ".md"}  # never loaded
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def find_model(name: str, revision: str | None = None, *, key: str, owner: str = "", instead: str = "") -> str:
    """Folder of a model: as given, or the hub's snapshot of a name (from the cache where the hub is out of reach).

    Args:
        name: a folder, or a model's name on the hub.
        revision: of a model on the hub.
        key: the recipe's key that names it, for errors.
        owner: on the hub, of a name that has none.
        instead: what the user can do who has no such model.

    Raises:
        InputError: no such folder, no such name, or the name is neither cached nor reachable.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.absolute())
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        near = nearest(folder.name, [p.name for p in folder.parent.glob("*/")])
        raise InputError(key, "must be a folder that exists, or a model's name", got=name, next_step=near)
    from huggingface_hub import snapshot_download

    repository = f"{owner}/{name}" if owner and "/" not in name else name
    try:
        return snapshot_download(repository, revision=revision, ignore_patterns=[f"*{s}" for s in sorted(UNREAD)])
    except (OSError, ValueError) as e:
        raise InputError(
            f"{key} {name!r}",
            "must be a model folder, or a model's name that is cached or can be downloaded",
            got=first_line(e),
            next_step="Give the folder of a saved model" + instead,
        ) from e


def model_digest(folder: str) -> str:
    """Digest of the names and contents of every file that the model may read; the folder's own name does not count."""
    stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(Path(folder))]
    return _digest(folder, tuple(stamps))


def pick_device(wanted: str, *, key: str) -> str:
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
        raise InputError(key, f"must be one of {there} on this machine", got=wanted, next_step="Use auto")
    return wanted


def pickled_weights(folder: Path) -> str | None:
    """Name of the pickle that holds a model's weights, or None where they are safetensors (or none at all)."""
    if list(folder.glob("*.safetensors")):
        return None
    return next((n for n in PICKLES if (folder / n).exists()), None)


def first_line(error: Exception) -> str:
    """An exception's message, or its name, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
