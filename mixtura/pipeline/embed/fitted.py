"""The fitted encoder: TF-IDF of words and pairs of words, then truncated SVD (latent semantic analysis).

It needs no model and no download: it learns its vocabulary and its directions from a sample of the pool. Vectors of
two rows are near where the rows share words, or words that keep the same company.

Source: Deerwester et al. 1990, Indexing by Latent Semantic Analysis; SVD by Halko, Martinsson, Tropp 2011, from
scikit-learn.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array, vstack

from mixtura.errors import InputError
from mixtura.pipeline.embed.norm import unit
from mixtura.pipeline.embed.words import HASH_BITS, Grams, batches, grams, hash_of
from mixtura.recipe import Embed

LIBRARIES = ("numpy", "scipy", "scikit-learn")  # their versions decide the bits
MIN_ROWS = 2  # a gram of one row alone cannot bring two rows together
ITERATIONS: Any = 4  # of the randomised SVD: 7 find 0.5 % more same-label neighbours, for 5 s more
TABLE_BITS = 20  # 4 MiB: twenty places per feature at 50,000 features
LOWEST = 1e-4  # singular values below this share of the largest are rounding noise


class Features:
    """The vocabulary's hashes, ascending, with a table on their leading bits in place of a binary search.

    Two grams in three are unknown, and most of these meet an empty place of the table: looking up is then four times
    as fast.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        places = np.arange(1 << TABLE_BITS, dtype=np.uint64) << np.uint64(64 - TABLE_BITS)
        self.place = np.append(np.searchsorted(hashes, places), len(hashes)).astype(np.int32)
        self.most = int(np.diff(self.place).max(initial=0))

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """i64[k], i64[k]: which hashes are known, ascending, and their columns."""
        place = (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int32)
        left = np.flatnonzero(self.place[place + 1] > self.place[place])
        column = self.place[place[left]]
        wanted = hashes[left]
        for _ in range(self.most - 1):  # two or three features in one place are rare
            column += (self.hashes[column] < wanted) & (column < len(self) - 1)
        hit = self.hashes[column] == wanted
        return left[hit], column[hit].astype(np.int64)


class FittedEncoder:
    """Encodes with what `fit` wrote; a row's vector does not depend on the rows around it, bit for bit.

    Args:
        folder: with `encoder.safetensors` and `vocabulary.json`.
        digest: of the folder's contents, for keys.
        max_chars: text beyond this is not read.
    """

    def __init__(self, folder: str, digest: str, max_chars: int) -> None:
        self.folder, self.digest, self.max_chars = folder, digest, max_chars
        arrays = load_file(Path(folder) / "encoder.safetensors")
        self.vocabulary: list[str] = json.loads((Path(folder) / "vocabulary.json").read_text("utf-8"))
        self.features = Features(hash_of(self.vocabulary))
        self.directions = arrays["directions"] * arrays["idf"][:, None]  # f32[features, d]
        self.dimensions = self.directions.shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, d], unit L2 norm; zeros for a text without a known word."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        done = 0
        for batch in batches(texts, self.max_chars):
            counts = term_counts(grams(batch), self.features)
            # a sparse row times a dense matrix adds up in the order of the columns, whatever rows surround it
            vectors[done : done + len(batch)] = unit(counts @ self.directions)
            done += len(batch)
        return vectors

    def stream(self, batches: Iterable[Sequence[str]]) -> Iterator[np.ndarray]:
        """As `encode`, batch by batch."""
        return map(self.encode, batches)


def fit(spec: Embed, texts: Sequence[str], folder: Path, *, seed: int) -> dict[str, Any]:
    """Learn vocabulary and directions, and write them into an existing folder.

    Args:
        spec: `dimensions`, `features` and `max_chars` are read.
        texts: at least one must hold a word.
        folder: receives `encoder.safetensors` (`directions` f32[features, d], `idf` f32[features]) and
            `vocabulary.json` (a list of grams, in the order of the rows of `directions`).
        seed: of the randomised SVD.

    Returns:
        Facts: `rows, features, dimensions`, and `unicode`, the version that decides what a letter is.
    """
    hashes = choose_features(texts, spec)
    if not len(hashes):
        raise InputError(
            "encoder 'fitted'",
            "must have rows with words to learn from",
            got=f"{len(texts)} rows without a letter, digit or sign",
            next_step="Check the sources, or embed.fit_on",
        )
    counts, vocabulary = _read(texts, Features(hashes), spec.max_chars)
    present = np.bincount(counts.indices, minlength=len(hashes))
    idf = (np.log((1 + len(texts)) / (1 + present)) + 1).astype(np.float32)  # smooth, as in scikit-learn
    directions = _directions(_weighted(counts, idf), len(idf), spec.dimensions, seed)
    save_file({"directions": directions, "idf": idf}, folder / "encoder.safetensors")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0), "utf-8")
    return {
        "rows": len(texts),
        "features": len(vocabulary),
        "dimensions": directions.shape[1],
        "unicode": unicodedata.unidata_version,
    }


