"""A shard on disk, read into memory as a selector or a builder is given it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from mixtura.errors import MixturaError
from mixtura.pipeline.contract import Shard
from mixtura.pipeline.embed import read_vectors
from mixtura.rows import ROW, plain_text

PLAIN = ("text", "messages", "chosen")  # what `plain` is made of


@dataclass(frozen=True)
class ShardFile:
    """Parquet of rows, and of their vectors where these are needed, each with the digest of its content."""

    rows: str
    rows_digest: str
    vectors: str | None = None
    vectors_digest: str = ""

    @property
    def digests(self) -> list[str]:
        """What an artefact made from it depends on."""
        return [self.rows_digest, self.vectors_digest]

    def read(self, columns: Collection[str] | None = None) -> Shard:
        """The shard in memory. Text is most of a pool, and few selectors read it.

        Args:
            columns: to read besides `id`, of those that the file may have; `plain` is made of what it is made of. None
                reads the file as it is.

        Raises:
            MixturaError: the vectors are of other rows.
        """
        if columns is None:
            return self._with_vectors(pl.read_parquet(self.rows))
        wanted = {"id", *columns, *(PLAIN if "plain" in columns else ())}
        rows = pl.read_parquet(self.rows, columns=[n for n in ROW.names if n in wanted])
        return self._with_vectors(rows.with_columns(plain_text(rows)) if "plain" in columns else rows)

    def _with_vectors(self, rows: pl.DataFrame) -> Shard:
        if self.vectors is None:
            return Shard(rows)
        ids, vectors = read_vectors(self.vectors)
        if rows["id"].to_list() != ids:
            raise MixturaError(f"vectors {self.vectors!r} must have the ids of their rows, in order")
        return Shard(rows, vectors)
