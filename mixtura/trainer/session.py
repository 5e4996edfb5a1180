"""`train`: a mixture and a spec in, a model folder out; killed anywhere and run again, the result is the same.

While it runs, everything lives in a hidden folder beside `out`. `out` appears at the end, complete: the model as
transformers loads it, `metrics.jsonl`, and `training.json` with what was trained on what, and what it brought.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixtura.errors import InputError
from mixtura.recipe import TinyModel, Train, digest
from mixtura.store import code_version, file_digest, seal, write_synced
from mixtura.trainer import checkpoint
from mixtura.trainer.chat import Chat
from mixtura.trainer.encode import encode
from mixtura.trainer.indicator import add_indicator, indicator_of
from mixtura.trainer.judge import Judge, Split
from mixtura.trainer.loop import Loop, Plan, Progress, optimizer_for
from mixtura.trainer.mixture import holds_pairs, read_pairs, read_rows, splits, texts
from mixtura.trainer.model import Loaded, load, prepare_tiny, quiet, replace_folder, save
from mixtura.trainer.packing import keeps_documents_apart, pack
from mixtura.trainer.pairs import encode_pairs, pack_pairs
from mixtura.trainer.preference import PairLoop, for_pairs

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
MANIFEST = "training.json"


@dataclass
class Run:
    """The files of one run, and the held-out losses measured so far."""

    out: Path
    work: Path
    fingerprint: str
    indicator: str | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics, also on disk, where one may watch it grow."""
        self.metrics.append(line)
        with (self.work / "metrics.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def rewind(self, metrics: list[dict[str, Any]]) -> None:
        """Forget what came after the checkpoint."""
        self.metrics = list(metrics)
        write_synced(self.work / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in metrics))


