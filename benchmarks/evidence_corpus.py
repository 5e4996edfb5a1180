"""The corpora of the evidence: one pool, one reference, four targets, out of the unpacked real data.

    reference  96 % news and encyclopedia, 4 % of everything else: what the small base model is trained on
    pool       about 50,000 rows of nine kinds; disjoint from the reference
    chemistry  sentences of ChemProt: far from the reference
    computing  abstracts of CSAbstruct: the pool holds much of their kind
    halves     half news, which the reference covers, half code, which it does not
    sums       word problems of GSM8K: far, and the pool holds few of their kind

Which rows go where is decided by the hash of their text, so that every run sees the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mixtura.pipeline.readers import qa_xml, wiki_extractor
from mixtura.pipeline.reading import Reader, Record, memory_stream

EDITION = 2  # of what the corpora hold: one more whenever that changes
TARGETS = ("chemistry", "computing", "halves", "sums")
SHORTEST, LONGEST = 100, 4_000  # characters; longer texts are cut at a word, so that rows cost alike
POOL_ROWS = {
    "wikinews": 7_000,
    "wikipedia": 7_000,
    "arxiv": 10_000,
    "medquad": 6_000,
    "instructions": 8_000,
    "tasks": 5_000,
    "commands": 4_000,
    "code": 3_200,
    "roleplay": 1_500,
}
REFERENCE_ROWS = {"wikinews": 9_000, "wikipedia": 9_000}
REFERENCE_REST = 100  # rows of each other kind
TAG = re.compile(r"<[^>]{1,200}>")


def build(data: Path, folder: Path) -> None:
    """Write `pool/KIND.jsonl`, `reference.jsonl` and `TARGET.jsonl`.

    Args:
        data: folder of the unpacked sets.
        folder: to write into.
    """
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    reference: list[str] = []
    aside: dict[str, list[str]] = {}
    for kind, texts in _kinds(data).items():
        ordered = sorted({_cut(t) for t in texts if len(t) >= SHORTEST}, key=_hash)
        known = REFERENCE_ROWS.get(kind, REFERENCE_REST)
        reference += ordered[:known]
        kept = ordered[known : known + POOL_ROWS[kind]]
        aside[kind] = ordered[known + POOL_ROWS[kind] :]
        _write(folder / "pool" / f"{kind}.jsonl", kept)
        print(f"{kind:13} {len(ordered):7,} texts  {len(kept):6,} in the pool  {len(aside[kind]):6,} aside")
    _write(folder / "reference.jsonl", sorted(reference, key=_hash))
    for name, texts in _targets(data, aside).items():
        rows = sorted({_cut(t) for t in texts if len(t) >= SHORTEST}, key=_hash)
        _write(folder / f"{name}.jsonl", rows)
        print(f"{name:13} {len(rows):7,} target rows")


def _kinds(data: Path) -> dict[str, Iterator[str]]:
    return {
        "wikinews": _clean(f"{r['title']}\n\n{r['text']}" for r in _lines((data / "wikinews_en/text").rglob("wiki_*"))),
        "wikipedia": _clean(
            v["text"] for v in _read(wiki_extractor.READER, (data / "wikipedia_en/text").rglob("wiki_*"))
        ),
        "arxiv": (f"{r['title']}\n\n{r['summary']}" for r in _lines((data / "arxiv_daily/data").glob("*.jsonl"))),
        "medquad": _pairs(_read(qa_xml.READER, (data / "medquad").glob("[1-9]_*/*.xml")), "prompt", "completion"),
        "instructions": _pairs(_lines((data / "self_instruct_t0/data").rglob("*.jsonl")), "prompt", "completion"),
        "tasks": _table((data / "superni_119/data").rglob("*.csv")),
        "commands": (p.read_text("utf-8") for p in (data / "tldr_pages/pages").rglob("*.md")),
        "code": _pairs(_arrays((data / "gpteacher/Codegen").glob("*.json")), "instruction", "input", "response"),
        "roleplay": _pairs(_arrays((data / "gpteacher/Roleplay").glob("*.json")), "instruction", "input", "response"),
    }


def _targets(data: Path, aside: dict[str, list[str]]) -> dict[str, Iterable[str]]:
    chemprot = data / "scibert_tasks/data/text_classification/chemprot"
    half = min(len(aside["code"]), 1_200)
    return {
        "chemistry": [r["text"] for r in _lines(chemprot.glob("*.txt"))],
        "computing": [" ".join(r["sentences"]) for r in _lines((data / "csabstruct/data").rglob("*.jsonl"))],
        "halves": aside["code"][:half] + aside["wikinews"][:half],
        "sums": [f"{r['question']}\n\n{r['answer']}" for r in _lines((data / "gsm8k").rglob("train.jsonl"))],
    }


def _lines(files: Iterable[Path]) -> Iterator[dict]:
    for path in sorted(files):
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines)


def _arrays(files: Iterable[Path]) -> Iterator[dict]:
    for path in sorted(files):
        yield from json.loads(path.read_text("utf-8"))


def _table(files: Iterable[Path]) -> Iterator[str]:
    csv.field_size_limit(1 << 24)
    for path in sorted(files):
        with path.open(encoding="utf-8", newline="") as f:
            yield from (f"{r['input']}\n\n{r['output']}" for r in csv.DictReader(f))


def _pairs(rows: Iterable[dict], *keys: str) -> Iterator[str]:
    for row in rows:
        yield "\n\n".join(str(row[k]) for k in keys if row.get(k))


def _read(reader: Reader, files: Iterable[Path]) -> Iterator[dict]:
    """Good records, by one of Mixtura's own readers."""
    for path in sorted(files):
        found = reader.read(memory_stream(path.read_bytes()), reader.Options())
        yield from (item.value for item in found if isinstance(item, Record))


def _clean(texts: Iterable[str]) -> Iterator[str]:
    """News and encyclopedia without the tags that their extraction left."""
    return (TAG.sub("", t).strip() for t in texts)


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(None, 1)[0]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _write(path: Path, texts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
