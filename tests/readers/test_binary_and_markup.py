"""Compression, Parquet and markup: what is whole survives, what is broken is told."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura import registry
from mixtura.errors import InputError
from mixtura.pipeline.reading import Broken, Damage, Record, Stream, memory_stream, read_stream


def read(word, data, options=None, name="f", **limits):
    reader = registry.find("readers", word)
    limits = {"max_record_bytes": 16 << 20, "max_ratio": 200.0} | limits
    stream = Stream(io.BytesIO(data), name, seekable=reader.seekable, **limits)
    return list(read_stream(stream, reader, reader.Options.model_validate(options or {})))


def records(found):
    return [r.value for r in found if isinstance(r, Record)]


def errors(found):
    return [r.error.partition(":")[0] for r in found if isinstance(r, Broken)]


def zst(data):
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


LINES = b"".join(json.dumps({"i": i, "x": f"{i * 7919:x}"}).encode() + b"\n" for i in range(20_000))
EXPECTED = [json.loads(line) for line in LINES.splitlines()]


@pytest.mark.parametrize("pack", [gzip.compress, zst])
def test_compressed_files_are_known_by_their_magic(pack):
    assert records(read("jsonl", pack(LINES))) == EXPECTED
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    assert records(read("jsonl", pack(LINES[:half]) + pack(b"") + pack(LINES[half:]))) == EXPECTED  # members


@pytest.mark.parametrize("pack", [gzip.compress, zst])
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.9999])
def test_a_cut_stream_keeps_every_line_that_is_whole(pack, keep):
    packed = pack(LINES)
    found = read("jsonl", packed[: int(len(packed) * keep)])
    good = records(found)
    assert good == EXPECTED[: len(good)]
    assert len(good) > 0.6 * keep * len(EXPECTED)  # blocks are read to the last one that is whole
    assert errors(found) == ["truncated"]
    at = found[-1].offset
    assert LINES[at:].startswith(found[-1].raw)
    assert at == 0 or LINES[at - 1 : at] == b"\n"


@pytest.mark.parametrize("pack", [gzip.compress, zst])
def test_garbage_after_the_stream_costs_no_line(pack):
    found = read("jsonl", pack(LINES) + b"garbage, not a member")
    assert records(found) == EXPECTED
    assert errors(found) == ["truncated"]
    assert errors(read("jsonl", gzip.compress(LINES) + b"\0" * 512)) == []  # tape padding is no damage


@pytest.mark.parametrize("pack", [gzip.compress, zst])
def test_a_flipped_bit_is_noticed(pack):
    packed = bytearray(pack(LINES))
    packed[-2 if pack is gzip.compress else len(packed) // 2] ^= 4
    found = read("jsonl", bytes(packed))
    assert errors(found)[-1] == "truncated"


@pytest.mark.parametrize("pack", [gzip.compress, zst])
def test_a_bomb_is_stopped_at_its_ratio(pack):
    bomb = pack(b'{"a": 1}\n' + b" " * (80 << 20))
    sizes = []
    with pytest.raises(Damage, match="swells more than 200 times"):
        sizes.extend(map(len, memory_stream(bomb).chunks()))  # extend keeps what came before the error
    assert max(sizes) <= 33 << 20
    assert sum(sizes) <= 66 << 20
    found = read("jsonl", bomb)
    assert records(found) == [{"a": 1}]
    assert errors(found) == ["bomb"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x80\x04\x95rest", "a pickle, which can run code"),
        (b"\xfd7zXZ\x00rest", "an xz file"),
        (b"PAR1rest", "a Parquet file"),
        (b"\0" * 257 + b"ustar\0", "a tar archive"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_never_read_is_one_clear_error(data, kind, pack):
    with pytest.raises(InputError, match=rf"^file 'x\.jsonl' must be text or Parquet, but is {kind}\. \w"):
        read("jsonl", pack(data), name="x.jsonl")


def parquet(rows, **options):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, **options)
    return out.getvalue()


PARQUET_ROWS = [{"text": f"row {i} " + "abc" * (i % 7), "n": i, "tags": [str(i)]} for i in range(1000)]


@given(
    st.lists(st.fixed_dictionaries({"text": st.none() | st.text(), "n": st.integers(-9, 9)}), min_size=1, max_size=20)
)
@settings(max_examples=40, deadline=None)  # the first Parquet file takes a second
def test_parquet_round_trip(rows):
    rows = [r | {"text": r["text"] and r["text"].encode("utf-8", "replace").decode()} for r in rows]
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=3)
    found = read("parquet", out.getvalue())
    assert records(found) == rows
    assert [r.offset for r in found] == list(range(len(rows)))


def test_a_parquet_file_without_its_footer_is_one_record():
    data = parquet(PARQUET_ROWS)
    found = read("parquet", data[:-100])
    assert errors(found) == ["bad-footer"]
    assert (found[0].offset, found[0].raw_bytes, found[0].raw) == (0, len(data) - 100, data[:64])
    assert errors(read("parquet", b"")) == ["bad-footer"]


def test_a_corrupt_page_costs_the_rows_of_its_group_only():
    data = bytearray(parquet(PARQUET_ROWS, row_group_size=250, write_page_checksum=True, compression="zstd"))
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(2).column(0)
    at = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[at : at + 8] = b"\xff" * 8
    found = read("parquet", bytes(data))
    assert len(found) == 1000
    assert [r.offset for r in found] == list(range(1000))
    assert records(found) == PARQUET_ROWS[:500] + PARQUET_ROWS[750:]
    assert set(errors(found)) == {"bad-page"}


def test_bad_utf8_in_parquet_costs_its_row():
    raw = pa.array([b"good", b"caf\xe9", b"fine"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    out = io.BytesIO()
    pq.write_table(pa.table({"text": text}), out)
    found = read("parquet", out.getvalue())
    assert records(found) == [{"text": "good"}, {"text": "fine"}]
    assert [(r.offset, r.error.partition(":")[0]) for r in found if isinstance(r, Broken)] == [(1, "bad-value")]


def test_a_parquet_bomb_costs_its_group():
    rows = [{"text": "x" * 1_000_000} for _ in range(60)]
    found = read("parquet", parquet(rows, compression="zstd", use_dictionary=False))
    assert set(errors(found)) == {"bomb"}
    assert len(found) == 60


WIKI = '<doc id="{i}" url="?c={i}" title="A "quoted" & {i}">\nA "quoted" & {i}\n\nBody {i}\nline\n</doc>\n'


def test_wiki_extractor():
    data = "".join(WIKI.format(i=i) for i in range(3)).encode()
    found = read("wiki_extractor", data)
    assert records(found) == [
        {"id": str(i), "url": f"?c={i}", "title": f'A "quoted" & {i}', "text": f"Body {i}\nline"} for i in range(3)
    ]
    assert all(data[r.offset :].startswith(r.raw) for r in found)


def test_broken_wiki_documents_cost_themselves():
    good = WIKI.format(i=1).encode()
    unclosed = good.replace(b"</doc>\n", b"")
    foreign = good.replace(b"Body", b"B\xe9dy")
    data = good + b"stray\n" + good + unclosed + good + foreign + b"<doc nothing>\nx</doc>\n" + good + good[:30]
    found = read("wiki_extractor", data)
    assert len(records(found)) == 4
    assert errors(found) == ["outside-doc", "unclosed", "bad-encoding", "bad-head", "unclosed"]
    bad = [r for r in found if isinstance(r, Broken)]
    assert [data[r.offset :].startswith(r.raw) for r in bad] == [True] * 5
    assert bad[1].raw == unclosed
    long = good.replace(b"Body", b"x" * 3_000_000)
    found = read("wiki_extractor", good + long + good, max_record_bytes=1000)
    assert len(records(found)) == 2
    assert errors(found) == ["too-long"]
    assert [r.raw_bytes for r in found if isinstance(r, Broken)] == [len(long) - 1]


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<tmx version="1.4"><header srclang="en"/><body>{units}</body></tmx>"""
UNIT = (
    '<tu tuid="{i}"><tuv xml:lang="en"><seg>one &amp; {i}</seg></tuv>'
    + '<tuv xml:lang="fr"><seg>un <b>été</b></seg></tuv></tu>'
)


