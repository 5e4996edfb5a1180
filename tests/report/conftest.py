"""A made-up mixture with books that balance by construction: everything is counted from one table of records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from mixtura.pipeline.report import Exhibits, ShownRow, nearest_target, project, telling_words
from mixtura.pipeline.summary import SampleFacts, SelectionFacts, SourceFacts, StageFacts, Summary, Tally
from mixtura.rows import content_id

TOPICS = {
    "medquad": "patient dose symptom treatment clinical therapy diagnosis infection blood tumour",
    "pubmed": "cohort trial placebo receptor protein clinical patient mutation dose assay",
    "wikipedia": "city river century king population railway village battle church football",
    "tldr": "command file option directory archive output convert print list run",
    "gsm8k": "apples dollars total minutes each many cost times left half",
    "poetry": "明月 春風 江水 白雲 青山 落花 故人 千里 秋雨 孤舟",
}
SHARES = (0.08, 0.12, 0.4, 0.15, 0.15, 0.1)
DROPS = ("too-short", "repetitive:top-2gram", "exact-duplicate", "near-duplicate", "in-target")
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "<!-- <iframe src=https://example.com/></iframe>",
    "{{ 7 * 7 }} ${7*7} <%= 7*7 %> {% raw %}",
    "nul \x00 bell \x07 escape \x1b[31m c1 \x9b end\r\nand a lone \r return",
    "שלום עולם, \u202eevil txt.exe\u202c – مرحبا بالعالم 123",
    "春眠不覺曉,處處聞啼鳥。" * 60,
    "Z̸̢̛̞͙̮a̷̧̛͓̲l̶̡̛̰g̵̢̛̱o̸ ️👩‍👩‍👧‍👦 🏳️‍🌈",
    "javascript:alert(1) ' OR 1=1 -- \" `; \\ & &amp; &#0; \ufeff\ufffe",
    "an_unbroken_word_" * 400,
    "A very long row. " * 4_000,
    "",
)


@dataclass(frozen=True)
class Made:
    """A mixture's summary and exhibits, and the table they were counted from."""

    summary: Summary
    exhibits: Exhibits
    table: pl.DataFrame


def make(
    n: int = 3_000,
    *,
    selections: tuple[str, ...] = ("nudge", "uniform"),
    budget: int = 300,
    vectors: bool = True,
    target: bool = True,
    points: int = 300,
) -> Made:
    rng = np.random.default_rng(7)
    names = list(TOPICS)
    topic = rng.choice(len(names), n, p=SHARES)
    fate = rng.choice(["kept", "broken", *DROPS], n, p=[0.7, 0.02, 0.06, 0.03, 0.08, 0.1, 0.01])
    texts = [_text(rng, names[t]) for t in topic]
    for i, text in enumerate(HOSTILE):
        texts[i * 7], fate[i * 7] = text, "kept"
    table = pl.DataFrame(
        {
            "id": [content_id({"text": f"{i} {t}"}) for i, t in enumerate(texts)],
            "source": [names[t] for t in topic],
            "text": texts,
            "fate": fate,
            "tokens": [max(1, len(t.split())) for t in texts],
        }
    )
    centres = rng.normal(size=(len(names), 32))
    centres[1] = centres[0] + 0.6 * rng.normal(size=32)
    space = _unit(centres[topic] + 0.9 * rng.normal(size=(n, 32)))
    aim = _unit(centres[0] + 0.9 * rng.normal(size=(120, 32)))
    pool = table.with_row_index("at").filter(pl.col("fate") == "kept")
    likeness = nearest_target(space[pool["at"].to_numpy()], aim)
    scores = {}
    for name in selections:
        score = np.zeros(pool.height) if name == "uniform" else likeness * 3 - 1 + 0.05 * rng.normal(size=pool.height)
        order = np.argsort(-(score + 1e-9 * rng.random(pool.height)), kind="stable")[:budget]
        picked = np.zeros(pool.height, bool)
        picked[order] = True
        scores[name] = pool.select("id", "source", "tokens", "text").with_columns(
            pl.Series("score", score), pl.Series("picked", picked)
        )
        if name != "uniform":  # a target for each row, dear or cheap
            pays = pl.Series("price", (rng.normal(0, 0.15, 40))[rng.integers(40, size=pool.height)])
            scores[name] = scores[name].with_columns(pays, pl.Series("distance", 2 - 2 * likeness))
    summary = _summary(table, scores, target)
    aim_texts = pl.Series([_text(rng, "medquad") for _ in range(120)])
    return Made(summary, _exhibits(pool, scores, space, aim, aim_texts, vectors and target, points), table)


