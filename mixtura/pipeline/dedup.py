"""Deduplicate across all shards: exact by content id, near by shingles, and against the target.

Who survives is defined, not found: of rows that count as one, the row of the earliest source, then of most
characters, then of the smallest id, then of the smallest file and offset. Target rows come before every source. So
neither the order in which shards came nor their size changes the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mixtura.errors import CountError, InputError
from mixtura.pipeline import tables
from mixtura.pipeline.clean import slices
from mixtura.pipeline.lsh import candidates, components
from mixtura.pipeline.shingle_file import ShingleFile
from mixtura.pipeline.shingles import shingle_sets
from mixtura.recipe import Clean
from mixtura.rows import CONTENT, ROW, plain_text
from mixtura.store import Artefact, Store, code_version

LIBRARIES = ("numpy", "polars", "pyarrow", "scipy")
PROTECTED = -1  # source rank of target rows: before every source

DROP = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),  # position in the shard's kept rows
        pa.field("reason", pa.string(), nullable=False),
        pa.field("survivor", pa.string(), nullable=False),  # id of the row that stands for it
        pa.field("similarity", pa.float32(), nullable=False),  # Jaccard of shingles with the survivor; 1 if exact
    ]
)


@dataclass(frozen=True)
class Keys:
    """What decides survival, for the N kept rows of all shards, protected ones included, shard by shard.

    order: i64[N], rows from the first to survive to the last.
    high, low: u64[N], the id.
    protected: bool[N].
    shard_start: i64[shards + 1], where each shard's rows begin.
    """

    order: np.ndarray
    high: np.ndarray
    low: np.ndarray
    protected: np.ndarray
    shard_start: np.ndarray

    def id(self, row: int) -> str:
        """The id of a row, as 32 hex digits."""
        return f"{int(self.high[row]):016x}{int(self.low[row]):016x}"


@dataclass(frozen=True)
class Copies:
    """What deduplication found about N rows.

    survivor: i64[N], the row that stands for each; a row that stays stands for itself.
    near: bool[N], found by shingles rather than by id.
    similarity: f32[N], Jaccard with the survivor.
    compared, unverified: see `lsh.Found`.
    """

    survivor: np.ndarray
    near: np.ndarray
    similarity: np.ndarray
    compared: int = 0
    unverified: int = 0


def dedup(
    shards: Sequence[Artefact],
    *,
    clean: Clean,
    source_order: Sequence[str],
    protected: Sequence[Artefact],
    store: Store,
    protected_reason: str = "in-target",
) -> Artefact:
    """Decide which kept rows of the pool are copies, or find it decided.

    Args:
        shards: `clean` artefacts of the pool, in canonical order.
        clean: `exact_dedup` and `near_dedup` matter here.
        source_order: all sources; an earlier one wins.
        protected: `clean` artefacts of target rows: what equals them leaves the pool.
        store: where the artefact goes.
        protected_reason: why a row leaves that equals a protected one.

    Returns:
        Artefact `dedup`: `drops-00000.parquet` for each shard in order (schema `DROP`). Facts: `read`, `kept`,
        `dropped` by reason, `compared` pairs, and `unverified`, pairs of crowded buckets left uncompared.

    Raises:
        InputError: a shard holds a source that `source_order` lacks.
        CountError: rows read are not rows kept plus rows dropped.
    """
    near = clean.near_dedup
    return store.make(
        "dedup",
        lambda folder: _write(folder, shards, clean, source_order, protected, protected_reason),
        inputs=[*(s.digest for s in shards), *(p.digest for p in protected)],
        spec={
            "exact": clean.exact_dedup,
            "near": near.model_dump(mode="json") if near else None,
            "source_order": list(source_order),
            "shards": len(shards),
            "protected": protected_reason,
        },
        code=code_version(__name__, LIBRARIES),
    )


def _write(
    folder: Path,
    shards: Sequence[Artefact],
    clean: Clean,
    source_order: Sequence[str],
    protected: Sequence[Artefact],
    protected_reason: str,
) -> dict[str, Any]:
    everything = [*protected, *shards]
    keys = read_keys(everything, source_order, n_protected=len(protected))
    copies = find_copies(folder / "shingles", everything, keys, clean)
    dropped: Counter[str] = Counter()
    read = kept = 0
    for number in range(len(shards)):
        first, last = keys.shard_start[len(protected) + number], keys.shard_start[len(protected) + number + 1]
        drops = _drops(keys, copies, int(first), int(last), protected_reason)
        tables.write(folder / f"drops-{number:05d}.parquet", tables.conform(drops, DROP))
        read += int(last - first)
        kept += int(last - first) - len(drops)
        dropped.update(drops["reason"].to_list())
    if read != sum(s.facts["kept"] for s in shards) or read != kept + sum(dropped.values()):
        raise CountError(f"dedup read {read} rows, kept {kept} and dropped {dict(dropped)}. A fault of Mixtura.")
    counts = {"compared": copies.compared, "unverified": copies.unverified}
    return {"read": read, "kept": kept, "dropped": dict(sorted(dropped.items())), **counts}


def _drops(keys: Keys, copies: Copies, first: int, last: int, protected_reason: str) -> pl.DataFrame:
    """The dropped rows of one shard, schema `DROP`."""
    rows = np.arange(first, last)
    gone = rows[copies.survivor[rows] != rows]
    reason = np.where(copies.near[gone], "near-duplicate", "exact-duplicate").astype(object)
    reason[keys.protected[copies.survivor[gone]]] = protected_reason
    return pl.DataFrame(
        {
            "row": (gone - first).astype(np.int32),
            "reason": pl.Series(reason.tolist(), dtype=pl.String),
            "survivor": pl.Series([keys.id(s) for s in copies.survivor[gone]], dtype=pl.String),
            "similarity": copies.similarity[gone],
        }
    )


def read_keys(shards: Sequence[Artefact], source_order: Sequence[str], n_protected: int) -> Keys:
    """Read ids, characters and origins of all shards, and put the rows in order of survival.

    Raises:
        InputError: a pool shard holds an unknown source.
    """
    rank = {name: i for i, name in enumerate(source_order)}
    files: dict[str, int] = {}  # numbered as they appear, ranked by name below
    parts: list[pl.DataFrame] = []
    for number, shard in enumerate(shards):
        origin = pl.read_parquet(shard.file("rows.parquet"), columns=["source", "file", "offset"])
        sources = origin["source"].unique().to_list()
        if number < n_protected:
            rank_here = dict.fromkeys(sources, PROTECTED)
        elif unknown := sorted(set(sources) - set(rank)):
            raise InputError("source_order", "must name every source of the pool", got=f"no {unknown}")
        else:
            rank_here = rank
        for name in origin["file"].unique().to_list():
            files.setdefault(name, len(files))
        codes = origin.select(
            pl.col("source").replace_strict(rank_here, return_dtype=pl.Int32),
            pl.col("file").replace_strict(files, return_dtype=pl.Int32),
            "offset",
        )
        parts.append(pl.read_parquet(shard.file("keys.parquet")).hstack(codes))
    schema = {"id_high": pl.UInt64, "id_low": pl.UInt64, "chars": pl.Int64, "source": pl.Int32, "file": pl.Int32}
    rows = pl.concat(parts) if parts else pl.DataFrame(schema={**schema, "offset": pl.Int64})
    by_name = np.zeros(len(files), dtype=np.int32)
    by_name[[files[name] for name in sorted(files)]] = np.arange(len(files))
    high, low, source = (rows[c].to_numpy() for c in ("id_high", "id_low", "source"))
    file = by_name[rows["file"].to_numpy()] if len(rows) else rows["file"].to_numpy()
    order = np.lexsort((rows["offset"].to_numpy(), file, low, high, -rows["chars"].to_numpy(), source))
    return Keys(order, high, low, source == PROTECTED, np.cumsum([0, *map(len, parts)]))


def exact_survivors(keys: Keys, everywhere: bool) -> np.ndarray:
    """The row that stands for each row by content id.

    Args:
        keys: of all rows.
        everywhere: False: only copies of protected rows are found.

    Returns:
        i64[N]; a row that survives stands for itself.
    """
    rank = np.empty(len(keys.order), dtype=np.int64)
    rank[keys.order] = np.arange(len(rank))
    by_id = np.lexsort((rank, keys.low, keys.high))
    same = np.zeros(len(by_id), dtype=bool)
    same[1:] = (keys.high[by_id][1:] == keys.high[by_id][:-1]) & (keys.low[by_id][1:] == keys.low[by_id][:-1])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(by_id))))
    survivor = np.empty(len(by_id), dtype=np.int64)
    survivor[by_id] = by_id[first]
    return survivor if everywhere else np.where(keys.protected[survivor], survivor, np.arange(len(survivor)))


def find_copies(scratch: Path, shards: Sequence[Artefact], keys: Keys, clean: Clean) -> Copies:
    """Who stands for whom: exact copies first, then near ones among what is left.

    Args:
        scratch: a file name to use and remove.
        shards: of all rows, protected ones included.
        keys: of all rows.
        clean: the rules.
    """
    survivor = exact_survivors(keys, clean.exact_dedup)
    copies = Copies(survivor, np.zeros(len(survivor), dtype=bool), np.ones(len(survivor), dtype=np.float32))
    if clean.near_dedup is None:
        return copies
    alive = keys.order[survivor[keys.order] == keys.order]  # in order of survival: these are the nodes
    bands, columns = clean.near_dedup.bands, _Bands(shards, alive)
    nodes = np.flatnonzero(candidates(len(alive), bands, columns.read))
    sets = ShingleFile(scratch, len(alive))
    node_of = np.full(len(survivor), -1, dtype=np.int64)
    node_of[alive[nodes]] = nodes
    for number, shard in enumerate(shards):
        _add_sets(sets, shard, node_of[keys.shard_start[number] : keys.shard_start[number + 1]], clean.near_dedup.ngram)
    sets.finish()
    found = components(nodes, bands, columns.read, sets, clean.near_dedup.threshold)
    roots = found.forest.find(np.arange(len(alive)))
    gone = np.flatnonzero(roots != np.arange(len(alive)))
    survivor[alive[gone]] = alive[roots[gone]]
    copies.near[alive[gone]] = True
    copies.similarity[alive[gone]] = sets.jaccard(gone, roots[gone])
    sets.remove()
    return replace(copies, compared=found.compared, unverified=found.unverified)


@dataclass(frozen=True)
class _Bands:
    """Reads one band's hashes of chosen rows, u64[n], from the signatures of all shards."""

    shards: Sequence[Artefact]
    rows: np.ndarray

    def read(self, number: int) -> np.ndarray:
        name = f"band_{number:02d}"
        parts = [pl.read_parquet(s.file("signatures.parquet"), columns=[name])[name].to_numpy() for s in self.shards]
        return np.concatenate([*parts, np.zeros(0, dtype=np.uint64)])[self.rows]


