"""The policy: the model that is mined, opened to be asked, and where it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixtura.errors import InputError
from mixtura.generation.cached import Cached
from mixtura.generation.local import LocalModel
from mixtura.loop.cast import Item
from mixtura.pipeline import lm
from mixtura.pipeline.models import find_model
from mixtura.recipe import TinyModel, Train, digest
from mixtura.stages.plan import Plan
from mixtura.store import code_version
from mixtura.trainer.model import prepare_tiny

LIBRARIES = ("torch", "transformers", "tokenizers")


def start(plan: Plan, items: Sequence[Item]) -> str:
    """Folder of the model that the loop begins with: the recipe's, or a small one whose tokenizer knows the rows.

    Raises:
        InputError: no such model, or a small one that nothing would teach to answer.
    """
    train, warmup = plan.recipe.train, plan.recipe.mine.warmup
    model = train.model
    if isinstance(model, str):
        return find_model(plan.model(model), train.revision, key="train.model")
    if not warmup:
        step = "Set mine.warmup, or name a trained model in train.model"
        raise InputError("train.model", "must be a trained model where mine.warmup is 0", next_step=step)
    return _small(plan, model, items)


def _small(plan: Plan, model: TinyModel, items: Sequence[Item]) -> str:
    def write(folder: Path) -> dict[str, Any]:
        prepare_tiny(_texts(items), model, folder / "model", seed=plan.recipe.seed)
        return {"rows": len(items)}

    made = plan.store.make(
        "policy",
        write,
        inputs=[digest(sorted(i.id for i in items))],
        spec={"model": model.model_dump(mode="json"), "seed": plan.recipe.seed},
        code=code_version("mixtura.trainer.model", LIBRARIES),
    )
    return str(Path(made.path) / "model")


def _texts(items: Sequence[Item]) -> Iterator[str]:
    """What the model will read and write of each row; the same tools are shown once."""
    shown: set[str] = set()
    for item in items:
        question = item.question
        tools = json.dumps(list(question.tools), ensure_ascii=False) if question.tools else ""
        if tools not in shown:
            shown.add(tools)
            yield tools
        for turn in (*question.prompt, question.gold):
            yield turn.get("content") or ""
            yield json.dumps(turn["tool_calls"], ensure_ascii=False) if turn.get("tool_calls") else ""


class Policy:
    """A model that can be asked; what it replied is kept in the store, so a broken run asks only for the rest.

    Args:
        folder: of the model.
        train: the trainer's settings: its window and device are the policy's.
        kept: folder of replies.

    Raises:
        InputError: see `lm.locate` and `LocalModel`.
    """

    def __init__(self, folder: str | Path, train: Train, kept: Path) -> None:
        spec = lm.Spec(model=str(folder), max_tokens=train.sequence_length, device=train.device)
        located = lm.locate(spec, str(folder), key="train.model")
        model = lm.CausalLM(
            located.folder, max_tokens=spec.max_tokens, device=located.device, batch_tokens=located.batch_tokens
        )
        self.digest = located.digest
        self.model = Cached(LocalModel(model, located), kept)
