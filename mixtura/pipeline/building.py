"""Run a builder: look at all rows once, then build shard by shard, every row in and out accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from mixtura.errors import CountError
from mixtura.pipeline import tables
from mixtura.pipeline.builder import Built, Means, asked_text
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.named import Named
from mixtura.pipeline.shard_file import ShardFile
from mixtura.rows import MESSAGES, QUARANTINE, ROW
from mixtura.store import Artefact, Store, code_version

LIBRARIES = ("numpy", "polars", "orjson", "faiss-cpu", "jsonschema")

TURNED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("built", pa.int32(), nullable=False),  # rows it is a parent of
        pa.field("reason", pa.string()),  # why it gave none, or not all; the first reason where there are several
        pa.field("detail", pa.string()),
    ]
)

ASKED = pa.schema(
    [
        pa.field(n, t)
        for n, t in (("id", pa.string()), ("text", pa.string()), ("messages", MESSAGES), ("chosen", MESSAGES))
    ]
)


Opener = Callable[[Any], Any]  # the generator that a builder's options name; this part knows none


@dataclass(frozen=True, kw_only=True)
class Chosen(Named):
    """A builder by its word, with its options and files.

    name: what the recipe calls its rows.
    files: option → path and digest of the file that it names.
    """

    kind = "builders"

    name: str
    seed: int
    files: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def builder(self) -> Any:
        """The builder object."""
        return self.found

    @property
    def key(self) -> dict[str, Any]:
        """What an artefact's key says of it: a file counts by its contents, as a model does."""
        files = {option: digest for option, (_, digest) in self.files.items()}
        own = {k: v for k, v in self.keyed_options.items() if k not in files}
        return {"builder": self.word, "name": self.name, "options": own, "files": files, "seed": self.seed}

    @property
    def code(self) -> str:
        """Version of the builder's code and of this module's."""
        return code_version(self.module, LIBRARIES) + code_version(__name__)

    @property
    def asks_model(self) -> bool:
        """Whether it asks a model: its options name one."""
        return self.builder.needs.generator and self.options.get("model") is not None

    def means(self, open_generator: Opener | None) -> Means:
        """What the builder works with."""
        texts = {option: Path(path).read_text(encoding="utf-8") for option, (path, _) in self.files.items()}
        generator = open_generator(self.spec) if open_generator and self.asks_model else None
        return Means(self.seed, texts, generator)


@dataclass(frozen=True)
class AskedJob:
    """What the encoder is to read of one shard. rows: its Parquet file; digest: of its content; store: a folder."""

    rows: str
    digest: str
    store: str


def asked_shard(job: AskedJob) -> Artefact:
    """Artefact `asked`: `asked.parquet` with `id` and `text`, what each row asks, in row order."""

    def write(folder: Path) -> dict[str, Any]:
        rows = pl.read_parquet(job.rows, columns=["id", "text", "messages"])
        table = pl.DataFrame({"id": rows["id"], "text": asked_text(rows)})
        tables.write(folder / "asked.parquet", tables.conform(table, ASKED))
        return {"rows": rows.height}

    return Store(job.store).make("asked", write, inputs=[job.digest], spec={}, code=code_version(__name__))


class Material:
    """All rows that a builder reads, a shard at a time, as often as it walks them."""

    def __init__(self, shards: Sequence[ShardFile]) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[Shard]:
        return (s.read() for s in self.shards)


def fit(chosen: Chosen, shards: Sequence[ShardFile], store: Store, open_generator: Opener | None = None) -> Artefact:
    """Let a builder look at all rows; the artefact `surveyed` holds what it learned, and its facts."""

    def write(folder: Path) -> dict[str, Any]:
        fitted = chosen.builder.fit(chosen.spec, Material(shards), chosen.means(open_generator))
        fitted.save(folder)
        return fitted.facts

    inputs = [d for s in shards for d in s.digests]
    return store.make("surveyed", write, inputs=inputs, spec=chosen.key, code=chosen.code)


@dataclass(frozen=True)
class BuildJob:
    """Build one shard."""

    chosen: Chosen
    fitted: str
    fitted_digest: str
    shard: ShardFile
    store: str


def build_shard(job: BuildJob, open_generator: Opener | None = None) -> Artefact:
    """New rows of one shard, as ingest would leave them, so that the later stages take them as such.

    Returns:
        kind `built`: `rows-00000.parquet` (schema ROW, where there is a row), `turned.parquet` (schema TURNED, a line
        for each row that was read), `quarantine.parquet` (empty); facts `source, read, rows, quarantined, bytes, files,
        errors, first_error` of the new rows, and `parents` read and `refused` by reason.

    Raises:
        CountError: a row that was read is neither a parent nor refused, or a row has a parent that was not read.
    """

    def write(folder: Path) -> dict[str, Any]:
        shard = job.shard.read()
        chosen = job.chosen
        built = chosen.builder.build(chosen.spec, Fitted.load(Path(job.fitted)), shard, chosen.means(open_generator))
        turned = _turned(chosen, shard, built)
        tables.write(folder / "turned.parquet", turned)
        tables.write(folder / "quarantine.parquet", QUARANTINE.empty_table())
        if built.rows:
            tables.write(folder / "rows-00000.parquet", tables.conform(built.table(chosen.name), ROW))
        n = len(built.rows)
        refused = Counter(turned.column("reason").drop_null().to_pylist())
        books = {"source": chosen.name, "read": n, "rows": n, "quarantined": 0, "bytes": 0, "files": 0}
        books |= {"errors": {}, "first_error": None}
        return books | {"parents": len(shard), "refused": dict(sorted(refused.items()))}

    inputs = [job.fitted_digest, *job.shard.digests]
    return Store(job.store).make("built", write, inputs=inputs, spec=job.chosen.key, code=job.chosen.code)


def _turned(chosen: Chosen, shard: Shard, built: Built) -> pa.Table:
    """What became of each row that was read, in its order; the books of one shard."""
    count: Counter[str] = Counter(p for r in built.rows for p in r["parents"])
    why: dict[str, tuple[str, str]] = {}
    for row, reason, detail in built.refused:
        why.setdefault(row, (reason, detail))
    ids = shard.rows["id"].to_list()
    if strange := (count.keys() | why.keys()) - set(ids):
        raise CountError(f"builder {chosen.word!r} named {len(strange)} rows that it did not read: {min(strange)}")
    if silent := [i for i in ids if i not in count and i not in why]:
        raise CountError(f"builder {chosen.word!r} lost {len(silent)} rows without a reason, the first is {silent[0]}")
    columns = {
        "id": ids,
        "built": [count[i] for i in ids],
        "reason": [why[i][0] if i in why else None for i in ids],
        "detail": [why[i][1] or None if i in why else None for i in ids],
    }
    return pa.table(columns, schema=TURNED)
