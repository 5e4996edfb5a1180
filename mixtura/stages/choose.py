"""From the pool to the mixture's rows: embed, fit, score, pick, mix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.pipeline import cover, lm, scoring, tables
from mixtura.pipeline import embed as embedding
from mixtura.pipeline import mix as mixing
from mixtura.pipeline import pick as picking
from mixtura.pipeline.builder import asked_text
from mixtura.pipeline.contract import Fitted
from mixtura.pipeline.hashing import keys, string_hashes
from mixtura.pipeline.shard_file import ShardFile
from mixtura.recipe import Selection
from mixtura.rows import plain_text
from mixtura.stages.gather import Part, Pool
from mixtura.stages.plan import Plan, Tracker
from mixtura.store import Artefact, code_version


@dataclass(frozen=True)
class Embedded:
    """Vectors of everything, or nothing where no selector needs any.

    parts: vectors of each part of the pool that can be chosen from, in its order.
    drawn: vectors of the target's and the other roles' samples.
    """

    encoder: str | None = None
    parts: tuple[Artefact, ...] = ()
    drawn: dict[str, Artefact] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """One selection's fit and scores.

    scores: (part, its scores), for the parts that the selection may choose from.
    """

    selection: Selection
    fitted: Artefact
    scores: tuple[tuple[Part, Artefact], ...]


@dataclass(frozen=True)
class Picked:
    """One selection's picks: artefact with `picks.parquet` (id, score, rank)."""

    scored: Scored
    picks: Artefact

    @property
    def word(self) -> str:
        """The selection's."""
        return self.scored.selection.word

    @property
    def frame(self) -> pl.DataFrame:
        """The picks, best first."""
        return pl.read_parquet(self.picks.file("picks.parquet"))


def embed(plan: Plan, pool: Pool) -> Embedded:
    """Vectors of the pool, the target and the reference; nothing where no selector needs them."""
    if not any(recipe_file.selector_of(s).needs.vectors for s in plan.recipe.select):
        return Embedded()
    spec, store = plan.recipe.embed, str(plan.store.root)
    parts = pool.of(plan.recipe.chosen_from())
    drawn = pool.drawn
    with plan.stage("embed", len(parts) + len(drawn)) as stage:
        encoder = encoder_of(plan, stage, pool)
        files = [(p.path, p.rows.files["rows.parquet"]["sha256"]) for p in parts]
        files += [
            (str(d.rows.file("chosen.parquet")), d.rows.files["chosen.parquet"]["sha256"]) for d in drawn.values()
        ]
        jobs = [embedding.EmbedJob(p, d, spec, encoder.folder, encoder.digest, store) for p, d in files]
        made = plan.map(stage, embedding.embed_shard, jobs)
        rows = sum(a.facts["rows"] for a in made)
        name = f"{spec.encoder}, {encoder.dimensions} dimensions"
        stage.line = f"{rows:,} rows, {name}"
    n = len(parts)
    return Embedded(name, tuple(made[:n]), dict(zip(drawn, made[n:], strict=True)))


def score(plan: Plan, pool: Pool, embedded: Embedded) -> list[Scored]:
    """Fit each selector once and score every row that it may choose from."""
    parts = pool.of(plan.recipe.chosen_from())
    vectors = dict(zip((p.path for p in parts), embedded.parts, strict=False))
    with plan.stage("score", sum(len(pool.of(plan.recipe.sources_of(s))) for s in plan.recipe.select)) as stage:
        scored = [score_with(plan, stage, pool, embedded, vectors, s) for s in plan.recipe.select]
        rows = sum(a.facts["rows"] for s in scored for _, a in s.scores)
        stage.line = f"{rows:,} scores by {', '.join(s.selection.word for s in scored)}"
    return scored


def pick(plan: Plan, scored: list[Scored]) -> list[Picked]:
    """Turn scores into picks under each selection's budget; only ids, sources and sizes are read again."""
    with plan.stage("pick") as stage:
        picked = [Picked(s, stage.add(_pick(plan, s))) for s in scored]
        stage.line = "; ".join(f"{p.word} {p.picks.facts['rows']:,} rows" for p in picked)
    return picked


