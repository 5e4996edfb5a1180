"""Ingest: from a bundle of files to row shards and a quarantine, every record in exactly one of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mixtura import registry
from mixtura.errors import CountError, InputError, MixturaError
from mixtura.pipeline.locate import File
from mixtura.pipeline.reading import CHUNK, Broken, Record, Stream
from mixtura.pipeline.records import Together, open_file, open_records, open_together, options_of, word_of
from mixtura.pipeline.shards import QuarantineWriter, RowWriter
from mixtura.recipe import Source
from mixtura.rows import content_id, document_ids
from mixtura.store import Artefact, Store, code_version

ALONE = 8 << 20  # a file of this size is a bundle of its own
BUNDLE_FILES = 256  # small files in a bundle, on average
BUNDLE_BYTES = 32 << 20  # and the bytes at which it is closed anyway
LIBRARIES = ("orjson", "pyarrow", "zstandard", "charset-normalizer")
# what of a source decides its rows; thresholds and revision do not
DECIDES = {"format", "columns", "options", "license", "task", "language", "max_record_bytes", "max_ratio"}


@dataclass(frozen=True)
class Bundle:
    """Files of one source that are ingested together: the unit of work and of reuse."""

    source: str
    spec: Source
    files: tuple[File, ...]


@dataclass(frozen=True)
class IngestJob:
    """One bundle's work, small and picklable.

    store: folder of the store.
    shard_rows: most rows in one file of rows.
    """

    bundle: Bundle
    store: str
    shard_rows: int


def bundles(source: str, spec: Source, files: Sequence[File]) -> list[Bundle]:
    """Cut a source's files into bundles, such that a new file changes one bundle (at most splits it in two).

    Small files are cut in name order after each name whose hash is 0 modulo BUNDLE_FILES: where the cuts are depends
    on the names themselves, not on how many came before. Sizes close a bundle early, which shifts cuts only up to the
    next such name.
    """
    found: list[tuple[File, ...]] = [(f,) for f in files if f.bytes >= ALONE]
    held: list[File] = []
    held_bytes = 0
    for file in sorted((f for f in files if f.bytes < ALONE), key=lambda f: f.name):
        held.append(file)
        held_bytes += file.bytes
        mark = hashlib.blake2b(file.name.encode(), digest_size=8).digest()
        if int.from_bytes(mark, "big") % BUNDLE_FILES == 0 or held_bytes >= BUNDLE_BYTES:
            found.append(tuple(held))
            held, held_bytes = [], 0
    if held:
        found.append(tuple(held))
    return [Bundle(source, spec, group) for group in sorted(found, key=lambda g: g[0].name)]


def ingest(job: IngestJob) -> Artefact:
    """Rows and quarantine of one bundle, found in the store or made.

    Returns:
        kind `ingest`: `rows-00000.parquet`, … (schema ROW, ids and origins set, tokens null), `quarantine.parquet`;
        facts `source, read, rows, quarantined, bytes, files, errors {code: n}, first_error`.

    Raises:
        InputError: a file that is never read (an archive, a pickle), an ambiguous shape, or an impossible option.
        CountError: a record was lost; a fault of ours.
    """
    bundle = job.bundle
    words = {f.name: word_of(bundle.source, bundle.spec, f) for f in bundle.files}
    readers = sorted({registry.module_of("readers", w).__name__ for w in words.values()})
    for word in set(words.values()):
        options_of(bundle.source, bundle.spec, registry.find("readers", word))
    stamps = {f.name: _stamp(f) for f in bundle.files}  # before the digests: what is read must be what was hashed
    return Store(job.store).make(
        "ingest",
        partial(_write, job, stamps),
        inputs=[_file_digest(f) for f in bundle.files],
        spec={
            "source": bundle.source,
            "names": [f.name for f in bundle.files],
            "shard_rows": job.shard_rows,
            **bundle.spec.model_dump(mode="json", include=DECIDES),
        },
        code="+".join(code_version(m, LIBRARIES) for m in [__name__, *readers]),
    )


def check_source(name: str, spec: Source, made: Sequence[Artefact]) -> None:
    """Stop where a source yields nothing, or where too much of it is broken.

    Raises:
        InputError: with the counts and the first error.
    """
    read, rows, bad = [sum(a.facts[k] for a in made) for k in ("read", "rows", "quarantined")]
    first = next((a.facts["first_error"] for a in made if a.facts["first_error"]), None)
    came = f"{rows} rows and {bad} quarantined of {read} records"
    if rows == 0 and not spec.allow_empty:
        then = f"First error: {first}" if first else "The files hold no record; set allow_empty to go on"
        raise InputError(f"source {name!r}", "must yield at least one row", got=came, next_step=then)
    if bad > spec.max_quarantine * read and not (rows == 0 and bad == 0):
        raise InputError(
            f"source {name!r}",
            f"must have at most {spec.max_quarantine:.4g} of its records broken (max_quarantine)",
            got=came,
            next_step=f"First error: {first}",
        )


def _write(job: IngestJob, stamps: dict[str, tuple[int, int] | None], folder: Path) -> dict[str, Any]:
    bundle, spec = job.bundle, job.bundle.spec
    rows = RowWriter(folder, job.shard_rows)
    bad = QuarantineWriter(folder)
    read, errors, first_error = 0, Counter[str](), None
    defaults = {k: v for k in ("task", "language", "license") if (v := getattr(spec, k)) is not None}
    for file in bundle.files:
        rows.same(source=bundle.source, file=file.name, **defaults)
        fixed: dict[str, Any] = {"source": bundle.source, "file": file.name}
        with open_file(file) as opened:
            for item in open_together(bundle.source, spec, file, opened):
                if isinstance(item, Together):
                    read += len(item.offsets)
                    rows.extend(_completed(item, defaults), item.bytes)
                    continue
                read += 1
                if isinstance(item, Broken):
                    errors[item.error.partition(":")[0]] += 1
                    first_error = first_error or f"{file.name} at {item.offset}: {item.error}"
                    bad.add(fixed | item._asdict())
                    continue
                record, row = item
                row["id"], row["offset"] = content_id(row), record.offset
                for key in row.keys() & defaults.keys():
                    row[key] = row[key] or defaults[key]
                rows.add(row, len(record.raw or row.get("text") or b""))
            if _stamp(file) != stamps[file.name]:
                raise MixturaError(f"file {file.name!r} changed while it was read. Run again when it is complete.")
    rows.close()
    bad.close()
    if read != rows.count + bad.count:
        raise CountError(f"ingest of {bundle.source!r}: read {read}, but {rows.count} rows + {bad.count} quarantined")
    return {
        "source": bundle.source,
        "read": read,
        "rows": rows.count,
        "quarantined": bad.count,
        "bytes": sum(f.bytes for f in bundle.files),
        "files": len(bundle.files),
        "errors": dict(sorted(errors.items())),
        "first_error": first_error,
    }


def _completed(documents: Together, defaults: dict[str, str]) -> dict[str, list[Any]]:
    """Documents with their ids, and the recipe's word where they do not say themselves."""
    columns = dict(documents.columns)
    for key in columns.keys() & defaults.keys():
        columns[key] = [own or defaults[key] for own in columns[key]]
    return columns | {"id": document_ids(columns["text"]), "offset": documents.offsets}


