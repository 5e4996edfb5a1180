"""JSON Lines, JSON, CSV, text, Markdown: round trips, and damage that costs one record."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura import registry
from mixtura.pipeline.reading import Broken, Record, memory_stream, read_stream
from mixtura.rows import MAX_RAW

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# orjson, like UTF-8, has no lone surrogates
OBJECTS = st.lists(st.dictionaries(st.text(max_size=6), JSON, max_size=4), max_size=8)


def read(word, data, options=None, name="f", **limits):
    reader = registry.find("readers", word)
    stream = memory_stream(data, name, **limits)
    return list(read_stream(stream, reader, reader.Options.model_validate(options or {})))


def values(found):
    assert all(isinstance(r, Record) for r in found), found
    return [r.value for r in found]


def errors(found):
    return [r.error.partition(":")[0] for r in found if isinstance(r, Broken)]


@given(OBJECTS, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_jsonl_round_trip(objects, newline, mark):
    lines = [json.dumps(o, ensure_ascii=False) for o in objects]
    data = ("\ufeff" * mark + newline.join(lines)).encode("utf-8", "surrogatepass")
    found = read("jsonl", data)
    assert values(found) == objects
    for record, line in zip(found, lines, strict=True):
        assert data[record.offset :].startswith(line.encode())
        assert record.raw.rstrip(b"\r") == line.encode()


@given(OBJECTS, st.sampled_from([None, 0, 2]), st.booleans())
def test_json_array_round_trip(objects, indent, mark):
    data = ("\ufeff" * mark + json.dumps(objects, ensure_ascii=False, indent=indent)).encode()
    found = read("json_array", data)
    assert values(found) == objects
    for record in found:
        assert json.loads(data[record.offset : record.offset + len(record.raw)]) == record.value


@given(OBJECTS.filter(bool), st.sampled_from([None, 1]))
def test_json_objects_in_a_row_round_trip(objects, indent):
    data = "\n".join(json.dumps(o, indent=indent) for o in objects).encode()
    assert values(read("json_array", data)) == objects


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 40))
def test_the_cuts_of_chunks_do_not_matter(kinds, size):
    """The same records, whether the stream comes in one chunk or in chunks of a few bytes."""
    pieces = [b'{"a": "x\\"y]}{"}', b'  {"b": [1, {"c": "\xc3\xa9"}]}', b'{"broken": '][: len(set(kinds)) or 1]
    for word, data in (
        ("jsonl", b"\n".join(pieces[k % len(pieces)] for k in kinds)),
        ("json_array", b"[" + b",\n".join(pieces[k % 2 % len(pieces)] for k in kinds) + b"]"),
        ("wiki_extractor", b"".join(b'<doc id="1" url="u" title="t">\nt\n\nbody\n</doc>\n' for _ in kinds)),
    ):
        reader = registry.find("readers", word)
        whole = read(word, data)
        stream = memory_stream(data)
        stream.chunks = lambda data=data: (data[i : i + size] for i in range(0, len(data), size))
        assert list(read_stream(stream, reader, reader.Options())) == whole


BAD_LINES = {
    "bad-json": b'{"text": "cut',
    "bad-encoding": b'{"text": "caf\xe9"}',
    "nul": b'{"text": "a\x00b"}',
    "not-an-object": b"[1, 2]",
}


@given(st.lists(st.sampled_from(["good", *BAD_LINES]), max_size=20))
def test_planted_bad_lines_come_back_byte_by_byte(kinds):
    lines = [BAD_LINES.get(k, b'{"text": "ok"}') for k in kinds]
    found = read("jsonl", b"\n".join(lines))
    offset = 0
    assert len(found) == len(lines)
    for record, kind, line in zip(found, kinds, lines, strict=True):
        assert (record.offset, record.raw) == (offset, line)
        if kind != "good":
            assert record.error.startswith(kind + ":")
            assert record.raw_bytes == len(line)
        offset += len(line) + 1


def test_what_json_forbids_breaks_its_line():
    for line in (b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": 1} x', b"{'a': 1}", b'{"a": 01}'):
        assert errors(read("jsonl", line)) == ["bad-json"]
    assert errors(read("jsonl", b'{"a":' + b"[" * 100_000 + b"}")) == ["bad-json"]  # nested beyond any stack


def test_a_huge_line_is_counted_and_not_held():
    data = b'{"a": 1}\n' + b"x" * 5_000_000 + b'\n{"a": 2}\n'
    found = read("jsonl", data, max_record_bytes=1000)
    assert [r.value for r in (found[0], found[2])] == [{"a": 1}, {"a": 2}]
    assert (found[1].offset, found[1].raw_bytes, len(found[1].raw)) == (9, 5_000_000, MAX_RAW)
    assert errors(found) == ["too-long"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_broken_element_of_a_json_array_costs_itself(indent):
    text = json.dumps([{"a": i, "b": [{"c": 1}]} for i in range(5)], indent=indent)
    text = text.replace('"a": 2', '"a": 2x' if indent is None else '"a": {2')  # a bad token; or a bracket too many
    found = read("json_array", text.encode())
    assert [r.value["a"] for r in found if isinstance(r, Record)] == [0, 1, 3, 4]
    assert errors(found) == ["bad-json"]


def test_a_huge_element_of_a_json_array_is_passed():
    objects = [{"a": "x" * (3_000_000 if i == 1 else 3)} for i in range(4)]
    found = read("json_array", json.dumps(objects, indent=1).encode(), max_record_bytes=1000)
    assert [r.value for r in found if isinstance(r, Record)] == [objects[0], *objects[2:]]
    assert errors(found) == ["too-long"]


def test_a_cut_json_array_keeps_what_is_whole():
    data = json.dumps([{"a": i} for i in range(5)]).encode()
    found = read("json_array", data[:-5])
    assert [r.value["a"] for r in found if isinstance(r, Record)] == [0, 1, 2, 3]
    assert len(errors(found)) >= 1


def test_records_inside_an_object():
    data = json.dumps(
        {"canary": 'a "examples": [1]', "deep": {"examples": [{"no": 1}]}, "examples": [{"a": 1}], "z": {}}
    )
    assert values(read("json_array", data.encode(), {"records": "examples"})) == [{"a": 1}]
    assert errors(read("json_array", data.encode(), {"records": "nothing"})) == ["no-records"]


CELLS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=8), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_csv_round_trip(rows, quoting):
    """The oracle is Python's csv module: what it writes, our reader reads."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting, lineterminator="\n")
    writer.writerows([("a", "b"), *rows])
    data = out.getvalue().encode()
    found = read("csv_table", data)
    assert [tuple(v.values()) for v in values(found)] == rows
    for record in found:
        assert data[record.offset :].startswith(record.raw)


