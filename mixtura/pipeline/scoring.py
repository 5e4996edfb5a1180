"""Fit a selector and score shards with it: the one pass over everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mixtura.errors import MixturaError
from mixtura.pipeline import tables
from mixtura.pipeline.contract import Fitted, Needs, Shard
from mixtura.pipeline.embed import read_vectors
from mixtura.pipeline.lm import LIBRARIES
from mixtura.pipeline.named import Named
from mixtura.rows import ROW, plain_text
from mixtura.store import Artefact, Store, code_version

PLAIN = ("text", "messages", "chosen")  # what `plain` is made of


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


@dataclass(frozen=True)
class Rows:
    """A shard on disk: rows, and vectors where the selector needs them."""

    rows: str
    rows_digest: str
    vectors: str | None = None
    vectors_digest: str = ""

    @property
    def digests(self) -> list[str]:
        """What an artefact made from it depends on."""
        return [self.rows_digest, self.vectors_digest]

    def read(self, needs: Needs) -> Shard:
        """The shard in memory: ids and what the selector needs. Text is most of a pool, and few selectors read it."""
        wanted = {"id", *needs.columns, *(PLAIN if "plain" in needs.columns else ())}
        rows = pl.read_parquet(self.rows, columns=[n for n in ROW.names if n in wanted])
        if "plain" in needs.columns:
            rows = rows.with_columns(plain_text(rows))
        return Shard(rows, None if self.vectors is None else self._vectors(rows["id"]))

    def _vectors(self, ids: pl.Series) -> np.ndarray:
        assert self.vectors is not None
        vector_ids, vectors = read_vectors(self.vectors)
        if ids.to_list() != vector_ids:
            raise MixturaError(f"vectors {self.vectors!r} must have the ids of their rows, in order")
        return vectors


def fit(
    selected: Selected,
    *,
    sample: Rows,
    target: Rows | None,
    reference: Rows | None,
    avoid: Rows | None = None,
    seed: int,
    store: Store,
) -> Artefact:
    """Fit a selector; the artefact `fitted` holds what it learned, and its facts."""

    def write(folder: Path) -> dict[str, Any]:
        needs = selected.selector.needs
        with _within_needs(selected.word):
            fitted = selected.selector.fit(
                selected.spec,
                sample=sample.read(needs),
                target=target and target.read(needs.of_target),
                reference=reference and reference.read(needs),
                seed=seed,
                **({} if avoid is None else {"avoid": avoid.read(needs)}),
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
    shard: Rows
    store: str


def score_shard(job: ScoreJob) -> Artefact:
    """Artefact `scores`: `scores.parquet` with `id, score` and the selector's why-columns, in row order.

    Raises:
        MixturaError: the selector did not return one finite score per row, in order.
    """

    def write(folder: Path) -> dict[str, Any]:
        shard = job.shard.read(job.selected.selector.needs)
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
