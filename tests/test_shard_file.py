"""A shard on disk gives what was asked for and no more, and never another shard's vectors."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from generators import shard, unit

from mixtura.errors import MixturaError
from mixtura.pipeline.shard_file import ShardFile

STORED = ["id", "source", "text", "messages", "chosen", "tools", "tokens", "task", "language", "meta"]
VECTORS = unit(np.random.default_rng(0).normal(size=(3, 4)))


@pytest.fixture
def rows(tmp_path):
    frame = shard(["one", "two words", "three more words"]).rows.select(STORED)
    frame.write_parquet(tmp_path / "rows.parquet")
    return frame, str(tmp_path / "rows.parquet")


def vectors_of(ids: list[str], path) -> str:
    kind = pl.Array(pl.Float32, VECTORS.shape[1])
    pl.DataFrame({"id": ids, "vector": pl.Series(VECTORS, dtype=kind)}).write_parquet(path)
    return str(path)


def test_a_builder_reads_the_file_as_it_is(rows):
    frame, path = rows
    assert ShardFile(path, "digest").read().rows.equals(frame)


@pytest.mark.parametrize("columns", [(), ("tokens",), ("task", "meta")])
def test_a_selector_reads_ids_and_what_it_needs(rows, columns):
    frame, path = rows
    read = ShardFile(path, "digest").read(columns).rows
    assert set(read.columns) == {"id", *columns}
    assert read.equals(frame.select(read.columns))


def test_plain_is_made_of_the_content(rows):
    frame, path = rows
    assert ShardFile(path, "digest").read(("plain",)).rows["plain"].to_list() == frame["text"].to_list()


def test_vectors_come_in_the_order_of_the_rows_or_not_at_all(rows, tmp_path):
    frame, path = rows
    ids = frame["id"].to_list()
    right = vectors_of(ids, tmp_path / "right.parquet")
    for columns in (None, ()):
        np.testing.assert_allclose(ShardFile(path, "d", right, "d").read(columns).vectors, VECTORS, atol=1e-6)
    assert ShardFile(path, "d").read().vectors is None
    turned = vectors_of(ids[::-1], tmp_path / "turned.parquet")
    with pytest.raises(MixturaError, match="must have the ids of their rows, in order"):
        ShardFile(path, "d", turned, "d").read(())
