"""What a selector is: fit on a little, score every row in one pass, explain the score.

A selector is one file in `mixtura/selectors/` (or a user's module behind the entry point `mixtura.selectors`) that
offers `SELECTOR`, an object with the attributes of `Selector`. It drops no row and picks nothing: one place, `pick`,
turns scores into picks under a budget, so a new budget costs no rescan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

Scale = Literal["rank", "log_weight", "probability", "threshold"]


class Spec(BaseModel):
    """Base of a selector's options: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Needs:
    """What a selector reads; checked before any work."""

    vectors: bool = False
    target: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shard:
    """Rows with their vectors, in one order.

    rows: columns `id, source, text, messages, tokens, task, language, plain` (`plain` is `rows.plain_text`).
    vectors: f32[n, d], unit L2 norm, or None where the selector does not need them.
    """

    rows: pl.DataFrame
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return self.rows.height


@dataclass(frozen=True)
class Fitted:
    """What `fit` learned: a few arrays and JSON facts, saved as safetensors. The facts go into the card."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `fitted.safetensors` and `fitted.json` into an existing folder."""
        save_file({k: np.ascontiguousarray(v) for k, v in self.arrays.items()}, folder / "fitted.safetensors")
        (folder / "fitted.json").write_text(json.dumps(self.facts, sort_keys=True, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """Read what `save` wrote."""
        return cls(load_file(folder / "fitted.safetensors"), json.loads((folder / "fitted.json").read_text()))


class Selector(Protocol):
    """The shape of a selector. `score` may run in any process, on any machine, on any cut of the pool."""

    name: ClassVar[str]  # the file's stem and the recipe's word
    source: ClassVar[str]  # paper, section or equation
    needs: ClassVar[Needs]
    scale: ClassVar[Scale]  # what the score is; Gumbel noise makes no sense on a rank
    Spec: type[Spec]

    def fit(self, spec: Any, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Learn once from a sample of the pool, the target, and the reference.

        Args:
            spec: an instance of `self.Spec`.
            sample: pool rows chosen by hash of id, sorted by id.
            target: target rows, sorted by id; None where the recipe has none and `needs.target` is False.
            reference: sample of the pre-training data, or None: then the pool's sample stands in, and `facts` says so.
            seed: of every random choice.

        Raises:
            InputError: the target is empty, or an option is impossible for this data.
        """
        ...

    def score(self, spec: Any, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """One row per row of the shard, in its order.

        Returns:
            `id`, `score` (f64, finite; higher is better), then why-columns of the selector's own.
            A row's values do not depend on which other rows share its shard, bit for bit.
        """
        ...
