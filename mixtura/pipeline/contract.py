"""What a selector is: fit on a little, score every row in one pass, explain the score.

A selector is one file in `mixtura/selectors/` (or a user's module behind the entry point `mixtura.selectors`) that
offers `SELECTOR`, an object with the attributes of `Selector`. It drops no row and picks nothing: one place, `pick`,
turns scores into picks under a budget, so a new budget costs no rescan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

from mixtura.errors import InputError

Scale = Literal["rank", "log_weight", "probability", "threshold"]


class Spec(BaseModel):
    """Base of a selector's options: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Needs:
    """What a selector reads, and all that it is given; checked before any work.

    columns: of `rows.ROW`, or `plain`, which is `rows.plain_text`; `id` is always there.
    model: it reads rows with a causal LM; its `Spec` is one of `lm.Spec`, whose `model` names it.
    target_columns: likewise, of the target's rows alone.
    avoid: it heeds rows to move away from; its `fit` is given them as `avoid`, where the recipe has them.
    """

    vectors: bool = False
    target: bool = False
    columns: tuple[str, ...] = ()
    model: bool = False
    target_columns: tuple[str, ...] = ()
    avoid: bool = False

    @property
    def of_target(self) -> Needs:
        """What is read of the target's rows."""
        return replace(self, columns=(*self.columns, *self.target_columns))


@dataclass(frozen=True)
class Shard:
    """Rows with their vectors, in one order.

    rows: `id` and the columns that the selector's `needs` names.
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


def pack_ids(ids: pl.Series) -> np.ndarray:
    """Ids as u8[n, width], zero-padded UTF-8, so that `Fitted.arrays` can hold them."""
    fixed = np.array([i.encode() for i in ids.to_list()], dtype=bytes)
    return fixed.view(np.uint8).reshape(len(ids), -1)


def unpack_ids(packed: np.ndarray) -> pl.Series:
    """What `pack_ids` packed."""
    fixed = np.ascontiguousarray(packed).view(f"S{packed.shape[1]}").ravel()
    return pl.Series("id", [i.decode() for i in fixed.tolist()], dtype=pl.String)


def rows_of(name: str, needs: Needs, shard: Shard | None, role: str) -> pl.DataFrame:
    """The rows of a shard, once they are known to carry what a selector reads.

    Args:
        name: the selector's word.
        needs: what it reads.
        shard: what it was given.
        role: what the shard is to it: target, reference, sample (these need a row at least) or shard.

    Raises:
        InputError: there is no shard, no row, or no such column.
    """
    if shard is None or (role != "shard" and not len(shard)):
        advice = "Add `target` to the recipe" if role == "target" else ""
        raise InputError(f"selector {name!r}", f"needs a {role} with at least one row", next_step=advice)
    if missing := [c for c in ("id", *needs.columns) if c not in shard.rows.columns]:
        raise InputError(f"selector {name!r}", f"needs columns {missing} of its {role}", got=shard.rows.columns)
    return shard.rows


def vectors_of(name: str, needs: Needs, shard: Shard | None, role: str) -> np.ndarray:
    """The vectors of a shard, f32[n, d] and finite; arguments as for `rows_of`.

    Raises:
        InputError: as `rows_of`, or there is not one finite vector per row.
    """
    rows = rows_of(name, needs, shard, role)
    vectors = shard.vectors if shard is not None else None
    if vectors is None:
        raise InputError(f"selector {name!r}", f"needs vectors of its {role}", next_step="Embed these rows first")
    if len(vectors) != rows.height:
        raise InputError(
            f"selector {name!r}", f"needs {rows.height} vectors, one per row of its {role}", got=len(vectors)
        )
    if not np.isfinite(vectors).all():
        raise InputError(
            f"selector {name!r}", f"needs finite vectors of its {role}", next_step="Embed these rows again"
        )
    return np.ascontiguousarray(vectors, np.float32)


class Selector(Protocol):
    """The shape of a selector. `score` may run in any process, on any machine, on any cut of the pool."""

    name: ClassVar[str]  # the file's stem and the recipe's word
    source: ClassVar[str]  # paper, section or equation
    needs: ClassVar[Needs]
    scale: ClassVar[Scale]  # what the score is; Gumbel noise makes no sense on a rank
    # optional: the pick rules 'cover', 'round_robin' and 'got-d' that it allows, the default first; for the last it has
    # `as_published`, the options that make its score the paper's. The former two need the columns
    # `targets` list[i32], positions of the target's rows, and `costs` list[f32]; 'cover' the arrays of `cover.Market`
    rules: ClassVar[tuple[str, ...]] = ()
    # optional: a method `summary(spec, scores)`, facts for the card from what `score` returned for all rows together
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


class ScoresTurns(Protocol):
    """What a selector offers beside `Selector` where it scores each answer of a conversation, for `mix.marks`."""

    def turn_columns(self, spec: Any) -> tuple[str, ...]:
        """Its why-columns, under these options, that hold a score for each answer, higher for more of it.

        They are list[f32], null where an answer has no score; beside them stand `turns` list[i32], the answers' places
        in `messages`, and perhaps `unscored` list[str], which says why there is no score. All have one length.
        """
        ...
