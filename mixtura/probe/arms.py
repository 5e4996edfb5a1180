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
    """The recipe whose selections are the arms: all with the largest budget among them, uniform picks beside.

    Raises:
        InputError: there is no held-out target, or budgets are of rows here and of tokens there.
    """
    if recipe.target is None or not recipe.target.heldout_rows:
        raise InputError("target.heldout_rows", "must be given to probe: the target loss is measured on them")
    picks = [s.pick for s in recipe.select]
    units = {"budget_tokens" if p.budget_tokens else "budget_rows" for p in picks}
    if len(units) > 1 or not all(p.budget_tokens or p.budget_rows for p in picks):
        said = [str(p.model_dump(exclude_defaults=True)) for p in picks]
        need = "must all have a budget of tokens, or all one of rows, to be compared at equal budgets"
        raise InputError("select", need, got=said)
    unit = units.pop()
    budget = {unit: max(getattr(p, unit) for p in picks)}
    others = [s for s in recipe.select if s.selector != UNIFORM or s.sources]
    if any(s.word == UNIFORM for s in others):
        raise InputError("select", f"must not name another selection {UNIFORM!r}: it is the probe's own yardstick")
    arms = [s.model_copy(update={"pick": s.pick.model_copy(update=budget)}) for s in others]
    return recipe.model_copy(update={"select": [*arms, Selection(selector=UNIFORM, pick=Pick(**budget))]})


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
    return Arm(picked.word, rows.drop("at", "rank"), matrix)


def _vectors(path: str) -> np.ndarray:
    return read_vectors(path)[1].astype(np.float32)