@pytest.mark.parametrize("encoding", ["UTF-8", "ISO-8859-1"])
def test_tmx(encoding):
    data = TMX.format(encoding=encoding, units=UNIT.format(i=1) + "<tu><tuv xml:lang='en'/></tu>" + UNIT.format(i=2))
    found = read("tmx", data.encode(encoding))
    fixed = {"target": "un été", "source_language": "en", "target_language": "fr"}
    assert records(found) == [fixed | {"source": f"one & {i}", "tuid": str(i)} for i in (1, 2)]
    assert errors(found) == ["no-pair"]
    turned = read("tmx", data.encode(encoding), {"source_language": "fr", "target_language": "en"})
    assert records(turned)[0]["source"] == "un été"
    assert errors(read("tmx", b"no xml at all")) == ["not-tmx"]


def test_xml_entities_are_not_expanded():
    bomb = '<!DOCTYPE t [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    unit = UNIT.format(i=1).replace("one", "&b;")
    found = read("tmx", TMX.format(encoding="UTF-8", units=bomb + unit + UNIT.format(i=2)).encode())
    assert [r["tuid"] for r in records(found)] == ["2"]
    assert errors(found) == ["bad-xml"]


def test_question_answer_xml():
    pair = (
        '<QAPair pid="1"><Question qid="7-1" qtype="causes">Why {i}?</Question>'
        + "<Answer>Because &lt; {i}.</Answer></QAPair>"
    )
    head = '<?xml version="1.0"?><Document id="7" source="S" url="http://x"><Focus>Flu</Focus>'
    broken = "<QAPair><Question>cut</QAPair>"
    found = read("qa_xml", f"{head}<QAPairs>{pair.format(i=1)}{broken}{pair.format(i=2)}</QAPairs></Document>".encode())
    fixed = {"document": "7", "source": "S", "url": "http://x", "focus": "Flu", "qid": "7-1", "qtype": "causes"}
    assert records(found) == [fixed | {"prompt": f"Why {i}?", "completion": f"Because < {i}."} for i in (1, 2)]
    assert errors(found) == ["bad-xml"]
