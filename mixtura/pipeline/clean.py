"""Clean one shard: normal text, reasons for what is dropped, tokens, and signatures for deduplication.

A `clean` artefact holds
    rows.parquet        the kept rows (schema `ROW`), `tokens` set
    fates.parquet       one line per input row, in order: kept or why not (schema `FATE`)
    keys.parquet        one line per kept row: id as two u64, characters; all that exact dedup reads
    signatures.parquet  one u64 column per LSH band, one line per kept row; only where near_dedup is on
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mixtura.errors import CountError
from mixtura.pipeline import tables
from mixtura.pipeline.filters import Verdicts, judge_length, judge_repetition, judge_tokens
from mixtura.pipeline.shingles import band_signatures, comparable_text, shingle_bags
from mixtura.pipeline.tokens import Pieces, count_tokens, split, tokenizer_identity
from mixtura.recipe import Clean
from mixtura.rows import CONTENT, ROW, content_id, plain_text
from mixtura.store import Artefact, Store, code_version

BATCH_ROWS = 1024  # rows in memory at once; small enough for rows of 100 kB, large enough to amortise a call
SLICE_BYTES = 8 << 20  # text cut into pieces at once: about 40 bytes of arrays per byte of text
LIBRARIES = ("polars", "pyarrow", "numpy", "rensa", "ftfy")

FATE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("raw_id", pa.string(), nullable=False),  # before cleaning
        pa.field("id", pa.string()),  # after; null where dropped
        pa.field("tokens", pa.int32()),  # null where the row was dropped before counting
        pa.field("reason", pa.string()),  # null where kept
        pa.field("detail", pa.string()),  # the number that decided
    ]
)

KEY = pa.schema([pa.field("id_high", pa.uint64()), pa.field("id_low", pa.uint64()), pa.field("chars", pa.int64())])


@dataclass(frozen=True)
class CleanJob:
    """What one worker needs. rows: a Parquet file of schema `ROW`; digest: of its content; store: a folder."""

    rows: str
    digest: str
    clean: Clean
    seed: int  # nothing here is random; it stays out of the key
    store: str


def clean_shard(job: CleanJob) -> Artefact:
    """Clean one shard, or find it done.

    Facts: `read, kept, chars, tokens`, and `dropped` by reason.

    Raises:
        CountError: rows read are not rows kept plus rows dropped.
        InputError: the tokenizer cannot be loaded.
    """
    spec = job.clean.model_dump(mode="json", exclude={"exact_dedup"})
    spec["tokenizer"] = tokenizer_identity(job.clean.tokenizer)
    if spec["near_dedup"]:
        del spec["near_dedup"]["threshold"]  # decided later, by dedup
    return Store(job.store).make(
        "clean",
        lambda folder: _write(folder, job),
        inputs=[job.digest],
        spec=spec,
        code=code_version(__name__, LIBRARIES),
    )


def _write(folder: Path, job: CleanJob) -> dict[str, Any]:
    read, dropped = 0, Counter[str]()
    chars = tokens = kept = 0
    near = job.clean.near_dedup
    bands = pa.schema([pa.field(f"band_{b:02d}", pa.uint64()) for b in range(near.bands if near else 0)])
    with (
        tables.Writer(folder / "rows.parquet", ROW) as rows_out,
        tables.Writer(folder / "fates.parquet", FATE) as fates_out,
        tables.Writer(folder / "keys.parquet", KEY) as keys_out,
        tables.Writer(folder / "signatures.parquet", bands) if near else nullcontext() as signatures_out,
    ):
        for raw in slices(Path(job.rows)):
            done = clean_rows(raw, job.clean)
            read += len(raw)
            kept += len(done.kept)
            tokens += int(done.kept["tokens"].sum())
            chars += int(done.keys["chars"].sum())
            dropped.update(done.fates["reason"].drop_nulls().to_list())
            rows_out.add(done.kept)
            fates_out.add(done.fates)
            keys_out.add(done.keys)
            if near and signatures_out:
                owner, hashes = shingle_bags(done.kept, near.ngram, done.pieces)
                found = band_signatures(
                    owner, hashes, len(done.kept), bands=near.bands, rows_per_band=near.rows_per_band
                )
                signatures_out.add(pa.table(list(found.T.copy()), schema=bands))
    if read != kept + sum(dropped.values()):
        raise CountError(
            f"clean read {read} rows, kept {kept} and dropped {dict(dropped)}. This is a fault of Mixtura."
        )
    return {"read": read, "kept": kept, "chars": chars, "tokens": tokens, "dropped": dict(sorted(dropped.items()))}


def slices(path: Path, columns: Sequence[str] = ROW.names) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file in order, at most `BATCH_ROWS` and about `SLICE_BYTES` of text at once.

    Args:
        path: a file of schema `ROW`.
        columns: those to read, `text`, `messages` and `chosen` among them.
    """
    for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
        rows = pl.DataFrame(pl.from_arrow(batch))
        size = np.cumsum(plain_text(rows).str.len_bytes().to_numpy(), dtype=np.int64)
        group = size // SLICE_BYTES
        starts = [0, *(np.flatnonzero(np.diff(group)) + 1), len(rows)]
        for start, end in itertools.pairwise(starts):
            yield rows[int(start) : int(end)]


@dataclass(frozen=True)
class Cleaned:
    """What became of n rows.

    kept: the rows that stay, normalised, `tokens` set.
    fates: of all n rows, schema `FATE`.
    keys: of the kept rows, schema `KEY`.
    pieces: of the kept rows' comparable text.
    """

    kept: pl.DataFrame
    fates: pl.DataFrame
    keys: pl.DataFrame
    pieces: Pieces