def mix(plan: Plan, pool: Pool, picked: list[Picked]) -> Artefact:
    """The mixture's rows in order: artefact with `mixed.parquet` (id, selection, rank, score, split)."""
    parts = pool.of(plan.recipe.chosen_from())

    def write(folder: Path) -> dict[str, Any]:
        frames = {p.word: p.frame for p in picked}
        wanted = pl.concat([f.select("id") for f in frames.values()]).unique()
        rows = pl.concat([_sizes(plan, p).join(wanted, on="id", how="semi") for p in parts])
        mixed = mixing.mix(frames, rows, plan.recipe.mix, seed=plan.recipe.seed)
        tables.write(folder / "mixed.parquet", mixed)
        return {"read": wanted.height, "rows": mixed.height, "splits": _counts(mixed, "split")}

    with plan.stage("mix") as stage:
        made = stage.add(
            plan.store.make(
                "mix",
                write,
                inputs=[*(p.picks.digest for p in picked), *(p.rows.digest for p in parts)],
                spec={
                    "mix": plan.recipe.mix.model_dump(mode="json"),
                    "seed": plan.recipe.seed,
                    "selections": [p.word for p in picked],
                },
                code=code_version(__name__),
            )
        )
        stage.line = f"{made.facts['rows']:,} rows: " + ", ".join(f"{n:,} {s}" for s, n in made.facts["splits"].items())
    return made


def _sizes(plan: Plan, part: Part) -> pl.DataFrame:
    """What mixing reads of a part: `id, tokens, split_group`, and with builds `evaluate_only, asked`."""
    columns = ["id", "tokens", "split_group"]
    if not plan.recipe.build:
        return pl.read_parquet(part.path, columns=columns)
    if part.source in plan.recipe.sources:
        rows = pl.read_parquet(part.path, columns=columns)
        return rows.with_columns(evaluate_only=pl.lit(False), asked=pl.lit(None, pl.UInt64))
    rows = pl.read_parquet(part.path, columns=[*columns, "meta", "text", "messages"])
    aside = pl.col("meta").str.contains('"evaluate_only":true', literal=True)  # as `builder.Built` writes it
    asked = pl.Series("asked", string_hashes(asked_text(rows)), pl.UInt64)
    return rows.select(*columns, aside.fill_null(False).alias("evaluate_only")).with_columns(asked)


def language_model(plan: Plan, selection: Selection) -> lm.Located | None:
    """The causal LM that a selection's options name; None where its selector needs none, or where a server has it.

    Raises:
        InputError: no such model, pickled weights, or no such device.
    """
    if not recipe_file.selector_of(selection).needs.model:
        return None
    spec: Any = recipe_file.spec_of(selection)
    if getattr(spec, "server", None):
        return None
    where = "mix.marks" if selection not in plan.recipe.select else f"select.{selection.word}"
    return lm.locate(spec, plan.model(spec.model), key=f"{where}.options.model")


def draw_pool(plan: Plan, parts: list[Part], rows: int, purpose: str) -> Artefact:
    """A sample of the pool by hash of id: artefact with `chosen.parquet`, sorted by id."""

    def write(folder: Path) -> dict[str, Any]:
        ids = [pl.read_parquet(p.path, columns=["id"])["id"] for p in parts]
        key = [keys(i, plan.recipe.seed, purpose) for i in ids]
        everything = np.concatenate(key)
        limit = np.partition(everything, rows - 1)[rows - 1] if len(everything) > rows else everything.max()
        chosen = [pl.read_parquet(p.path).filter(pl.Series(k <= limit)) for p, k in zip(parts, key, strict=True)]
        tables.write(folder / "chosen.parquet", pl.concat(chosen).sort("id"))
        return {"rows": sum(c.height for c in chosen)}

    return plan.store.make(
        "sample",
        write,
        inputs=[p.rows.digest for p in parts],
        spec={"rows": rows, "purpose": purpose, "seed": plan.recipe.seed},
        code=code_version(__name__),
    )


def encoder_of(plan: Plan, stage: Tracker, pool: Pool) -> embedding.Encoder:
    """The encoder that every job loads; a fitted one learns first, from a sample of the pool and the target."""
    spec = plan.recipe.embed
    if spec.encoder != "fitted":
        return embedding.load_encoder(spec, model_path=plan.model(spec.encoder))
    learns_from = spec.fit_on or list(plan.recipe.sources)  # not from built rows: builds may need the encoder
    sample = stage.add(draw_pool(plan, pool.of(learns_from), spec.fit_rows, "encoder"))
    files = [sample] + [d.rows for d in pool.drawn.values()]
    made = stage.add(
        embedding.fit_encoder(
            spec, _texts(files), seed=plan.recipe.seed, store=plan.store, inputs=[a.digest for a in files]
        )
    )
    return embedding.load_encoder(spec, made)


def _texts(samples: list[Artefact]) -> Iterator[str]:
    for artefact in samples:
        yield from plain_text(pl.read_parquet(artefact.file("chosen.parquet")))