def test_a_stray_quote_costs_its_own_line():
    data = b'a,b\n1,x\n"2,stray\n3,y\n4,"z\nz"\n5,w,extra\n6,ok\n'
    found = read("csv_table", data)
    assert [r.value["a"] for r in found if isinstance(r, Record)] == ["1", "3", "4", "6"]
    assert [(r.offset, r.raw) for r in found if isinstance(r, Broken)] == [(8, b'"2,stray'), (29, b"5,w,extra")]


def test_csv_options_and_headers():
    assert values(read("csv_table", b"a\tb\n1\t2\n", name="x.tsv.gz")) == [{"a": "1", "b": "2"}]
    assert values(read("csv_table", b"1;2\n", {"delimiter": ";", "header": ["x", "y"]})) == [{"x": "1", "y": "2"}]
    assert values(read("csv_table", "n\ncafé\n".encode("cp1252"), {"encoding": "cp1252"})) == [{"n": "café"}]
    assert errors(read("csv_table", "n,m\ncafé,1\nok,2\n".encode("cp1252"))) == ["bad-encoding"]
    assert errors(read("csv_table", b"a,a\n1,2\n")) == ["bad-header"]
    assert values(read("csv_table", b"")) == []


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_plain_text_is_known_by_its_mark(codec):
    text = "Grüße, 世界\nzweite Zeile"
    assert values(read("plain_text", text.encode(codec))) == [{"text": text}]


def test_plain_text_of_another_encoding():
    text = "Les élèves français étudient à l'université de Besançon, où l'été dure très longtemps. " * 5
    raw = text.encode("cp1252")
    assert errors(read("plain_text", raw)) == ["bad-encoding"]
    assert values(read("plain_text", raw, {"encoding": "cp1252"})) == [{"text": text}]
    assert values(read("plain_text", raw, {"encoding": "auto"})) == [{"text": text}]
    assert errors(read("plain_text", b"a\0b")) == ["nul"]
    for codec in ("zlib", "hex", "no-such"):
        with pytest.raises(ValueError, match="must be 'auto' or a Python codec"):
            read("plain_text", raw, {"encoding": codec})


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=6))
def test_lines_and_paragraphs(texts):
    lines = [t for s in texts for t in s.split("\n") if t.strip(" \t\r\n\x0b\x0c")]
    lines = [t.removesuffix("\r") for t in lines if t.removesuffix("\r").strip(" \t\r\n\x0b\x0c")]
    lines = [t for t in lines if not t.startswith("\ufeff")]
    found = read("plain_text", "\n".join(lines).encode(), {"unit": "line"})
    assert [v["text"] for v in values(found)] == lines
    found = read("plain_text", "\n\n \n".join(lines).encode(), {"unit": "paragraph"})
    assert [v["text"].removesuffix("\r") for v in values(found)] == lines


def test_markdown_is_one_document():
    found = read("markdown", b"# Title #\n\nText with `code`.\n")
    assert values(found) == [{"text": "# Title #\n\nText with `code`.\n", "title": "Title"}]
    assert read("markdown", b"") == []
    assert errors(read("markdown", b"x" * 100, max_record_bytes=10)) == ["too-long"]