def clean_rows(raw: pl.DataFrame, clean: Clean) -> Cleaned:
    """Normalise and judge rows.

    Args:
        raw: columns of `ROW`, of any number of rows.
        clean: the rules.
    """
    rows = normalise(raw, clean)
    plain = plain_text(rows).str.strip_chars()
    chars = plain.str.len_chars().to_numpy().astype(np.int64)
    verdicts = Verdicts(len(rows))
    judge_length(verdicts, chars, _unanswered(rows), clean)
    counted = verdicts.kept
    texts = plain.filter(pl.Series(counted))
    pieces = split(texts)  # once, for the count, the repetition rules and the shingles
    tokens = np.zeros(len(rows), dtype=np.int32)
    if clean.tokenizer == "words":
        tokens[counted] = pieces.per_text(pieces.word)
    else:
        tokens[counted] = count_tokens(texts, clean.tokenizer).to_numpy()
    judge_tokens(verdicts, tokens, clean)
    if clean.repetition is not None:
        judge_repetition(verdicts, np.flatnonzero(counted), texts, pieces.words(), clean.repetition)
    keep = pl.Series(verdicts.kept)
    rows = rows.with_columns(pl.Series("tokens", tokens))
    fates = raw.select("source", "file", "offset", pl.col("id").alias("raw_id")).with_columns(
        id=pl.when(keep).then(rows["id"]),
        tokens=pl.when(pl.Series(counted)).then(rows["tokens"]),
        reason=pl.Series(verdicts.reason.tolist(), dtype=pl.String),
        detail=pl.Series(verdicts.detail.tolist(), dtype=pl.String),
    )
    kept = rows.filter(keep)
    comparable = comparable_text(kept).str.strip_chars()
    same = comparable.equals(plain.filter(keep))  # but for tool calls and rejected answers
    pieces = pieces.of(verdicts.kept[counted]) if same else split(comparable)
    return Cleaned(kept, fates, keys_of(kept["id"]).with_columns(chars=pl.Series(chars).filter(keep)), pieces)


def keys_of(ids: pl.Series) -> pl.DataFrame:
    """Ids of 32 hex digits as two u64 columns, `id_high` and `id_low`: a third of the memory, and sortable at once."""
    raw = np.frombuffer(bytes.fromhex("".join(ids.to_list())), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return pl.DataFrame({"id_high": raw[:, 0], "id_low": raw[:, 1]})


def normalise(raw: pl.DataFrame, clean: Clean) -> pl.DataFrame:
    """Text in one Unicode form, with LF newlines, documents without surrounding white space; ids follow the text.

    Tool definitions and tool calls are JSON and stay as they are.
    """
    turns = [c for c in ("messages", "chosen", "rejected") if raw[c].null_count() < len(raw)]
    said = pl.element().struct.with_fields(content=_normal(pl.element().struct.field("content"), clean))
    rows = raw.with_columns(_normal_text(raw["text"], clean), *(pl.col(c).list.eval(said) for c in turns))
    changed = pl.Series([False]).new_from_index(0, len(raw))
    for column in ("text", *turns):
        changed = changed | rows[column].ne_missing(raw[column])
    if changed.any():
        new = [content_id(r) for r in rows.select(CONTENT).filter(changed).iter_rows(named=True)]
        ids = rows["id"].clone().scatter(changed.arg_true(), new)
        rows = rows.with_columns(ids)
    return rows


def _normal_text(texts: pl.Series, clean: Clean) -> pl.Series:
    """Documents in normal form. ASCII is in every normal form already, and most rows of most corpora are ASCII."""
    foreign = (texts.str.len_bytes() != texts.str.len_chars()).fill_null(False)
    ascii_form = clean.model_copy(update={"unicode": "none"})
    rows = pl.DataFrame({"text": texts}).with_columns(_normal(pl.col("text"), ascii_form).str.strip_chars())["text"]
    if clean.unicode == "none" or not foreign.any():
        return rows
    form = "NFC" if clean.unicode == "nfc" else "NFKC"
    return rows.scatter(foreign.arg_true(), rows.filter(foreign).str.normalize(form).str.strip_chars())


def _normal(text: pl.Expr, clean: Clean) -> pl.Expr:
    if clean.fix_encoding:
        from ftfy import fix_encoding  # only where asked for: 0.1 s to import

        text = text.map_elements(fix_encoding, return_dtype=pl.String)
    text = text.str.replace_all("\r\n", "\n", literal=True).str.replace_all("\r", "\n", literal=True)
    match clean.unicode:
        case "nfc":
            return text.str.normalize("NFC")
        case "nfkc":
            return text.str.normalize("NFKC")
        case "none":
            return text


def _unanswered(rows: pl.DataFrame) -> np.ndarray:
    """bool[n]: conversations that have assistant turns, all of them empty. A prompt without any is no fault."""
    turn = pl.element().struct
    blank = pl.concat_str([turn.field("content"), turn.field("tool_calls")], ignore_nulls=True).str.strip_chars() == ""
    answers = turn.field("role") == "assistant"
    messages = pl.col("messages")
    some = messages.list.eval(answers).list.any()
    good = messages.list.eval(answers & ~blank).list.any()
    return rows.select((some & ~good & pl.col("chosen").is_null()).fill_null(False).alias("unanswered"))[
        "unanswered"
    ].to_numpy()
