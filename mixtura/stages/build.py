"""New rows out of rows: each build reads parts of the pool and adds a source to it."""

from __future__ import annotations

from dataclasses import replace

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.generation.opening import open_generator
from mixtura.pipeline import building, lm, locate
from mixtura.pipeline import clean as cleaning
from mixtura.pipeline import embed as embedding
from mixtura.pipeline.shard_file import ShardFile
from mixtura.recipe import Build, Clean
from mixtura.stages.choose import encoder_of
from mixtura.stages.gather import Part, Pool, Unit, unique
from mixtura.stages.plan import Plan, Tracker
from mixtura.store import Artefact, file_digest


def build(plan: Plan, pool: Pool) -> Pool:
    """The pool with the rows that the recipe's builds make; without builds, the pool itself.

    Raises:
        InputError: an option is impossible for these rows, or a build makes none.
    """
    if not plan.recipe.build:
        return pool
    with plan.stage("build") as stage:
        for spec in plan.recipe.build:
            pool = _add(plan, stage, pool, spec)
        made = {
            b.word: sum(u.ingest.facts["rows"] for u in pool.units if u.source == b.word) for b in plan.recipe.build
        }
        stage.line = ", ".join(f"{n:,} rows by {name}" for name, n in made.items())
    return pool


def chosen(plan: Plan, spec: Build) -> building.Chosen:
    """A build's builder with its options and files.

    Raises:
        InputError: a file or model that an option names is not there, or not within the recipe's reach.
    """
    builder = recipe_file.builder_of(spec)
    options = recipe_file.builder_spec_of(spec)
    files = {}
    for option in builder.needs.files:
        if named := getattr(options, option):
            path = locate.file_path(named, plan.where, key=f"build.{spec.word}.options.{option}")
            files[option] = (str(path), file_digest(path))
    model = None
    if builder.needs.generator and (named := getattr(options, "model", None)) and not getattr(options, "server", None):
        model = lm.locate(options, plan.model(named), key=f"build.{spec.word}.options.model")  # pyright: ignore[reportArgumentType]
    own = options.model_dump(mode="json")
    return building.Chosen(spec.builder, own, model, name=spec.word, seed=plan.recipe.seed, files=files)


def _add(plan: Plan, stage: Tracker, pool: Pool, spec: Build) -> Pool:
    builder = chosen(plan, spec)
    shards = _shards(plan, stage, pool, spec)
    fitted = stage.add(building.fit(builder, [s for _, s in shards], plan.store, open_generator))
    jobs = [building.BuildJob(builder, fitted.path, fitted.digest, s, str(plan.store.root)) for _, s in shards]
    if builder.asks_model:  # one process: a model is large, and a server is asked many things at once
        made = [stage.add(building.build_shard(job, open_generator)) for job in jobs]
    else:
        made = plan.map(stage, building.build_shard, jobs)
    if not sum(a.facts["rows"] for a in made):
        raise InputError(
            f"build {spec.word!r}",
            "must make at least one row",
            got=_refused(made),
            next_step="Change an option of the builder",
        )
    units = _cleaned(plan, stage, spec.word, made)
    # near-duplicates stay: rows of one parent are alike on purpose, and share their parent's split
    there = _in_the_way(plan, pool)
    parts, _ = unique(plan, stage, units, [spec.word], there, clean=_clean(plan), protected_reason="in-pool-or-target")
    return replace(pool, units=(*pool.units, *units), parts=(*pool.parts, *parts), surveyed=(*pool.surveyed, fitted))


def _in_the_way(plan: Plan, pool: Pool) -> list[Artefact]:
    """Cleaned rows that no built row may equal: those that can be chosen themselves, and the target's."""
    units = [u for u in pool.units if u.source in plan.recipe.chosen_from()]
    target = plan.recipe.target
    for role, drawn in pool.drawn.items():
        if role == "avoid" or (role == "target" and target and target.exclude_from_pool):
            units += drawn.units
    return [a for u in units for a in u.clean]


def _shards(plan: Plan, stage: Tracker, pool: Pool, spec: Build) -> list[tuple[Part, ShardFile]]:
    """The parts that a build reads, with their vectors where its builder needs them."""
    parts = pool.of(spec.sources)
    files = [(p.path, p.rows.files["rows.parquet"]["sha256"]) for p in parts]
    if not recipe_file.builder_of(spec).needs.vectors:
        return [(p, ShardFile(*f)) for p, f in zip(parts, files, strict=True)]
    embed, store = plan.recipe.embed, str(plan.store.root)
    encoder = encoder_of(plan, stage, pool)
    asked = plan.map(stage, building.asked_shard, [building.AskedJob(p, d, store) for p, d in files])
    texts = [(str(a.file("asked.parquet")), a.files["asked.parquet"]["sha256"]) for a in asked]
    jobs = [embedding.EmbedJob(p, d, embed, encoder.folder, encoder.digest, store) for p, d in texts]
    vectors = plan.map(stage, embedding.embed_shard, jobs)
    rows = [ShardFile(*f, str(v.file("vectors.parquet")), v.digest) for f, v in zip(files, vectors, strict=True)]
    return list(zip(parts, rows, strict=True))


def _cleaned(plan: Plan, stage: Tracker, name: str, made: list[Artefact]) -> list[Unit]:
    """The built rows as clean leaves them: normal text, ids, tokens."""
    store = str(plan.store.root)
    jobs = [
        cleaning.CleanJob(str(a.file(n)), a.files[n]["sha256"], _clean(plan), plan.recipe.seed, store)
        for a in made
        for n in a.names("rows-")
    ]
    done = iter(plan.map(stage, cleaning.clean_shard, jobs))
    return [Unit(name, a, tuple(next(done) for _ in a.names("rows-"))) for a in made]


def _clean(plan: Plan) -> Clean:
    """The recipe's rules for text and size; those against bad sources would drop short and repetitive answers."""
    rules = plan.recipe.clean
    if rules.tokenizer != "words":
        rules = rules.model_copy(update={"tokenizer": plan.model(rules.tokenizer)})
    loose = {"near_dedup": None, "exact_dedup": True, "repetition": None, "min_chars": 1, "min_tokens": 1}
    return rules.model_copy(update=loose)


def _refused(made: list[Artefact]) -> dict[str, int]:
    total: dict[str, int] = {}
    for artefact in made:
        for reason, n in artefact.facts["refused"].items():
            total[reason] = total.get(reason, 0) + n
    return total
