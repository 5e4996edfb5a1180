"""Is anything that a model is tested on also learned from? Checked on what is written, not on how it was made.

Four ways in which built rows leak from one split into another: they ask the same; they have a parent in common; their
parents are near-duplicates; or a row that is shown as an example in one split is the parent of a row in another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mixtura.pipeline.builder import asked_text
from mixtura.pipeline.lsh import candidates, components
from mixtura.pipeline.shingle_file import ShingleFile
from mixtura.pipeline.shingles import band_signatures, shingle_bags, shingle_sets
from mixtura.pipeline.summary import LeakFacts
from mixtura.recipe import NearDedup

SLICE = 8_192  # rows whose shingles are in memory at once


def find_leaks(built: pl.DataFrame, parents: pl.DataFrame, rules: NearDedup, scratch: Path) -> LeakFacts:
    """Count what is on more than one side of the splits.

    Args:
        built: rows of a mixture that builders made: `split, parents, text, messages, meta`.
        parents: the rows that `parents` name: `id` and the content columns of `rows.ROW`; each id once.
        rules: what counts as a near-duplicate.
        scratch: a file name to use and remove.
    """
    lineage = built.select("split", parent="parents").explode("parent").unique()
    sides = lineage.group_by("parent").agg(pl.col("split").n_unique())
    asked = pl.DataFrame({"split": built["split"], "asked": asked_text(built)}).filter(pl.col("asked") != "")
    alike = asked.group_by("asked").agg(pl.col("split").n_unique())
    shown = built.select("split", context=pl.col("meta").str.json_path_match("$.context")).drop_nulls()
    context = shown.select(pl.col("context").str.json_decode(pl.List(pl.String)).explode()).unique()
    return LeakFacts(
        rows=built.height,
        parents=sides.height,
        shared_parents=sides.filter(pl.col("split") > 1).height,
        exact=alike.filter(pl.col("split") > 1).height,
        near=_near(lineage, parents, rules, scratch),
        context=context.join(sides, left_on="context", right_on="parent", how="semi").height,
        near_duplicates=rules.sentence(),
    )


def _near(lineage: pl.DataFrame, parents: pl.DataFrame, rules: NearDedup, scratch: Path) -> int:
    """Clusters of near-duplicate parents that are on more than one side."""
    n = parents.height
    if n < 2:
        return 0
    slices = [parents[i : i + SLICE] for i in range(0, n, SLICE)]
    bands = np.concatenate(
        [
            band_signatures(
                *shingle_bags(s, rules.ngram), s.height, bands=rules.bands, rows_per_band=rules.rows_per_band
            )
            for s in slices
        ]
    )
    nodes = np.flatnonzero(candidates(n, rules.bands, lambda b: bands[:, b]))
    if not len(nodes):
        return 0
    sets = ShingleFile(scratch, n)
    for start in range(0, len(nodes), SLICE):
        some = nodes[start : start + SLICE]
        sets.add(some, shingle_sets(parents[some], rules.ngram))
    sets.finish()
    found = components(nodes, rules.bands, lambda b: bands[:, b], sets, rules.threshold)
    sets.remove()
    cluster = pl.DataFrame({"parent": parents["id"], "cluster": found.forest.find(np.arange(n))})
    sides = lineage.join(cluster, on="parent").group_by("cluster")
    wide = sides.agg(pl.col("split").n_unique(), pl.col("parent").n_unique())
    return wide.filter((pl.col("split") > 1) & (pl.col("parent") > 1)).height
