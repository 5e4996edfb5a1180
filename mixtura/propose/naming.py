"""Words for a cluster: class-based TF-IDF, and the rows nearest to its centre.

Source: Grootendorst 2022, BERTopic (arXiv:2203.05794), eq. 1: W = tf(t, c) log(1 + A / f(t)), a cluster's rows taken
as one document, A the mean number of words of a cluster. Differs: a word counts once per row, so that one long row
does not name a cluster; and what many clusters say names none: such words are told by their spread, not by a list, so
it works in any language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from mixtura.pipeline.embed.fitted import Features, choose_features
from mixtura.pipeline.embed.words import batches, grams
from mixtura.recipe import Embed

VOCABULARY = 20_000
MAX_CHARS = 2_000
SAID = 0.05  # share of a cluster's rows from which on the cluster says a word
WIDESPREAD = 0.3  # share of clusters that say a word from which on it names none


def terms(texts: list[str], labels: np.ndarray, clusters: int, count: int) -> list[list[str]]:
    """The words and pairs of words that set each cluster apart, strongest first.

    Args:
        texts: one per row.
        labels: i64[n], 0 to clusters - 1.
        clusters: how many.
        count: terms wanted for each; fewer where there are not so many. No word is given twice in one list.
    """
    features = Features(choose_features(texts, Embed(features=VOCABULARY, max_chars=MAX_CHARS)))
    if not len(features):
        return [[] for _ in range(clusters)]
    rows, spelled = _rows_with(texts, labels, clusters, features)
    everywhere = rows.sum(0)
    mean = rows.sum() / clusters
    share = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    weight = share * np.log1p(mean / np.maximum(everywhere, 1))
    common: set[str] = set()
    if clusters > 2:
        said = rows >= SAID * np.maximum(np.bincount(labels, minlength=clusters), 1)[:, None]
        common = {spelled[i] for i in np.flatnonzero(said.sum(0) >= max(2, WIDESPREAD * clusters))}
    return [_distinct(np.argsort(-w, kind="stable"), w, spelled, count, common) for w in weight]


def central(labels: np.ndarray, distance: np.ndarray, texts: list[str], clusters: int, count: int) -> list[list[int]]:
    """Positions of each cluster's rows nearest to its centroid; equal texts once, ties to the shorter text."""
    length = np.array([len(t) for t in texts])
    order = np.lexsort((np.arange(len(labels)), length, np.round(distance, 4), labels))
    found: list[list[int]] = [[] for _ in range(clusters)]
    seen: list[set[str]] = [set() for _ in range(clusters)]
    for i in order.tolist():
        at = int(labels[i])
        if len(found[at]) < count and texts[i] not in seen[at]:
            seen[at].add(texts[i])
            found[at].append(i)
    return found


def slug(words: Sequence[str], taken: set[str], fallback: str) -> str:
    """A name for a step out of words: ASCII where possible, unlike those taken, at most 40 characters."""
    plain = unicodedata.normalize("NFKD", " ".join(words)).encode("ascii", "ignore").decode().lower()
    name = "_".join(dict.fromkeys(re.findall(r"[a-z0-9]+", plain)))[:40].strip("_") or fallback
    again, number = name, 2
    while again in taken:
        again, number = f"{name}_{number}", number + 1
    taken.add(again)
    return again


def _rows_with(texts: list[str], labels: np.ndarray, clusters: int, features: Features) -> tuple[np.ndarray, list[str]]:
    """f64[clusters, features]: rows of each cluster that hold each term; and the terms spelled out."""
    rows = np.zeros(clusters * len(features))
    spelled = [""] * len(features)
    done = 0
    for batch in batches(texts, MAX_CHARS):
        made = grams(batch)
        known, column = features.find(made.hash)
        cells = np.unique((made.row[known] << 32) | column)
        where = labels[done + (cells >> 32)] * len(features) + (cells & 0xFFFF_FFFF)
        rows += np.bincount(where, minlength=len(rows))
        columns, at = np.unique(column, return_index=True)
        for c, gram in zip(columns.tolist(), known[at].tolist(), strict=True):
            spelled[c] = spelled[c] or made.spelled(gram)
        done += len(batch)
    return rows.reshape(clusters, len(features)), spelled


def _distinct(order: np.ndarray, weight: np.ndarray, spelled: list[str], count: int, common: set[str]) -> list[str]:
    """Terms in order; left out is one that shares a word with an earlier one, or has only words that tell nothing."""
    found: list[str] = []
    used: set[str] = set()
    for i in order.tolist():
        words = spelled[i].split(" ")
        if weight[i] <= 0 or len(found) == count:
            break
        signs = any(not any(c.isalnum() for c in w) for w in words)  # to the encoder they are words, to a reader not
        if not signs and not used & set(words) and not all(w in common or _tells_nothing(w) for w in words):
            used.update(words)
            found.append(spelled[i])
    return found


def _tells_nothing(word: str) -> bool:
    return word.isdigit() or (len(word) < 3 and word.isascii())
