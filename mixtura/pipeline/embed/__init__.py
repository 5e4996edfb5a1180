"""Vectors: one encoder for pool, target and reference, and the job that embeds a shard.

An encoder turns text into unit vectors whose inner product is the cosine. `fitted` needs no model; anything else is
a sentence-transformers model. Both stand behind `Encoder`, and a row's vector depends on its text alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mixtura.errors import CountError, InputError
from mixtura.pipeline.embed.norm import unit
from mixtura.pipeline.lengths import batch_size
from mixtura.pipeline.models import find_model, model_digest, pick_device
from mixtura.recipe import Embed
from mixtura.rows import plain_text
from mixtura.store import Artefact, Store, code_version

READ = ("id", "text", "messages", "chosen")
BATCH_ROWS = 4_096  # rows that are read, embedded and written at once: a Parquet row group of 2 MiB at 256 dimensions


class Encoder(Protocol):
    """Text in, vectors out.

    folder: the files it works from; another process opens the same encoder from it.
    digest: of their contents, for keys.
    dimensions: of its vectors.
    """

    folder: str
    digest: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, d] in order, unit L2 norm; zeros for a text in which the encoder knows nothing."""
        ...

    def stream(self, batches: Iterable[Sequence[str]]) -> Iterator[np.ndarray]:
        """As `encode`, batch by batch; it may read a batch ahead."""
        ...


@dataclass(frozen=True)
class EmbedJob:
    """Embed one shard.

    rows: Parquet file with the columns of `rows.ROW`, or those of `READ`.
    rows_digest: of its content.
    embed: the recipe's settings.
    encoder: `Encoder.folder`.
    encoder_digest: `Encoder.digest`.
    store: the store's root.
    """

    rows: str
    rows_digest: str
    embed: Embed
    encoder: str
    encoder_digest: str
    store: str


def fit_encoder(spec: Embed, texts: Iterable[str], *, seed: int, store: Store, inputs: Sequence[str]) -> Artefact:
    """Fit the `fitted` encoder, or find it in the store.

    Args:
        spec: the recipe's settings.
        texts: what it learns from, in an order that does not depend on shards; consumed only when it is not in the
            store, so a generator saves the reading.
        seed: of the randomised SVD.
        store: receives an artefact of kind `encoder`.
        inputs: digests of the tables that the texts come from.

    Raises:
        InputError: no text holds a word.
    """
    from mixtura.pipeline.embed import fitted

    options = spec.model_dump(include={"dimensions", "features", "fit_rows", "fit_on", "max_chars"})
    return store.make(
        "encoder",
        lambda folder: fitted.fit(spec, list(texts), folder, seed=seed),
        inputs=inputs,
        spec=options | {"seed": seed},
        code=code_version(fitted.__name__, fitted.LIBRARIES),
    )


def load_encoder(spec: Embed, artefact: Artefact | None = None, model_path: str | None = None) -> Encoder:
    """The encoder that the recipe names.

    Args:
        spec: the recipe's settings.
        artefact: from `fit_encoder`; needed for `fitted`.
        model_path: name or folder of the model where it differs from `spec.encoder`, such as with `${NAME}` resolved.

    Raises:
        InputError: no such model, one that cannot be loaded safely, or no such device.
    """
    if spec.encoder == "fitted":
        if artefact is None:
            raise InputError("encoder 'fitted'", "must be fitted before it encodes", next_step="Call fit_encoder first")
        return _encoder(spec, artefact.path, artefact.digest)
    folder = find_model(
        model_path or spec.encoder,
        spec.revision,
        key="embed.encoder",
        owner="sentence-transformers",  # the library's own short names
        instead=", or encoder: fitted, which needs none",
    )
    return _encoder(spec, folder, model_digest(folder))


def embed_shard(job: EmbedJob) -> Artefact:
    """Vectors of a shard, in row order: artefact `vectors` with `vectors.parquet` (`id`, `vector`).

    `vector` is a fixed-size list of f16 or f32; facts count `rows`, `dimensions`, `zero` (rows in which the encoder
    knows nothing) and `cut` (rows longer than `embed.max_chars`).

    Raises:
        CountError: a row has no vector.
        InputError: a vector is not finite.
    """
    return Store(job.store).make(
        "vectors",
        lambda folder: _write_vectors(job, folder / "vectors.parquet"),
        inputs=[job.rows_digest, job.encoder_digest],
        spec=_vector_options(job.embed),
        code=_code(job.embed),
    )


