"""The fitted encoder: TF-IDF of words and pairs of words, then truncated SVD (latent semantic analysis).

It needs no model and no download: it learns its vocabulary and its directions from a sample of the pool. Vectors of
two rows are near where the rows share words, or words that keep the same company.

Source: Deerwester et al. 1990, Indexing by Latent Semantic Analysis; SVD by Halko, Martinsson, Tropp 2011 as in
scikit-learn's TruncatedSVD.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
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
LOWEST = 1e-4  # singular values below this share of the largest are rounding noise
ITERATIONS = 5  # of the randomised SVD


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
        self.hashes = hash_of(self.vocabulary)
        self.directions = arrays["directions"] * arrays["idf"][:, None]  # f32[features, d]
        self.dimensions = self.directions.shape[1]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """f32[n, d], unit L2 norm; zeros for a text without a known word."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        done = 0
        for batch in batches(texts, self.max_chars):
            counts = term_counts(grams(batch), self.hashes)
            # a sparse row times a dense matrix adds up in the order of the columns, whatever rows surround it
            vectors[done : done + len(batch)] = unit(counts @ self.directions)
            done += len(batch)
        return vectors


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
            got=f"{len(texts)} rows without a letter or digit",
            next_step="Check the sources, or embed.fit_on",
        )
    counts, vocabulary = _read(texts, hashes, spec.max_chars)
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


def term_counts(made: Grams, hashes: np.ndarray) -> csr_array:
    """f32[rows, features], sorted: 1 + ln(count) of every known gram in every text (sublinear term frequency)."""
    column = np.searchsorted(hashes, made.hash)
    known = np.flatnonzero(hashes[np.minimum(column, len(hashes) - 1)] == made.hash)
    cells, count = np.unique((made.row[known] << 32) | column[known], return_counts=True)
    ends = np.searchsorted(cells, np.arange(1, made.rows + 1) << 32)
    data = _sublinear(int(count.max(initial=1)))[count]
    columns = (cells & 0xFFFF_FFFF).astype(np.int32)
    return csr_array((data, columns, np.concatenate([[0], ends])), shape=(made.rows, len(hashes)))


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


def _read(texts: Sequence[str], hashes: np.ndarray, max_chars: int) -> tuple[csr_array, list[str]]:
    """Counts of all texts, and the features spelled out."""
    parts = []
    spelled = [""] * len(hashes)
    unseen = np.ones(len(hashes), bool)
    for made in map(grams, batches(texts, max_chars)):
        parts.append(term_counts(made, hashes))
        for column, gram in _new(made, hashes, unseen):
            spelled[column] = made.spelled(gram)
    return csr_array(vstack(parts)), spelled


def _new(made: Grams, hashes: np.ndarray, unseen: np.ndarray) -> Iterator[tuple[int, int]]:
    """(feature, gram) of features that occur for the first time; marks them seen."""
    column = np.minimum(np.searchsorted(hashes, made.hash), len(hashes) - 1)
    fresh = np.flatnonzero(unseen[column] & (hashes[column] == made.hash))
    columns, at = np.unique(column[fresh], return_index=True)
    unseen[columns] = False
    yield from zip(columns.tolist(), fresh[at].tolist(), strict=True)


def _directions(weighted: csr_array, features: int, dimensions: int, seed: int) -> np.ndarray:
    """f32[features, d]: right singular vectors; fewer than asked for where the sample has a lower rank."""
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    rank = min(dimensions, len(weighted.indptr) - 1, features)
    svd = TruncatedSVD(rank, n_iter=ITERATIONS, random_state=seed % (1 << 32))
    with threadpool_limits(1):  # the number of threads would change the last bits
        svd.fit(weighted)
    values, components = np.asarray(svd.singular_values_), np.asarray(svd.components_)
    return np.ascontiguousarray(components[values > LOWEST * values[0]].T, np.float32)


def _sublinear(most: int) -> np.ndarray:
    """f32[most + 1]: 1 + ln(count), from a table so that no vectorised logarithm can differ in its last bit."""
    return np.array([0.0] + [1 + log(c) for c in range(1, most + 1)], np.float32)