def train(
    mixture: Path, spec: Train, *, out: Path, seed: int, progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Fine-tune a causal LM on a mixture.

    Args:
        mixture: folder with train/*.parquet, and perhaps validation/*.parquet and target/heldout.parquet.
        spec: the recipe's `train`.
        out: folder for the model; it appears complete, at the end. A finished run of the same inputs is not repeated;
            one of other inputs is replaced.
        seed: of the order, the packing, dropout, and a tiny model's weights.
        progress: told every finished step.

    Returns:
        What `training.json` says, and of this call alone: `reused`, `resumed_from` (step), `seconds`.

    Raises:
        InputError: the mixture holds nothing to train on, or the model or device is impossible.
    """
    begun = time.perf_counter()
    out, mixture = Path(out).absolute(), Path(mixture)
    found = splits(mixture)
    indicator = indicator_of(mixture)
    run = Run(out, out.with_name(f".{out.name}.training"), _fingerprint(found, spec, seed, indicator), indicator)
    if done := _finished(run):
        return done | {"reused": True, "resumed_from": None, "seconds": 0.0}
    device = _device(spec)
    gpus = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=gpus):
        resumed, facts = _train(run, found, spec, seed, device, progress)
    replace_folder(run.work / "final", out)
    shutil.rmtree(run.work, ignore_errors=True)
    return facts | {"reused": False, "resumed_from": resumed, "seconds": time.perf_counter() - begun}


def _train(
    run: Run,
    found: dict[str, list[Path]],
    spec: Train,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None] | None,
) -> tuple[int, dict[str, Any]]:
    run.work.mkdir(parents=True, exist_ok=True)
    loaded = _load(run, found, spec, seed)
    token = add_indicator(loaded, run.indicator) if run.indicator else None
    model = nn.Module.to(loaded.model, device)
    together = keeps_documents_apart(model, device)
    data = _encode(found, spec, loaded, seed, together=together)
    judge = Judge(model, data, spec, device, together=together)
    reference = judge.reference(run.work / "reference.safetensors")
    spec_of_loop = for_pairs(spec) if data["train"].pairs else spec
    optimizer = optimizer_for(model, spec_of_loop)
    plan = Plan.of(spec_of_loop, len(data["train"].packs), seed)

    def measure(step: int) -> dict[str, Any]:
        losses = judge.measure(reference)
        run.log({"step": step, "heldout": losses})
        return losses

    def after_step(done: int, line: dict[str, Any]) -> None:
        run.log(line)
        if done % spec.checkpoint_every == 0 or done == plan.steps:
            state = checkpoint.State(done, run.metrics)
            checkpoint.write(run.work / "checkpoints", run.fingerprint, state, model, optimizer)

    state = checkpoint.restore(run.work / "checkpoints", run.fingerprint, model, optimizer)
    run.rewind(state.metrics if state else [])
    before = state.metrics[0]["heldout"] if state else measure(0)
    start = state.step if state else 0
    parts = (model, optimizer, data["train"].encoded, data["train"].packs, plan, spec_of_loop, device)
    loop = PairLoop(*parts, spec.preference, reference["train"], together) if data["train"].pairs else Loop(*parts)
    loop.run(start, after_step, progress)
    _round_weights(loaded)  # what is measured is what is saved
    after = measure(plan.steps)
    facts = {
        "seed": seed,
        "model": spec.model.model_dump() if isinstance(spec.model, TinyModel) else Path(spec.model).name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "spec": spec.model_dump(mode="json", exclude={"model", "device"}),
        "steps": plan.steps,
        "sequences": len(data["train"].packs),
        "packed": together,
        "data": {name: split.encoded.counts.facts() for name, split in data.items()},
        "heldout": {name: {"before": before[name], "after": after[name]} for name in after},
        "fingerprint": run.fingerprint,
    } | ({"indicator": {"text": run.indicator, "token": token}} if run.indicator else {})
    _finish(run, loaded, facts)
    return start, facts


def _load(run: Run, found: dict[str, list[Path]], spec: Train, seed: int) -> Loaded:
    if isinstance(spec.model, str):
        return load(spec, spec.model)
    tiny = run.work / f"tiny-{run.fingerprint[:16]}"
    if not tiny.exists():
        prepare_tiny(texts(found["train"]), spec.model, tiny, seed=seed)
    return load(spec, str(tiny))


def _encode(
    found: dict[str, list[Path]], spec: Train, loaded: Loaded, seed: int, *, together: bool
) -> dict[str, Split]:
    """Every split; held-out ones may turn out to have nothing to measure, and their counts say why."""
    chat, length = Chat(loaded.tokenizer), spec.sequence_length
    data: dict[str, Split] = {}
    for name, files in found.items():
        if pairs := holds_pairs(files):
            encoded = encode_pairs(read_pairs(files), chat, length=length)
            packs = pack_pairs(encoded, length, seed)
        else:
            encoded = encode(read_rows(files), chat, length=length, loss=spec.loss)
            packs = pack(encoded, length, seed, together=together)
        data[name] = Split(encoded, packs, pairs)
    counts = data["train"].encoded.counts
    if not counts.trained_tokens:
        raise InputError(
            "mixture",
            "must hold tokens to train on",
            got=counts.facts(),
            next_step="Raise train.sequence_length, or set train.loss: all, where answers were cut off or are missing",
        )
    return data


def _finish(run: Run, loaded: Loaded, facts: dict[str, Any]) -> None:
    final = run.work / "final"
    nn.Module.cpu(loaded.model)
    save(loaded, final)
    write_synced(final / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in run.metrics))
    facts["files"] = {p.name: seal(p) for p in sorted(final.iterdir()) if p.is_file()}
    write_synced(final / MANIFEST, json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _finished(run: Run) -> dict[str, Any] | None:
    """Facts of an earlier, finished run of the same inputs.

    Raises:
        InputError: `out` holds something that no run of ours wrote.
    """
    waiting = run.work / "final"  # killed between the manifest and the last rename
    for folder in (run.out, waiting):
        manifest = folder / MANIFEST
        if not manifest.exists():
            continue
        facts = json.loads(manifest.read_text())
        whole = all(_same(folder / n, f["sha256"]) for n, f in facts["files"].items())
        if whole and facts["fingerprint"] == run.fingerprint:
            if folder == waiting:
                replace_folder(waiting, run.out)
            shutil.rmtree(run.work, ignore_errors=True)
            return facts
    there = sorted(p.name for p in run.out.iterdir())[:5] if run.out.is_dir() else [run.out.name] * run.out.exists()
    if there and not (run.out / MANIFEST).exists():
        raise InputError(
            f"output folder {run.out.name!r}",
            "must be new, empty, or an earlier run's",
            got=there,
            next_step="Choose another folder",
        )
    return None


def _same(path: Path, sha256: str) -> bool:
    return path.is_file() and file_digest(path) == sha256


def _round_weights(loaded: Loaded) -> None:
    with torch.no_grad():
        for tensor in loaded.model.parameters():
            tensor.copy_(tensor.to(loaded.dtype))


def _fingerprint(found: dict[str, list[Path]], spec: Train, seed: int, indicator: str | None) -> str:
    """Digest of everything that the result depends on; paths are not part of it."""
    values = spec.model_dump(mode="json", exclude={"device", "checkpoint_every"})
    if isinstance(spec.model, str) and (folder := Path(spec.model)).is_dir():
        values["model"] = {p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.is_file()}
    files = {name: [file_digest(p) for p in paths] for name, paths in found.items()}
    code = code_version("mixtura.trainer.session", LIBRARIES)
    return digest({"files": files, "spec": values, "seed": seed, "indicator": indicator, "code": code})


def _device(spec: Train) -> torch.device:
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if spec.device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if present[name]))
    if not present[spec.device]:
        raise InputError(
            "train.device",
            f"must be one of {', '.join(n for n, there in present.items() if there)} on this machine",
            got=spec.device,
            next_step="Set it to auto",
        )
    return torch.device(spec.device)