def score_with(
    plan: Plan, stage: Tracker, pool: Pool, embedded: Embedded, vectors: dict[str, Artefact], selection: Selection
) -> Scored:
    """Fit one selection's selector on a sample of the pool, and score every row of its sources.

    `vectors` are those of each part, by its path; nothing where the selector needs none.
    """
    options = recipe_file.spec_of(selection).model_dump(mode="json")
    selected = scoring.Selected(selection.selector, options, language_model(plan, selection))
    parts = pool.of(plan.recipe.sources_of(selection))
    needed = vectors if selected.selector.needs.vectors else {}
    shards = [_rows(p.rows, "rows.parquet", needed.get(p.path)) for p in parts]
    drawn = {n: _rows(d.rows, "chosen.parquet", embedded.drawn[n] if needed else None) for n, d in pool.drawn.items()}
    sample = draw_pool(plan, parts, plan.recipe.embed.fit_rows, "fit")
    fitted = stage.add(
        scoring.fit(
            selected,
            sample=_with_vectors(plan, sample, parts, needed),
            target=drawn.get("target"),
            reference=drawn.get("reference"),
            avoid=drawn.get("avoid") if selected.selector.needs.avoid else None,
            seed=plan.recipe.seed,
            store=plan.store,
        )
    )
    jobs = [scoring.ScoreJob(selected, fitted.path, fitted.digest, s, str(plan.store.root)) for s in shards]
    made = plan.map(stage, scoring.score_shard, jobs)
    return Scored(selection, fitted, tuple(zip(parts, made, strict=True)))


def _rows(artefact: Artefact, name: str, vectors: Artefact | None) -> ShardFile:
    digest = artefact.files[name]["sha256"]
    if vectors is None:
        return ShardFile(str(artefact.file(name)), digest)
    return ShardFile(str(artefact.file(name)), digest, str(vectors.file("vectors.parquet")), vectors.digest)


def _with_vectors(plan: Plan, sample: Artefact, parts: list[Part], vectors: dict[str, Artefact]) -> ShardFile:
    """The sample with its vectors, gathered from the shards' rather than computed again."""
    if not vectors:
        return _rows(sample, "chosen.parquet", None)

    def write(folder: Path) -> dict[str, Any]:
        ids = pl.read_parquet(sample.file("chosen.parquet"), columns=["id"])
        found = [pl.read_parquet(vectors[p.path].file("vectors.parquet")).join(ids, on="id", how="semi") for p in parts]
        gathered = ids.join(pl.concat(found), on="id", how="left", maintain_order="left")
        tables.write(folder / "vectors.parquet", gathered)
        return {"rows": gathered.height}

    inputs = [sample.digest, *(vectors[p.path].digest for p in parts)]
    gathered = plan.store.make("gathered", write, inputs=inputs, spec={}, code=code_version(__name__))
    return _rows(sample, "chosen.parquet", gathered)


def _pick(plan: Plan, scored: Scored) -> Artefact:
    selection, spec = scored.selection, recipe_file.pick_of(scored.selection)
    wanted = ["id", "score", *(cover.COLUMNS if spec.rule in ("cover", "round_robin") else ())]

    def write(folder: Path) -> dict[str, Any]:
        frames = [
            pl.scan_parquet(s.file("scores.parquet"))
            .select(*wanted, cs.by_name(cover.PENALTY, require_all=False))
            .collect()
            .hstack(pl.read_parquet(p.path, columns=["source", "tokens"]))
            for p, s in scored.scores
        ]
        everything = pl.concat(frames)
        if not everything.height:
            raise InputError(f"selection {selection.word!r}", "needs at least one row in its sources")
        market = None
        if spec.rule == "cover":
            fitted = Fitted.load(Path(scored.fitted.path))
            market = cover.Market.of(fitted.arrays, fitted.facts)
        scale = recipe_file.selector_of(selection).scale
        picks = picking.pick(everything, spec, scale=scale, seed=plan.recipe.seed, market=market)
        chosen = everything.join(picks, on="id", how="semi")
        tables.write(folder / "picks.parquet", picks)
        by_source = chosen.group_by("source").agg(pl.len().alias("rows"), pl.col("tokens").cast(pl.Int64).sum())
        return {
            "rule": spec.rule,
            "pool_rows": everything.height,
            "rows": picks.height,
            "tokens": int(chosen["tokens"].cast(pl.Int64).sum()),
            "by_source": {s: {"rows": r, "tokens": t} for s, r, t in by_source.sort("source").iter_rows()},
        }

    return plan.store.make(
        "picks",
        write,
        inputs=[scored.fitted.digest, *(d for p, s in scored.scores for d in (s.digest, p.rows.digest))],
        spec={
            "pick": spec.model_dump(mode="json"),
            "selector": selection.selector,
            "seed": plan.recipe.seed,
        },
        code=code_version(__name__),
    )


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(frame.group_by(column, maintain_order=True).len().iter_rows())
