"""From a corpus to a task pool file: gather, cluster, look at the columns, draft, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mixtura.errors import InputError
from mixtura.generation.contract import Generator
from mixtura.pipeline import embed as embedding
from mixtura.pipeline import tables
from mixtura.propose import cluster, columns, page
from mixtura.propose.draft import Drafted, Found, draft, pool_of
from mixtura.propose.reworded import reword
from mixtura.stages import choose, gather
from mixtura.stages.plan import Plan
from mixtura.store import Artefact, write_synced
from mixtura.tasks import pool as task_pool
from mixtura.tasks.pool import TaskPool
from mixtura.tasks.template import fields_of

DIMENSIONS = 128  # of the fitted encoder: tasks need fewer than neighbours do, and the tree is faster


@dataclass(frozen=True)
class Wishes:
    """What the user asks of a proposal.

    domain: the pool's domain.
    rows: of the corpus to look at, chosen by hash.
    most: the most clusters.
    number: how many clusters, instead of choosing; None chooses.
    """

    domain: str
    rows: int = 40_000
    most: int = 48
    number: int | None = None


@dataclass(frozen=True)
class Proposal:
    """A drafted task pool and what it was drafted from.

    memberships: `id` and `cluster` of each row that was looked at, sorted by id.
    """

    pool: TaskPool
    drafted: tuple[Drafted, ...]
    clusters: cluster.Clusters
    columns: tuple[columns.Column, ...]
    memberships: pl.DataFrame
    sources: dict[str, int]
    encoder: str


def propose(plan: Plan, wishes: Wishes, memberships: str, model: Generator | None = None) -> Proposal:
    """Draft a task pool from a recipe's sources; nothing is written but artefacts.

    Args:
        plan: its recipe's sources, clean and embed count; selections do not.
        wishes: what is asked.
        memberships: name of the file that `write` will put the clusters' rows into.
        model: names the steps and writes their instructions; without one they have stock wordings.

    Raises:
        InputError: the corpus is empty, or smaller than the number of clusters.
    """
    with plan.workers:
        units = gather.clean(plan, gather.ingest(plan))
        parts = gather.dedup(plan, units)
        sample = choose.draw_pool(plan, list(parts.parts), wishes.rows, "tasks")
        frame = pl.read_parquet(sample.file("chosen.parquet"))
        rows = [fields_of(r) for r in frame.iter_rows(named=True)]
        requests = [request_of(r) for r in frame.select("text", "messages").iter_rows(named=True)]
        with plan.stage("cluster") as stage:
            encoder = _encoder(plan, requests, stage.add(sample))
            clusters = cluster.find(
                requests, encoder.encode, seed=plan.recipe.seed, most=wishes.most, number=wishes.number
            )
            stage.line = f"{len(rows):,} rows in {clusters.count} clusters"
        with plan.stage("draft") as stage:
            roles = columns.detect(rows)
            drafted = draft(Found(rows, frame["id"].to_list(), requests, clusters, roles))
            stage.line = f"{len(drafted)} steps, {len(roles)} of them from columns"
            if model is not None:
                said = reword(drafted, model, seed=plan.recipe.seed)
                drafted = said.drafted
                stage.line += f", {said.taken} worded by the model"
    pool = pool_of(wishes.domain, f"Proposed from {len(rows):,} rows; edit before use", drafted, memberships)
    members = pl.DataFrame({"id": frame["id"], "cluster": clusters.labels}).sort("id")
    sources = dict(frame["source"].value_counts().sort("source").iter_rows())
    named = f"{plan.recipe.embed.encoder}, {encoder.dimensions} dimensions"
    return Proposal(pool, tuple(drafted), clusters, tuple(roles), members, sources, named)


def write(proposal: Proposal, path: Path) -> list[Path]:
    """Write the task pool, its memberships and its page: `NAME.yaml`, `NAME.parquet`, `NAME.html`.

    Args:
        proposal: from `propose` with `memberships` = `memberships_name(path)`.
        path: of the YAML file. It is a person's to edit, so it is never overwritten.

    Raises:
        InputError: the file is there already, or its folder cannot be written.
    """
    if path.exists():
        step = "It may hold someone's edits: give another name with --out, or move it away"
        raise InputError(f"task pool {str(path)!r}", "must not exist yet", next_step=step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(memberships_name(path))
        tables.write(beside, proposal.memberships)
        html = path.with_suffix(".html")
        write_synced(html, page.render(proposal, path.name))
        write_synced(path, HEADER + task_pool.to_yaml(proposal.pool))
    except OSError as e:
        raise InputError(
            f"task pool {str(path)!r}", "must lie in a folder that can be written", got=e.strerror
        ) from None
    return [path, beside, html]


HEADER = """\
# A draft: rename, merge and delete steps, and say in the instructions what is wanted. `proposed` is for you alone.
# Order matters: the steps of an action are done in turn. `output: null` (or none) lets a model write the answers.
"""


def memberships_name(path: Path) -> str:
    """The file beside a task pool that says which row is in which cluster."""
    return f"{path.stem}.parquet"


def request_of(row: Mapping[str, Any]) -> str:
    """What is asked in a row: its user turns, or its text."""
    turns: Sequence[Mapping[str, Any]] = row["messages"] or []
    asked = [t["content"] or "" for t in turns if t["role"] in ("user", "system")]
    return "\n".join(asked) if asked else row["text"] or "\n".join(t["content"] or "" for t in turns)


def _encoder(plan: Plan, requests: list[str], sample: Artefact) -> embedding.Encoder:
    """The recipe's encoder; a fitted one learns from the requests."""
    spec = plan.recipe.embed
    if spec.encoder != "fitted":
        return embedding.load_encoder(spec, model_path=plan.model(spec.encoder))
    spec = spec.model_copy(update={"dimensions": min(spec.dimensions, DIMENSIONS)})
    learnt = [r[: cluster.MAX_CHARS] for r in requests[: spec.fit_rows]]
    made = embedding.fit_encoder(
        spec, learnt, seed=plan.recipe.seed, store=plan.store, inputs=[sample.digest, "requests"]
    )
    return embedding.load_encoder(spec, made)
