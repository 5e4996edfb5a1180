"""Checkpoints: whole or absent, verified on loading, enough to go on bit for bit.

A checkpoint is the weights, the optimiser's moments, the step and the metrics so far. The order of the data and the
noise of dropout follow from the seed and the step alone, so there is no generator's state to keep.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mixtura.store import file_digest, seal, sync_folder, write_synced

PREFIX = "step-"


@dataclass(frozen=True)
class State:
    """Where a run stands: steps done, and the lines of its metrics so far."""

    step: int
    metrics: list[dict[str, Any]]


def write(folder: Path, fingerprint: str, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint, then remove older ones.

    Args:
        folder: of the run's checkpoints.
        fingerprint: of the run; a checkpoint of another one is never loaded.
        state: where the run stands.
        model: its parameters and persistent buffers are saved.
        optimizer: its tensors are saved; learning rate and the like follow from the step.
    """
    draft = folder / f".{PREFIX}{state.step:08d}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(_weights(model), draft / "weights.safetensors")
    save_file(_moments(optimizer), draft / "moments.safetensors")
    manifest = {
        "fingerprint": fingerprint,
        "step": state.step,
        "metrics": state.metrics,
        "files": {p.name: seal(p)["sha256"] for p in sorted(draft.glob("*.safetensors"))},
    }
    write_synced(draft / "manifest.json", json.dumps(manifest))
    final = folder / f"{PREFIX}{state.step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    os.rename(draft, final)
    sync_folder(folder)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def restore(folder: Path, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
    """Load the newest whole checkpoint of this run into model and optimiser; None where there is none."""
    for found in sorted(folder.glob(f"{PREFIX}*"), reverse=True):
        manifest = _verified(found, fingerprint)
        if manifest is None:
            continue
        weights = load_file(found / "weights.safetensors")
        with torch.no_grad():
            for name, tensor in _weights(model, copy=False).items():
                tensor.copy_(weights[name])
        _set_moments(optimizer, load_file(found / "moments.safetensors"))
        return State(manifest["step"], manifest["metrics"])
    return None


def _verified(found: Path, fingerprint: str) -> dict[str, Any] | None:
    """The manifest, or None where the checkpoint is damaged or of another run: it will be made again."""
    try:
        manifest = json.loads((found / "manifest.json").read_text())
        whole = all(file_digest(found / name) == sha for name, sha in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole and manifest.get("fingerprint") == fingerprint else None


def _weights(model: nn.Module, *, copy: bool = True) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and persistent buffers by name."""
    kept = dict(model.named_parameters())  # leaves out the second name of a tied tensor
    shared = {p.data_ptr() for p in kept.values()}
    for name, tensor in model.state_dict().items():
        if name not in kept and tensor.data_ptr() not in shared:
            kept[name] = tensor
    return {n: t.detach().contiguous().cpu() if copy else t for n, t in kept.items()}


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": t.detach().contiguous().cpu() for i, s in state.items() for k, t in s.items()}


def _set_moments(optimizer: torch.optim.Optimizer, flat: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in flat.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