def _stamp(file: File) -> tuple[int, int] | None:
    if "://" in file.url:
        return None
    facts = Path(file.url).stat()
    return facts.st_size, facts.st_mtime_ns


def _file_digest(file: File) -> str:
    h = hashlib.sha256()
    with open_file(file) as opened:
        while chunk := opened.read(CHUNK):
            h.update(chunk)
    return h.hexdigest()


@dataclass(frozen=True)
class SampledRows:
    """What a look at the start of a source's files shows, for `mixtura check`.

    rows: contents of the first good rows.
    read, quarantined: records looked at, and the broken ones among them.
    bytes: of all files, as stored.
    estimated_rows: of all files, from the bytes that the records looked at took.
    errors: the first of each code.
    """

    rows: list[dict[str, Any]]
    read: int
    quarantined: int
    bytes: int
    estimated_rows: int
    errors: dict[str, str]


def sample_rows(source: str, spec: Source, files: Sequence[File], limit: int = 1000) -> SampledRows:
    """Parse the start of up to 16 files, spread over the source, until `limit` records are seen. Writes nothing."""
    picked = list(files)[:: max(len(files) // 16, 1)][:16]
    rows: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    read = bad = 0
    seen_bytes = 0.0
    for file in picked:
        with open_file(file) as opened:
            stream, found = open_records(source, spec, file, opened)
            last = None
            for item in islice(found, max(limit // len(picked), 1)):
                read += 1
                last = item if isinstance(item, Broken) else item[0]
                if isinstance(item, Broken):
                    bad += 1
                    errors.setdefault(item.error.partition(":")[0], f"{file.name} at {item.offset}: {item.error}")
                else:
                    rows.append(item[1] | {"source": source, "file": file.name, "offset": item[0].offset})
            whole = last is None or next(found, None) is None
            seen_bytes += file.bytes if last is None or whole else min(_stored(stream, last, file), file.bytes)
    total = sum(f.bytes for f in files)
    estimated = round((read - bad) * total / seen_bytes) if seen_bytes else 0
    return SampledRows(rows, read, bad, total, estimated, errors)


def _stored(stream: Stream, last: Record | Broken, file: File) -> float:
    """Stored bytes up to and with a record."""
    if last.raw is None:  # Parquet: an offset is a row number, and the footer knows how many there are
        stream.file.seek(0)
        return file.bytes * (last.offset + 1) / max(pq.read_metadata(stream.file).num_rows, 1)
    return (last.offset + len(last.raw)) * stream.stored / max(stream.offset, 1)
