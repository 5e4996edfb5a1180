"""Columns that already hold a label, a span of the text, or a score: steps that need no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mixtura.tasks.template import as_text

Role = Literal["label", "span", "score"]

FILLED = 0.1  # share of rows in which a column must hold something: a corpus may have many sources, each with its own
MOSTLY = 0.5  # share of rows that must have the field which is labelled
MOST_LABELS = 50
ROWS_PER_LABEL = 10  # a label of fewer rows, on average, is a name
COVERED = 0.95  # share of rows that the labels of at least `LEAST_LABEL_ROWS` rows must cover
LEAST_LABEL_ROWS = 3
LONGEST_LABEL = 60
WITHIN = 0.8  # share of values that must occur in the text to be a span
SHORTEST_SPAN = 2
MOST_DISTINCT = 0.02  # of a span's values, a share of rows below this are a label's
TEXT_FIELDS = ("prompt", "text")
OWN = {"text", "prompt", "completion", "system", "conversation", "language", "source"}
ADDRESS = re.compile(r"^(https?://|www\.)|^[0-9a-f-]{16,}$|\.(html?|xml|pdf|json)$")

SCORED = re.compile(r"score|rating|grade|stars|severity|confidence", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """One column and what it holds.

    name: as templates name it.
    role: label, span or score.
    text: the field that is labelled, searched or scored: `prompt` or `text`.
    rows: rows that have both.
    values: a label's values, commonest first.
    low, high: of a score.
    why: what was seen, one sentence.
    """

    name: str
    role: Role
    text: str
    rows: int
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    why: str = ""


def detect(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Look at every column of rows.

    Args:
        rows: from `tasks.template.fields_of`.

    Returns:
        Columns with a role, in order of name.
    """
    text = next((f for f in TEXT_FIELDS if sum(f in r for r in rows) >= MOSTLY * len(rows)), None)
    if text is None:
        return []
    flat = [_flat(r) for r in rows]
    names = sorted({n for r in flat for n in r} - OWN)
    found = (_role(n, text, [(r[n], str(r.get(text) or "")) for r in flat if n in r], len(rows)) for n in names)
    return [c for c in found if c is not None]


def _role(name: str, text: str, pairs: list[tuple[Any, str]], total: int) -> Column | None:
    pairs = [(v, t) for v, t in pairs if t.strip()]
    if len(pairs) < max(2, FILLED * total):
        return None
    values = [v for v, _ in pairs]
    if any(ADDRESS.search(v) for v in values[:20] if isinstance(v, str)):
        return None
    return _score(name, text, values) or _label(name, text, values) or _span(name, text, pairs)


def _label(name: str, text: str, values: list[Any]) -> Column | None:
    """Few values, each of many rows, short, and of one type."""
    if not all(isinstance(v, str | int | bool) for v in values):
        return None
    counts = Counter(values)
    common = [(v, n) for v, n in sorted(counts.items(), key=lambda c: (-c[1], as_text(c[0]))) if n >= LEAST_LABEL_ROWS]
    most = min(MOST_LABELS, len(values) // ROWS_PER_LABEL)
    if not 2 <= len(common) <= most or sum(n for _, n in common) < COVERED * len(values):
        return None
    if max(len(as_text(v)) for v, _ in common) > LONGEST_LABEL:
        return None
    why = f"column {name!r} has {len(common)} values over {len(values):,} rows"
    return Column(name, "label", text, len(values), tuple(v for v, _ in common), why=why)


def _score(name: str, text: str, values: list[Any]) -> Column | None:
    """Numbers within a narrow range; whole ones are labels or counts, unless the column's name says score."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    whole = all(float(v).is_integer() for v in values)
    if (whole and not SCORED.search(name)) or not all(-1 <= v <= 100 for v in values):
        return None
    low, high = min(values), max(values)
    if low == high:
        return None
    why = f"column {name!r} has numbers from {low:g} to {high:g}"
    return Column(name, "score", text, len(values), low=float(low), high=float(high), why=why)


def _span(name: str, text: str, pairs: list[tuple[Any, str]]) -> Column | None:
    """Texts, or lists of texts, that occur in the row's own text."""
    spans = [([v] if isinstance(v, str) else v, t) for v, t in pairs]
    if not all(isinstance(v, list) and v and all(isinstance(s, str) for s in v) for v, _ in spans):
        return None
    if len({as_text(v) for v, _ in pairs}) < MOST_DISTINCT * len(pairs):
        return None
    within = sum(all(len(s) >= SHORTEST_SPAN and s.casefold() in t.casefold() and s != t for s in v) for v, t in spans)
    if within < WITHIN * len(pairs):
        return None
    why = f"column {name!r} occurs in {text} in {within / len(pairs):.0%} of {len(pairs):,} rows"
    return Column(name, "span", text, within, why=why)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields, and those of objects one level below as `a.b`; nothing null or blank."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        inner = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {k: v for k, v in inner.items() if v is not None and not (isinstance(v, str) and not v.strip())}
    return flat
