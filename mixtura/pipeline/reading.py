"""What a reader is, and the stream it reads: decompressed, bounded, and clear about where it broke.

A reader is a module that offers `READER`: one function from a stream to records, and the endings it answers to.
Whatever is wrong with a record becomes a `Broken` that carries its bytes, so that the rest of the file survives.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import zstandard
from pydantic import BaseModel, ConfigDict

from mixtura import registry
from mixtura.errors import InputError
from mixtura.rows import MAX_RAW

CHUNK = 1 << 17  # what is read stays in the processor's cache until it is parsed: a MiB made ingest a third slower
BOMB_FLOOR = 32 << 20  # no ratio is suspicious before this many bytes have come out
ZSTD_STEP = 1 << 10  # input bytes per step: 4 of them can mean 128 KiB, so one step stays below 32 MiB
ZSTD_WINDOW = 128 << 20  # what a frame may ask to keep in memory

FOREIGN = (
    (b"PK\x03\x04", "a zip archive", "Unpack it and name the files in it"),
    (b"PK\x05\x06", "an empty zip archive", "Unpack it and name the files in it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and name the files in it"),
    (b"Rar!\x1a\x07", "a rar archive", "Unpack it and name the files in it"),
    (b"\xfd7zXZ\x00", "an xz file", "Unpack it, or compress with gz or zst"),
    (b"BZh91AY&SY", "a bzip2 file", "Unpack it, or compress with gz or zst"),
    *((bytes([0x80, p]), "a pickle, which can run code", "Export it as JSONL or Parquet") for p in (2, 3, 4, 5)),
    (b"\x93NUMPY", "a NumPy array", "Export it as JSONL or Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", "Export it as JSONL or Parquet"),
    (b"SQLite format 3\x00", "an SQLite database", "Export it as JSONL or Parquet"),
    (b"ARROW1\x00\x00", "an Arrow file", "Write it as Parquet"),
    (b"%PDF-", "a PDF", "Extract its text"),
    (b"PAR1", "a Parquet file", "Set format: parquet"),
)


class Spec(BaseModel):
    """Base of a reader's options: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(NamedTuple):
    """A record as the file has it; `raw` is its bytes, or None where the format has none of its own (Parquet)."""

    offset: int
    value: dict[str, Any]
    raw: bytes | None = None


class Broken(NamedTuple):
    """A record that could not be read.

    error: `code: sentence`.
    raw: its bytes, the first MAX_RAW of them.
    raw_bytes: how many bytes it has.
    """

    offset: int
    error: str
    raw: bytes
    raw_bytes: int


def broken(offset: int, error: str, raw: bytes) -> Broken:
    """A `Broken` that keeps the first MAX_RAW bytes of `raw`."""
    return Broken(offset, error, raw[:MAX_RAW], len(raw))


@dataclass(frozen=True)
class Reader:
    """A file format.

    read: yields records in order of their offsets; an offset is a byte offset in the decompressed stream, except where
        the reader's docstring says row number.
    endings: of file names, without `.gz` or `.zst`; empty where a recipe must name the format.
    Options: the recipe's `options`.
    seekable: `stream.file` is needed, so the file cannot be compressed as a whole.
    """

    read: Callable[[Stream, Any], Iterator[Record | Broken]]
    endings: tuple[str, ...] = ()
    Options: type[Spec] = Spec
    seekable: bool = False


class Damage(Exception):
    """The compressed stream cannot be read beyond `offset` (in decompressed bytes)."""

    def __init__(self, offset: int, error: str) -> None:
        super().__init__(error)
        self.offset, self.error = offset, error