def _add_sets(sets: ShingleFile, shard: Artefact, node_of: np.ndarray, ngram: int) -> None:
    """Cut the candidates of one shard into shingles. node_of: i64[rows], -1 where a row is no candidate."""
    if (node_of < 0).all():
        return
    first = 0
    for rows in slices(shard.file("rows.parquet"), CONTENT):
        nodes = node_of[first : first + len(rows)]
        first += len(rows)
        if (some := nodes >= 0).any():
            sets.add(nodes[some], shingle_sets(rows.filter(pl.Series(some)), ngram))


@dataclass(frozen=True)
class PoolJob:
    """What one worker needs: a clean shard's rows and its drops, with the digests of both, and the store."""

    rows: str
    rows_digest: str
    drops: str
    drops_digest: str
    store: str


def pool_shard(job: PoolJob) -> Artefact:
    """The rows of one clean shard that survive deduplication: `rows.parquet`. Facts: `rows, tokens, chars`."""
    return Store(job.store).make(
        "pool",
        lambda folder: _write_pool(folder, job),
        inputs=[job.rows_digest, job.drops_digest],
        spec={},
        code=code_version(__name__, ("pyarrow", "polars")),
    )


def _write_pool(folder: Path, job: PoolJob) -> dict[str, Any]:
    facts = {"rows": 0, "tokens": 0, "chars": 0}
    dropped = pl.read_parquet(job.drops, columns=["row"])["row"].to_numpy()
    first = 0
    with tables.Writer(folder / "rows.parquet", ROW) as out:
        for rows in slices(Path(job.rows)):
            keep = ~np.isin(np.arange(first, first + len(rows)), dropped)
            first += len(rows)
            kept = rows.filter(pl.Series(keep))
            facts["rows"] += len(kept)
            facts["tokens"] += int(kept["tokens"].sum())
            facts["chars"] += int(plain_text(kept).str.strip_chars().str.len_chars().sum())
            out.add(kept)
    if first != facts["rows"] + len(dropped):
        raise CountError(
            f"pool read {first} rows, kept {facts['rows']} and dropped {len(dropped)}. A fault of Mixtura."
        )
    return facts
