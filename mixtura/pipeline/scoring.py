"""Fit a selector and score shards with it: the one pass over everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mixtura.errors import MixturaError
from mixtura.pipeline import tables
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.lm import LIBRARIES
from mixtura.pipeline.named import Named
from mixtura.pipeline.shard_file import ShardFile
from mixtura.store import Artefact, Store, code_version


@dataclass(frozen=True)
class Selected(Named):
    """A selector by its word, with its options."""

    kind = "selectors"

    @property
    def selector(self) -> Any:
        """The selector object."""
        return self.found

    @property
    def key(self) -> dict[str, Any]:
        """What an artefact's key says of it."""
        return {"selector": self.word, "options": self.keyed_options}

    @property
    def code(self) -> str:
        """Version of the selector's code and of the arithmetic beneath it."""
        return code_version(self.module, ("numpy", "polars", *(LIBRARIES if self.model else ("torch",))))


def fit(
    selected: Selected,
    *,
    sample: ShardFile,
    target: ShardFile | None,
    reference: ShardFile | None,
    avoid: ShardFile | None = None,
    seed: int,
    store: Store,
) -> Artefact:
    """Fit a selector; the artefact `fitted` holds what it learned, and its facts."""

    def write(folder: Path) -> dict[str, Any]:
        needs = selected.selector.needs
        with _within_needs(selected.word):
            fitted = selected.selector.fit(
                selected.spec,
                sample=sample.read(needs.columns),
                target=target and target.read(needs.of_target.columns),
                reference=reference and reference.read(needs.columns),
                seed=seed,
                **({} if avoid is None else {"avoid": avoid.read(needs.columns)}),
            )
        fitted.save(folder)
        return fitted.facts

    inputs = [d for r in (sample, target, reference, avoid) for d in (r.digests if r else ["none"])]
    spec = selected.key | {"seed": seed}
    return store.make("fitted", write, inputs=inputs, spec=spec, code=selected.code)


@dataclass(frozen=True)
class ScoreJob:
    """Score one shard."""

    selected: Selected
    fitted: str
    fitted_digest: str
    shard: ShardFile
    store: str


def score_shard(job: ScoreJob) -> Artefact:
    """Artefact `scores`: `scores.parquet` with `id, score` and the selector's why-columns, in row order.

    Raises:
        MixturaError: the selector did not return one finite score per row, in order.
    """

    def write(folder: Path) -> dict[str, Any]:
        shard = job.shard.read(job.selected.selector.needs.columns)
        with _within_needs(job.selected.word):
            scores = job.selected.selector.score(job.selected.spec, Fitted.load(Path(job.fitted)), shard)
        _check(job.selected.word, shard, scores)
        tables.write(folder / "scores.parquet", scores)
        return {"rows": scores.height}

    inputs = [job.fitted_digest, *job.shard.digests]
    return Store(job.store).make("scores", write, inputs=inputs, spec=job.selected.key, code=job.selected.code)


@contextmanager
def _within_needs(word: str) -> Iterator[None]:
    """A selector is given what its `needs` name; one that reads more is told so, not left with polars' error."""
    try:
        yield
    except pl.exceptions.ColumnNotFoundError as e:
        column = str(e).splitlines()[0]
        raise MixturaError(f"selector {word!r} must name every column it reads in needs.columns: {column}") from e


def _check(word: str, shard: Shard, scores: pl.DataFrame) -> None:
    need = f"selector {word!r} must return `id` and one finite `score` per row, in order"
    if not {"id", "score"} <= set(scores.columns):
        raise MixturaError(f"{need}; got columns {scores.columns}")
    if not scores["id"].equals(shard.rows["id"]):
        raise MixturaError(f"{need}; got {scores.height} rows in another order for {len(shard)}")
    if bad := int((~scores["score"].is_finite()).fill_null(True).sum()):
        raise MixturaError(f"{need}; got {bad} that are NaN, infinite or null")