def _summary(table: pl.DataFrame, scores: dict[str, pl.DataFrame], target: bool) -> Summary:
    n, counts = table.height, dict(table["fate"].value_counts().iter_rows())
    chosen = sorted({i for f in scores.values() for i in f.filter("picked")["id"]})
    mixture = table.filter(pl.col("id").is_in(chosen))
    clean = {r: counts[r] for r in DROPS[:2] if r in counts}
    dedup = {r: counts[r] for r in DROPS[2:] if r in counts}
    ingested = n - counts.get("broken", 0)
    cleaned = ingested - sum(clean.values())
    pool = cleaned - sum(dedup.values())
    sources = []
    for name in TOPICS:
        mine, picks = table.filter(pl.col("source") == name), mixture.filter(pl.col("source") == name)
        kept = mine.filter(pl.col("fate") == "kept")
        lost = dict(mine.filter(pl.col("fate").is_in(DROPS))["fate"].value_counts().iter_rows())
        broken = mine.filter(pl.col("fate") == "broken").height
        license_ = {"tldr": "CC-BY-4.0", "medquad": "CC BY 4.0", "gsm8k": "MIT", "poetry": "MIT"}.get(name, "unknown")
        sources.append(
            SourceFacts(
                name,
                license_,
                "a | b" if name == "tldr" else "2024-05",
                3,
                1_234_567,
                mine.height,
                broken,
                lost,
                kept.height,
                int(kept["tokens"].sum()),
                picks.height,
                int(picks["tokens"].sum()),
            )
        )
    cut = mixture.height // 20
    parts = {"train": mixture.slice(cut), "validation": mixture.head(cut)}
    licenses: dict[str, int] = {}
    for s in sources:
        licenses[s.license] = licenses.get(s.license, 0) + s.picked_rows
    chinese = mixture.filter(pl.col("source") == "poetry").height
    return Summary(
        name="med-mix",
        seed=7,
        fingerprint="0123456789abcdef",
        version="0.1.0",
        recipe_yaml="name: med-mix\nseed: 7\nsources:\n  tldr: {files: '*.md'}  # ``` a fence\n",
        form="text",
        tokenizer="words",
        sources=tuple(sources),
        stages=(
            StageFacts("ingest", n, ingested, {}, counts.get("broken", 0)),
            StageFacts("clean", ingested, cleaned, clean),
            StageFacts("dedup", cleaned, pool, dedup),
            StageFacts("pick", pool, mixture.height, {"not-picked": pool - mixture.height}),
        ),
        selections=tuple(_selection(name, f, target) for name, f in scores.items()),
        splits={k: Tally(p.height, int(p["tokens"].sum()), p.height * 400) for k, p in parts.items()},
        languages={k: v for k, v in {"en": mixture.height - chinese, "zh": chinese}.items() if v},
        licenses=licenses,
        target=SampleFacts(("${DATA}/target/*.jsonl",), "CC-BY-4.0", "", 120, 40) if target else None,
        encoder="fitted, 32 dimensions" if target else None,
        near_duplicates="Jaccard ≥ 0.8 of 5-word shingles",
    )


