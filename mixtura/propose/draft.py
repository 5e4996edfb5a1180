"""From clusters and columns to a task pool: one step each, its kind guessed from what its rows hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from mixtura.propose import naming
from mixtura.propose.cluster import Clusters
from mixtura.propose.columns import Column
from mixtura.propose.wordings import instructions
from mixtura.recipe import Model
from mixtura.tasks.pool import Action, Check, Kind, Proposed, Rows, Step, TaskPool
from mixtura.tasks.template import MissingField, as_text, found_in

TERMS = 6
CENTRAL = 3
LOOKED_AT = 500  # rows of a cluster from which its kind is guessed
MOST_ANSWERS = 20  # different answers of a step that classifies
MORE = 1.5  # times the label's share of all rows
AGREES = 0.7  # share of a cluster's rows with one label, from which on the label names it
NUMBER = re.compile(r"^[-+]?[\d.,]*\d%?$")
LANGUAGES = 3


@dataclass(frozen=True)
class Found:
    """All that a draft is made of.

    rows: from `tasks.template.fields_of`.
    ids: of the rows.
    requests: what is asked, one per row.
    clusters: of the rows.
    columns: with a role.
    """

    rows: Sequence[Mapping[str, Any]]
    ids: Sequence[str]
    requests: list[str]
    clusters: Clusters
    columns: Sequence[Column]

    @cached_property
    def labels(self) -> dict[str, list[str | None]]:
        """Label column → each row's value as text."""
        names = [c.name for c in self.columns if c.role == "label"]
        values = {n: [value_of(r, n) for r in self.rows] for n in names}
        return {n: [None if v is None else as_text(v) for v in vs] for n, vs in values.items()}

    @cached_property
    def label_counts(self) -> dict[str, Counter[str | None]]:
        """How often each value occurs."""
        return {n: Counter(values) for n, values in self.labels.items()}


class Drafted(Model):
    """One drafted step and what the page shows of it."""

    action: str
    name: str
    step: Step
    cluster: int | None = None
    examples: tuple[tuple[str, str], ...] = ()  # (request, answer or the column's value)


def draft(found: Found) -> list[Drafted]:
    """Steps: of the columns first, then of the clusters, larger first."""
    taken: set[str] = set()
    return [*_of_columns(found, taken), *_of_clusters(found, taken)]


def pool_of(domain: str, description: str, drafted: Sequence[Drafted], memberships: str) -> TaskPool:
    """The drafted steps as a task pool; actions in the order in which they first occur."""
    actions: dict[str, dict[str, Step]] = {}
    for d in drafted:
        actions.setdefault(d.action, {})[d.name] = d.step
    return TaskPool(
        domain=domain,
        description=description,
        memberships=memberships,
        actions={name: Action(steps=steps) for name, steps in actions.items()},
    )


def _of_columns(found: Found, taken: set[str]) -> list[Drafted]:
    made = []
    languages = spoken(found.rows)
    for column in found.columns:
        kind, schema, checks = _column_form(column)
        topic = ", ".join(as_text(v) for v in column.values[:MOST_ANSWERS]) or column.name.replace("_", " ")
        step = Step(
            kind=kind,
            description=f"{column.name}, from the column of that name",
            instructions=instructions(kind, topic, languages),
            input={"text": f"{{{column.text}}}"},
            output=f"{{{column.name}}}",
            output_schema=schema,
            checks=checks,
            proposed=Proposed(rows=column.rows, why=column.why),
        )
        name = naming.slug([kind, column.name], taken, kind)
        made.append(Drafted(action="annotate", name=name, step=step, examples=tuple(_shown(found, column))))
    return made


def _column_form(column: Column) -> tuple[Kind, dict[str, Any], list[Check]]:
    if column.role == "score":
        return "score", {"type": "number", "minimum": column.low, "maximum": column.high}, []
    if column.role == "span":
        return "extract", {"type": "string", "minLength": 1}, [Check(name="spans")]
    kinds = {type(v) for v in column.values}
    named = "string" if kinds == {str} else "boolean" if kinds == {bool} else "integer" if kinds == {int} else None
    enum = {"enum": list(column.values)}
    return "classify", ({"type": named} if named else {}) | enum, []


def _of_clusters(found: Found, taken: set[str]) -> list[Drafted]:
    clusters, count = found.clusters, found.clusters.count
    words = naming.terms(found.requests, clusters.labels, count, TERMS)
    middle = naming.central(clusters.labels, clusters.distance, found.requests, count, CENTRAL)
    agreed = [_agreed(found, np.flatnonzero(clusters.labels == c)) for c in range(count)]
    names = [
        naming.slug([label[1]] if label else words[c][:2], taken, f"cluster_{c}") for c, label in enumerate(agreed)
    ]
    actions = _actions(found, names)
    made = []
    for c in range(count):
        members = np.flatnonzero(clusters.labels == c)
        rows = [found.rows[i] for i in members[:LOOKED_AT]]
        step = _cluster_step(c, len(members), rows, words[c], [found.ids[i] for i in middle[c]], agreed[c])
        shown = [(found.requests[i], as_text(found.rows[i].get("completion") or "")) for i in middle[c]]
        made.append(Drafted(action=actions[c], name=names[c], step=step, cluster=c, examples=tuple(shown)))
    return sorted(made, key=lambda d: clusters.families[d.cluster or 0])