def read_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Ids and f32[n, d] of unit norm (zero rows stay zero), in row order, from a `vectors.parquet`."""
    table = pq.read_table(path, columns=["id", "vector"])
    width = table.schema.field("vector").type.list_size
    parts = [c.flatten().to_numpy(zero_copy_only=False) for c in table["vector"].chunks]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return table["id"].to_pylist(), unit(flat.astype(np.float32).reshape(-1, width))


def _encoder(spec: Embed, folder: str, digest: str) -> Encoder:
    if spec.encoder == "fitted":
        return _fitted(folder, digest, spec.max_chars)
    return _sentence(folder, digest, spec.max_chars, spec.device, spec.batch_tokens)


@lru_cache(maxsize=2)  # one load per process, whatever the number of shards
def _fitted(folder: str, digest: str, max_chars: int) -> Encoder:
    from mixtura.pipeline.embed.fitted import FittedEncoder

    return FittedEncoder(folder, digest, max_chars)


@lru_cache(maxsize=1)
def _sentence(folder: str, digest: str, max_chars: int, device: str, batch_tokens: int) -> Encoder:
    from mixtura.pipeline.embed.sentence import SentenceEncoder

    return SentenceEncoder(folder, digest, max_chars=max_chars, device=device, batch_tokens=batch_tokens)


def _vector_options(spec: Embed) -> dict[str, Any]:
    """What decides a vector besides text and encoder; device and batch shape a model's last bits."""
    options: dict[str, Any] = {"dtype": spec.dtype, "max_chars": spec.max_chars}
    if spec.encoder != "fitted":
        device = pick_device(spec.device, key="embed.device")
        options |= {"device": device, "batch_tokens": batch_size(device, spec.batch_tokens)}
    return options


def _code(spec: Embed) -> str:
    if spec.encoder == "fitted":
        from mixtura.pipeline.embed import fitted as home
    else:
        from mixtura.pipeline.embed import sentence as home
    return code_version(__name__, home.LIBRARIES)


def _write_vectors(job: EmbedJob, path: Path) -> dict[str, Any]:
    """Read, embed and write a batch at a time: memory does not grow with the shard."""
    encoder = _encoder(job.embed, job.encoder, job.encoder_digest)
    width, dtype = encoder.dimensions, np.float16 if job.embed.dtype == "f16" else np.float32
    kind = pa.list_(pa.from_numpy_dtype(dtype), width)
    facts = {"rows": 0, "dimensions": width, "zero": 0, "cut": 0}
    ids: deque[pa.Array] = deque()  # of batches that the encoder has been given, and that are not written yet

    def texts() -> Iterator[list[str]]:
        for rows in _batches(job.rows):
            ids.append(rows["id"].cast(pl.String).to_arrow().cast(pa.string()))
            yield (batch := plain_text(rows).to_list())
            facts["cut"] += sum(len(text) > job.embed.max_chars for text in batch)

    schema = pa.schema({"id": pa.string(), "vector": kind})
    # noise does not compress, and its minimum and maximum help nobody
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False) as out:
        for vectors in encoder.stream(texts()):
            written = ids.popleft()
            _check(job, vectors, (len(written), width))
            stored = pa.array(vectors.astype(dtype).reshape(-1))
            out.write_table(pa.table([written, pa.FixedSizeListArray.from_arrays(stored, width)], schema=schema))
            facts["rows"] += len(written)
            facts["zero"] += int((~vectors.any(axis=1)).sum())
    if ids:
        raise CountError(f"embedding gave no vectors for the last {sum(map(len, ids))} rows")
    return facts


def _batches(path: str) -> Iterator[pl.DataFrame]:
    """Rows of a shard, with the columns of `READ` that it has."""
    with pq.ParquetFile(path) as file:
        columns = [c for c in READ if c in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield pl.DataFrame(batch)


def _check(job: EmbedJob, vectors: np.ndarray, shape: tuple[int, int]) -> None:
    if vectors.shape != shape:
        raise CountError(f"embedding {shape[0]} rows gave vectors of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise InputError(
            f"encoder {job.embed.encoder!r}",
            "must give finite vectors",
            got=f"{int((~np.isfinite(vectors)).any(axis=1).sum())} rows with NaN or infinity",
            next_step="Try embed.device: cpu, which computes in f32",
        )
