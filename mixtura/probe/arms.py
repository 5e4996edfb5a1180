"""What a probe compares: each selection's picks, uniform picks beside them, and the rows to measure on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from mixtura.errors import InputError
from mixtura.pipeline.embed import read_vectors
from mixtura.pipeline.hashing import keys
from mixtura.recipe import Pick, Recipe, Selection
from mixtura.stages import choose, gather
from mixtura.stages.plan import Plan

UNIFORM = "uniform"
REFERENCE_HELDOUT = 100  # reference rows on which forgetting is measured
CONTENT = ["id", "text", "messages", "chosen", "tools"]


@dataclass(frozen=True)
class Arm:
    """One selection's picks, best first.

    rows: `id`, content and `tokens`.
    vectors: f32[n, d], in the same order; None where nothing is embedded.
    """

    name: str
    rows: pl.DataFrame
    vectors: np.ndarray | None


@dataclass(frozen=True)
class Trial:
    """Everything of one seed.

    target: rows that selectors saw; target_vectors: f32[M, d], alike.
    heldout, reference_heldout: rows to measure on, the same for every seed.
    reference: the other rows of the reference, or of the pool where there is none.
    """

    seed: int
    arms: tuple[Arm, ...]
    target: pl.DataFrame
    target_vectors: np.ndarray | None
    heldout: pl.DataFrame
    reference: pl.DataFrame
    reference_heldout: pl.DataFrame


def probed(recipe: Recipe) -> Recipe:
    """The recipe with uniform picks at the same budget among its selections.

    Raises:
        InputError: there is no held-out target, or the selections have different budgets.
    """
    if recipe.target is None or not recipe.target.heldout_rows:
        raise InputError("target.heldout_rows", "must be given to probe: the target loss is measured on them")
    budgets = {(s.pick.budget_tokens, s.pick.budget_rows) for s in recipe.select}
    if len(budgets) > 1:
        need = "must have one budget for all, so that they are compared at equal tokens"
        raise InputError("select", need, got=sorted(str(b[0] or b[1]) for b in budgets))
    if any(s.selector == UNIFORM for s in recipe.select):
        return recipe
    tokens, rows = next(iter(budgets))
    beside = Selection(selector=UNIFORM, pick=Pick(budget_tokens=tokens, budget_rows=rows))
    return recipe.model_copy(update={"select": [*recipe.select, beside]})


def draw(plan: Plan, seed: int) -> Trial:
    """Select with one seed: target, reference, encoder and picks are drawn anew; what does not change is reused."""
    plan = replace(plan, recipe=plan.recipe.model_copy(update={"seed": seed}))
    pool = gather.dedup(plan, gather.clean(plan, gather.ingest(plan)))
    embedded = choose.embed(plan, pool)
    picked = choose.pick(plan, choose.score(plan, pool, embedded))
    vectors = dict(zip((p.path for p in pool.parts), embedded.parts, strict=False))
    arms = tuple(_arm(p, vectors) for p in picked)
    assert pool.target is not None
    known = pool.reference.parts if pool.reference else pool.parts
    columns = [*CONTENT, "tokens"]
    reference = pl.concat([pl.read_parquet(p.path, columns=columns) for p in known])
    reference = reference[np.argsort(keys(reference["id"], 0, "heldout/reference"), kind="stable")]
    target = pool.target.rows
    drawn = embedded.drawn.get("target")
    return Trial(
        seed,
        arms,
        pl.read_parquet(target.file("chosen.parquet"), columns=columns),
        None if drawn is None else _vectors(str(drawn.file("vectors.parquet"))),
        pl.read_parquet(target.file("heldout.parquet"), columns=columns),
        reference[REFERENCE_HELDOUT:],
        reference[:REFERENCE_HELDOUT],
    )


def _arm(picked: choose.Picked, vectors: dict[str, choose.Artefact]) -> Arm:
    order = picked.frame.select("id", "rank")
    frames, found = [], []
    for part, _ in picked.scored.scores:
        ids = pl.read_parquet(part.path, columns=["id"])["id"]
        at = ids.is_in(order["id"].implode()).arg_true()
        if len(at):
            frames.append(pl.read_parquet(part.path, columns=[*CONTENT, "tokens"])[at])
            if part.path in vectors:
                found.append(_vectors(str(vectors[part.path].file("vectors.parquet")))[at.to_numpy()])
    rows = pl.concat(frames).with_row_index("at").join(order, on="id").sort("rank")
    matrix = np.concatenate(found)[rows["at"].to_numpy()] if found else None
    return Arm(picked.scored.selection.word, rows.drop("at", "rank"), matrix)


def _vectors(path: str) -> np.ndarray:
    return read_vectors(path)[1].astype(np.float32)