def _selection(name: str, scores: pl.DataFrame, target: bool) -> SelectionFacts:
    picks = scores.filter("picked")
    by = {
        s: Tally(g.height, int(g["tokens"].sum()))
        for (s,), g in picks.sort("id").group_by("source", maintain_order=True)
    }
    return SelectionFacts(
        name,
        name,
        "Author et al. 2024, eq. (3) & <5>",
        "log_weight",
        {"epsilon": 0.05},
        {"rule": "top", "budget_rows": picks.height, "budget_tokens": None, "caps": {}},
        scores.height,
        picks.height,
        int(picks["tokens"].sum()),
        by,
        {"iterations": 120, "marginal_error": 4.1e-4} if target else {},
    )


def _exhibits(pool, scores, space, aim, aim_texts, vectors, points) -> Exhibits:
    rows = {
        name: {g: _shown(f.sort("score", "id", descending=[True, False]), g) for g in ("best", "borderline", "worst")}
        for name, f in scores.items()
    }
    picks = {name: f.filter("picked")["text"] for name, f in scores.items()}
    words = telling_words(pool["text"], aim_texts, picks)
    prices = {n: f.select("id", "price", "distance", "picked") for n, f in scores.items() if "price" in f.columns}
    if not vectors:
        return Exhibits(scores, None, rows, words, None)
    like = [
        ("pool", nearest_target(space[pool["at"].to_numpy()], aim)),
        ("target", nearest_target(aim, aim, same=True)),
    ]
    at = dict(zip(pool["id"], pool["at"], strict=True))
    like += [
        (n, nearest_target(space[[at[i] for i in f.filter("picked")["id"]]], aim))
        for n, f in scores.items()
        if f["picked"].any()
    ]
    likeness = pl.concat([pl.DataFrame({"group": [g] * len(v), "similarity": v}) for g, v in like])
    some = pool.head(points)
    spots = project(np.vstack([space[some["at"].to_numpy()], aim[: min(points // 4, 120)]]), 7)
    by = {i: [n for n, f in scores.items() if i in set(f.filter("picked")["id"])] for i in some["id"]}
    shown = some.select("source", "id", "text").with_columns(
        pl.Series("picked_by", [by[i] for i in some["id"]], dtype=pl.List(pl.String)),
        pl.Series("kind", ["pick" if by[i] else "pool" for i in some["id"]]),
    )
    goal = pl.DataFrame(
        {
            "source": "target",
            "id": [f"{i:032x}" for i in range(min(points // 4, 120))],
            "text": aim_texts.head(min(points // 4, 120)),
        }
    ).with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("picked_by"), pl.lit("target").alias("kind"))
    frame = pl.concat([shown, goal]).with_columns(pl.Series("x", spots[:, 0]), pl.Series("y", spots[:, 1]))
    return Exhibits(scores, frame, rows, words, likeness, prices)


def _shown(frame: pl.DataFrame, group: str) -> list[ShownRow]:
    last = int(frame["picked"].sum())
    start = {"best": 0, "borderline": max(0, last - 2), "worst": frame.height - 5}[group]
    return [
        ShownRow(
            r["id"],
            r["source"],
            r["score"],
            r["text"],
            r["picked"],
            {"nearest_target_id": "ab" * 16, "share": 0.0123},
            nearest_text="Clinical symptom of the patient.",
            origin=f"{r['source']}/part-1.jsonl, byte 1234",
        )
        for r in frame.slice(start, 5).iter_rows(named=True)
    ]


COMMON = ["the", "of", "and", "a", "to", "in", "is", "for", "with", "that", "by", "on", "as", "from", "this", "it"]


def _text(rng: np.random.Generator, topic: str) -> str:
    own = TOPICS[topic].split()
    drawn = rng.random((int(rng.integers(8, 90)), 2))
    words = [own[int(u * len(own))] if mine < 0.35 else COMMON[int(u * len(COMMON))] for mine, u in drawn]
    return " ".join(words).capitalize() + "."


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def maker():
    """The function that makes mixtures, for tests that want another one."""
    return make


@pytest.fixture(scope="session")
def made() -> Made:
    return make()