def choose_features(texts: Sequence[str], spec: Embed) -> np.ndarray:
    """u64[f], ascending: hashes of the `spec.features` grams that most texts hold; ties go to the smaller hash."""
    seen = np.sort(np.concatenate([_distinct(grams(b)) for b in batches(texts, spec.max_chars)] or [[]]))
    hashes, rows = np.unique(seen, return_counts=True)
    if (rows >= MIN_ROWS).any():
        hashes, rows = hashes[rows >= MIN_ROWS], rows[rows >= MIN_ROWS]
    most = np.argsort(-rows, kind="stable")[: spec.features]
    return np.sort(hashes[most])


def term_counts(made: Grams, features: Features) -> csr_array:
    """f32[rows, features], sorted: 1 + ln(count) of every known gram in every text (sublinear term frequency)."""
    known, column = features.find(made.hash)
    cells, count = np.unique((made.row[known] << 32) | column, return_counts=True)
    ends = np.searchsorted(cells, np.arange(1, made.rows + 1) << 32)
    data = _sublinear(int(count.max(initial=1)))[count]
    columns = (cells & 0xFFFF_FFFF).astype(np.int32)
    return csr_array((data, columns, np.concatenate([[0], ends])), shape=(made.rows, len(features)))


def _weighted(counts: csr_array, idf: np.ndarray) -> csr_array:
    """TF-IDF with rows of unit norm, as long rows would otherwise rule the directions."""
    rows = len(counts.indptr) - 1
    data = counts.data * idf[counts.indices]
    row = np.repeat(np.arange(rows), np.diff(counts.indptr))
    norms = np.sqrt(np.bincount(row, data * data, rows))
    return csr_array(((data / norms[row]).astype(np.float32), counts.indices, counts.indptr), shape=(rows, len(idf)))


def _distinct(made: Grams) -> np.ndarray:
    """u64: each text's grams, once per text."""
    return np.unique(made.hash | made.row.astype(np.uint64)) & HASH_BITS


def _read(texts: Sequence[str], features: Features, max_chars: int) -> tuple[csr_array, list[str]]:
    """Counts of all texts, and the features spelled out."""
    parts = []
    spelled = [""] * len(features)
    unseen = np.ones(len(features), bool)
    for made in map(grams, batches(texts, max_chars)):
        parts.append(term_counts(made, features))
        for column, gram in _new(made, features, unseen):
            spelled[column] = made.spelled(gram)
    return csr_array(vstack(parts)), spelled


def _new(made: Grams, features: Features, unseen: np.ndarray) -> Iterator[tuple[int, int]]:
    """(feature, gram) of features that occur for the first time; marks them seen."""
    known, column = features.find(made.hash)
    fresh = np.flatnonzero(unseen[column])
    columns, at = np.unique(column[fresh], return_index=True)
    unseen[columns] = False
    yield from zip(columns.tolist(), known[fresh[at]].tolist(), strict=True)


def _directions(weighted: csr_array, features: int, dimensions: int, seed: int) -> np.ndarray:
    """f32[features, d]: right singular vectors; fewer than asked for where the sample has a lower rank."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    rank = min(dimensions, len(weighted.indptr) - 1, features)
    with threadpool_limits(1):  # the number of threads would change the last bits
        _, values, components = randomized_svd(weighted, rank, n_iter=ITERATIONS, random_state=seed % (1 << 32))
    return np.ascontiguousarray(components[values > LOWEST * values[0]].T, np.float32)


def _sublinear(most: int) -> np.ndarray:
    """f32[most + 1]: 1 + ln(count), from a table so that no vectorised logarithm can differ in its last bit."""
    return np.array([0.0] + [1 + log(c) for c in range(1, most + 1)], np.float32)