class Stream:
    """The decompressed bytes of one file, in bounded chunks.

    Args:
        file: the stored bytes, at their start.
        name: of the file, as rows say it.
        max_record_bytes: readers skip longer records without holding them.
        max_ratio: more decompressed bytes than this many times the stored ones, after BOMB_FLOOR, is a bomb.
        seekable: the reader uses `file` itself.

    Raises:
        InputError: the file is of a kind that is never read (an archive, a pickle, ...).
    """

    def __init__(
        self, file: BinaryIO, name: str, *, max_record_bytes: int, max_ratio: float, seekable: bool = False
    ) -> None:
        self.file, self.name = file, name
        self.max_record_bytes, self.max_ratio = max_record_bytes, max_ratio
        self.stored = self.offset = 0
        if not seekable:
            start = file.read(CHUNK)
            pieces = self._decompressed(start)
            try:
                self._first = next(pieces, b"")
            except Damage as damage:  # told when the chunks are asked for
                self._first, pieces = b"", _raise(damage)
            self._pieces = pieces
            _refuse_foreign(self._first, name)

    def chunks(self) -> Iterator[bytes]:
        """Non-empty chunks of the decompressed stream.

        Raises:
            Damage: the compressed stream is cut, corrupt or a bomb; all chunks before were good.
        """
        if self._first:
            self.offset += len(self._first)
            yield self._first
        for piece in self._pieces:
            self.offset += len(piece)
            yield piece

    def whole(self) -> bytes | Broken:
        """The whole file where it is one record, or the reason why not."""
        kept, size = bytearray(), 0
        try:
            for chunk in self.chunks():
                size += len(chunk)
                kept += chunk[: self.max_record_bytes + 1 - len(kept)]
        except Damage as damage:
            return Broken(0, damage.error, bytes(kept[:MAX_RAW]), size)
        if size > self.max_record_bytes:
            return Broken(0, too_long(self.max_record_bytes), bytes(kept[:MAX_RAW]), size)
        return bytes(kept)

    def _decompressed(self, start: bytes) -> Iterator[bytes]:
        if start.startswith(b"\x1f\x8b"):
            return self._bounded(_gunzip(self._stored(start)))
        if start.startswith((b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18")):
            return self._bounded(_unzstd(self._stored(start)))
        return self._stored(start)

    def _stored(self, start: bytes) -> Iterator[bytes]:
        chunk = start
        while chunk:
            self.stored += len(chunk)
            yield chunk
            chunk = self.file.read(CHUNK)

    def _bounded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Gather small pieces into chunks; turn damage and bombs into `Damage` after the good bytes."""
        total, gathered = 0, bytearray()
        error = None
        while error is None:
            try:
                piece = next(pieces)
            except StopIteration:
                break
            except (EOFError, zlib.error, zstandard.ZstdError) as e:
                error = f"truncated: the compressed stream is cut or corrupt ({e})"
                break
            total += len(piece)
            gathered += piece
            if total > BOMB_FLOOR and total > self.max_ratio * self.stored:
                error = f"bomb: the file swells more than {self.max_ratio:g} times (max_ratio)"
            if len(gathered) >= CHUNK:
                yield bytes(gathered)
                gathered.clear()
        if gathered:
            yield bytes(gathered)
        if error:
            raise Damage(total, error)


def open_stream(file: BinaryIO, name: str, reader: Reader, *, max_record_bytes: int, max_ratio: float) -> Stream:
    """A stream as this reader wants it; see `Stream`."""
    return Stream(file, name, max_record_bytes=max_record_bytes, max_ratio=max_ratio, seekable=reader.seekable)


def read_stream(stream: Stream, reader: Reader, options: Spec) -> Iterator[Record | Broken]:
    """Everything that is in a stream; damage that the reader did not place itself becomes the last `Broken`."""
    try:
        yield from reader.read(stream, options)
    except Damage as damage:
        yield Broken(damage.offset, damage.error, b"", 0)


def lines(stream: Stream) -> Iterator[tuple[int, bytes] | Broken]:
    """Lines with their byte offsets, without the LF; a UTF-8 byte order mark at the start is no part of the first.

    Memory: one chunk and one line of at most `max_record_bytes`; the rest of a longer line is counted, not held.
    """
    limit = stream.max_record_bytes
    hold = max(limit, MAX_RAW) + 1  # of a longer line, so that its quarantine is the same wherever chunks are cut
    carry, start, skipped = b"", 0, 0  # the open line: its first bytes, its offset, its bytes beyond the limit
    first = True
    try:
        for chunk in stream.chunks():
            if first and chunk.startswith(b"\xef\xbb\xbf"):
                chunk, start = chunk[3:], 3
            first = False
            head, newline, rest = chunk.partition(b"\n")
            if not newline:
                room = hold - len(carry)
                carry, skipped = carry + chunk[: max(room, 0)], skipped + max(len(chunk) - max(room, 0), 0)
                continue
            length = len(carry) + skipped + len(head)
            yield _line(start, carry + head[: max(hold - len(carry), 0)], length, limit)
            start += length + 1
            *whole, carry = rest.split(b"\n")
            skipped = 0
            for line in whole:
                yield (start, line) if len(line) <= limit else _line(start, line, len(line), limit)
                start += len(line) + 1
    except Damage as damage:
        yield Broken(start, damage.error, carry[:MAX_RAW], len(carry) + skipped)
        return
    if carry:
        yield _line(start, carry, len(carry) + skipped, limit)


def _line(start: int, kept: bytes, length: int, limit: int) -> tuple[int, bytes] | Broken:
    if length > limit:
        return Broken(start, too_long(limit), kept[:MAX_RAW], length)
    return start, kept


def too_long(limit: int) -> str:
    """The error of a record that is longer than the recipe allows."""
    return f"too-long: the record has more than {limit} bytes (max_record_bytes)"


def decoded(raw: bytes) -> str:
    """Strict UTF-8.

    Raises:
        ValueError: with the position of the first bad byte, as a quarantine error.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"bad-encoding: byte {e.start} is 0x{raw[e.start]:02x}, which is not UTF-8") from e


def stem(name: str) -> str:
    """A file name without its compression ending, in lower case."""
    name = name.lower()
    return name.removesuffix(".gz").removesuffix(".zst")


def reader_for(name: str) -> str | None:
    """The word of the reader that a file name's ending asks for."""
    name = stem(name)
    return next((word for ending, word in _endings() if name.endswith(ending)), None)


@cache
def _endings() -> tuple[tuple[str, str], ...]:
    pairs = [(e, word) for word in registry.words("readers") for e in registry.find("readers", word).endings]
    return tuple(sorted(pairs, key=lambda p: (-len(p[0]), p)))


def _refuse_foreign(start: bytes, name: str) -> None:
    for magic, kind, advice in FOREIGN:
        if start.startswith(magic):
            raise InputError(f"file {name!r}", f"must be text or Parquet, but is {kind}", next_step=advice)
    if start[257:262] == b"ustar":
        raise InputError(f"file {name!r}", "must be text or Parquet, but is a tar archive", next_step=FOREIGN[0][2])


def _gunzip(stored: Iterator[bytes]) -> Iterator[bytes]:
    """Every member in turn; zeros after a member are padding, anything else is damage."""
    inflate, open_member = zlib.decompressobj(31), False
    for data in stored:
        while True:
            if not open_member:
                data = data.lstrip(b"\0") if inflate.eof else data
                if not data:
                    break
                inflate, open_member = zlib.decompressobj(31), True
            piece = inflate.decompress(data, CHUNK)
            if piece:
                yield piece
            if inflate.eof:
                data, open_member = inflate.unused_data, False
                continue
            data = inflate.unconsumed_tail
            if not data and len(piece) < CHUNK:  # a full piece may leave more inside the decompressor
                break
    if open_member:
        raise EOFError("it ends within a gzip member")


def _unzstd(stored: Iterator[bytes]) -> Iterator[bytes]:
    """Every frame in turn, in steps small enough that no step can swell beyond 32 MiB."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    frame = None
    for data in stored:
        view, at = memoryview(data), 0
        while at < len(view):
            frame = frame or decompressor.decompressobj()
            step = view[at : at + ZSTD_STEP]
            at += len(step)
            if piece := frame.decompress(step):
                yield piece
            if frame.eof:
                at -= len(frame.unused_data)
                frame = None
    if frame is not None:
        raise EOFError("it ends within a zstd frame")


def _raise(damage: Damage) -> Iterator[bytes]:
    raise damage
    yield b""


def memory_stream(data: bytes, name: str = "memory", **limits: Any) -> Stream:
    """A stream over bytes at hand."""
    return Stream(io.BytesIO(data), name, **({"max_record_bytes": 16 << 20, "max_ratio": 200.0} | limits))