def _cluster_step(
    c: int,
    size: int,
    rows: list[Mapping[str, Any]],
    words: list[str],
    central: list[str],
    agreed: tuple[str, str, float] | None,
) -> Step:
    kind, schema, checks = _kind(rows)
    answered = any("completion" in r for r in rows)
    topic = agreed[1] if agreed else ", ".join(words[:3])
    why = f"cluster {c} of requests" + (
        f"; {agreed[2]:.0%} of its rows have {agreed[0]} {agreed[1]!r}" if agreed else ""
    )
    return Step(
        kind=kind,
        description=f"Requests about {topic}" if topic else "",
        instructions=instructions(kind, topic or "-", spoken(rows)),
        rows=Rows(clusters=[c]),
        input={"request": "{prompt}"} if any("prompt" in r for r in rows) else {"text": "{text}"},
        output="{completion}" if answered else None,
        output_schema=schema,
        checks=checks,
        proposed=Proposed(rows=size, terms=words, central=central, why=why),
    )


def _kind(rows: list[Mapping[str, Any]]) -> tuple[Kind, dict[str, Any], list[Check]]:
    """What a step does, by the look of its answers; 'summarise' for long texts without any."""
    text = {"type": "string", "minLength": 1}
    pairs = [(as_text(r.get("prompt", "")), as_text(r["completion"]).strip()) for r in rows if "completion" in r]
    if not pairs:
        long = sum(len(as_text(r.get("text", ""))) >= 400 for r in rows) * 2 >= len(rows)
        return ("summarise" if long else "free"), text, []
    answers = Counter(a for _, a in pairs)
    n = len(pairs)
    if sum(bool(NUMBER.match(a)) for a in answers.elements()) >= 0.9 * n:
        return "free", text, [Check(name="numeric")]
    if len(answers) <= MOST_ANSWERS and n >= 5 * len(answers) and max(map(len, answers)) <= 60:
        return "classify", {"type": "string", "enum": sorted(answers)}, []
    within = sum(len(a) >= 2 and a.casefold() in p.casefold() for p, a in pairs)
    if within >= 0.8 * n:
        return "extract", text, [Check(name="spans")]
    asked, said = (float(np.median([len(x[i]) for x in pairs])) for i in (0, 1))
    if sum(a.endswith(("?", "？")) for _, a in pairs) >= 0.8 * n:
        return "enhance", text, []
    if asked >= 400 and said < 0.35 * asked and said >= 60:
        return "summarise", text, []
    return ("advise" if said >= 100 and said > asked else "free"), text, []


def _agreed(found: Found, members: np.ndarray) -> tuple[str, str, float] | None:
    """The label column, its value, and the share of a cluster's rows that have it, where most have."""
    best: tuple[str, str, float] | None = None
    for name, values in found.labels.items():
        (value, n), *_ = Counter(values[i] for i in members).most_common(1)
        share, everywhere = n / len(members), found.label_counts[name][value] / len(values)
        # a label of nearly every row says nothing about this cluster
        if value is not None and share >= max(AGREES, MORE * everywhere) and (best is None or share > best[2]):
            best = (name, value, share)
    return best


def _actions(found: Found, names: Sequence[str]) -> list[str]:
    """Each cluster's action, by the name of the largest step of its family: terms of many steps together name none."""
    families, sizes = found.clusters.families, np.bincount(found.clusters.labels, minlength=len(names))
    largest: dict[int, int] = {}
    for c in np.argsort(-sizes, kind="stable").tolist():
        largest.setdefault(int(families[c]), c)
    taken = {"annotate"}
    called = {family: naming.slug([names[c]], taken, f"family_{family}") for family, c in largest.items()}
    return [called[int(family)] for family in families]


def _shown(found: Found, column: Column) -> list[tuple[str, str]]:
    """The first rows that have the column: what it is about, and what it holds."""
    pairs = ((r.get(column.text), value_of(r, column.name)) for r in found.rows)
    return [(as_text(t), as_text(v)) for t, v in islice(((t, v) for t, v in pairs if t and v is not None), CENTRAL)]


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """A field, or None; `a.b` as in templates."""
    try:
        return found_in(row, name)
    except MissingField:
        return None


def spoken(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Languages of rows, commonest first, without region; English where none is named."""
    counts = Counter(str(r["language"]).split("-")[0].lower() for r in rows if r.get("language"))
    return [language for language, _ in counts.most_common(LANGUAGES)] or ["en"]
