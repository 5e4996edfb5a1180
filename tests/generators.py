"""Problems with known answers, shared by the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mixtura.pipeline.contract import Shard

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String, "tool_calls": pl.String}))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of [n, d] to unit L2 norm, f32."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def around(centre: np.ndarray, n: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """f32[n, d], unit vectors around a unit centre; `spread` is the noise's norm on average."""
    return unit(centre + rng.normal(size=(n, len(centre))) * spread / np.sqrt(len(centre)))


def shard(
    texts: list[str] | None = None,
    vectors: np.ndarray | None = None,
    *,
    prefix: str = "row",
    source: str | list[str] = "web",
) -> Shard:
    """Rows with every column that the contract names; ids are `prefix` and a number."""
    n = len(texts) if texts is not None else len(vectors if vectors is not None else [])
    texts = texts if texts is not None else [f"text number {i}" for i in range(n)]
    rows = pl.DataFrame(
        {
            "id": [f"{prefix}{i:05}" for i in range(n)],
            "source": [source] * n if isinstance(source, str) else source,
            "text": texts,
            "messages": [None] * n,
            "chosen": [None] * n,
            "tools": [None] * n,
            "tokens": [len(t.split()) for t in texts],
            "task": [None] * n,
            "language": [None] * n,
            "meta": [None] * n,
            "plain": texts,
        },
        schema_overrides={
            "id": pl.String,
            "source": pl.String,
            "text": pl.String,
            "messages": MESSAGES,
            "chosen": MESSAGES,
            "tools": pl.String,
            "tokens": pl.Int32,
            "task": pl.String,
            "language": pl.String,
            "meta": pl.String,
            "plain": pl.String,
        },
    )
    return Shard(rows, vectors)


def as_conversations(whole: Shard) -> Shard:
    """Documents as an exchange: the first half of the words asks, the second answers."""
    words = [text.split() for text in whole.rows["text"]]
    said = [(" ".join(w[: len(w) // 2]), " ".join(w[len(w) // 2 :])) for w in words]
    turns = [
        [
            {"role": "user", "content": asked, "tool_calls": None},
            {"role": "assistant", "content": answer, "tool_calls": None},
        ]
        for asked, answer in said
    ]
    text = pl.lit(None, dtype=pl.String)
    return Shard(whole.rows.with_columns(text=text, messages=pl.Series(turns, dtype=MESSAGES)), whole.vectors)


def cut(whole: Shard, at: list[int] | np.ndarray) -> Shard:
    """The rows at these positions, in this order."""
    positions = np.asarray(at, np.int64)
    return Shard(whole.rows[positions], None if whole.vectors is None else whole.vectors[positions])


@dataclass(frozen=True)
class Planted:
    """A pool and a target, with what each pool row is."""

    pool: Shard
    target: Shard
    reference: Shard
    kind: np.ndarray  # i64[pool rows]: the cluster


def cats_and_dogs(seed: int = 0, *, pool_rows: int = 12_000, d: int = 64) -> Planted:
    """Figure 3 of the GOT-D paper: the pool is 99% cats, the target half cats, half dogs.

    kind is 0 for a cat, 1 for a dog. The base model has seen as many cats as the pool holds, so only dogs help.
    """
    rng = np.random.default_rng(seed)
    cat, dog = unit(rng.normal(size=(2, d)))

    def draw(n: int, dogs: int) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.permutation(np.r_[np.ones(dogs, int), np.zeros(n - dogs, int)])
        vectors = np.empty((n, d), np.float32)
        for k, centre in enumerate((cat, dog)):
            vectors[kind == k] = around(centre, int((kind == k).sum()), 1.0, rng)
        return vectors, kind

    pool, kind = draw(pool_rows, pool_rows // 100)
    return Planted(
        shard(vectors=pool, prefix="pool"),
        shard(vectors=draw(200, 100)[0], prefix="target"),
        shard(vectors=draw(2000, 20)[0], prefix="ref"),
        kind,
    )


COOKING = ["salt", "butter", "flour", "oven", "onion", "garlic", "simmer", "whisk", "dough", "pepper"]
LAW = ["court", "statute", "appeal", "plaintiff", "tort", "counsel", "verdict", "clause", "treaty", "judge"]
COMMON = ["the", "a", "of", "and", "to", "in", "is", "it", "for", "that"]


def two_topics(seed: int = 0, *, pool_rows: int = 300, wanted_rows: int = 60, d: int = 16) -> Planted:
    """Two far clusters, in words and in vectors alike; the target lies in one. kind 1 is the target's topic."""
    rng = np.random.default_rng(seed)
    centres = np.eye(d)[:2]
    kind = rng.permutation(np.r_[np.ones(wanted_rows, int), np.zeros(pool_rows - wanted_rows, int)])

    def rows(kinds: np.ndarray, prefix: str) -> Shard:
        texts = [
            " ".join(rng.permutation(np.r_[rng.choice(COOKING if k else LAW, 12), rng.choice(COMMON, 10)]))
            for k in kinds
        ]
        vectors = np.concatenate([around(centres[k], 1, 0.3, rng) for k in kinds])
        return shard(texts, vectors, prefix=prefix)

    return Planted(rows(kind, "pool"), rows(np.ones(20, int), "target"), rows(kind[:100], "ref"), kind)
