"""The summary of one mixture: the counts and settings that the card, the report and `mixtura show` read.

Plain frozen dataclasses that become JSON and back without loss. No timestamps, timings or machine paths: two builds of
the same mixture give the same summary, so their cards can be diffed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from mixtura.errors import CountError

Form = Literal["text", "messages", "preference"]


@dataclass(frozen=True)
class Tally:
    """How much: rows, tokens (in the recipe's `clean.tokenizer`), and bytes of Parquet where they were written."""

    rows: int
    tokens: int
    bytes: int = 0


@dataclass(frozen=True)
class SourceFacts:
    """One source, from its files to its share of the mixture.

    `read = quarantined + sum(dropped) + pool_rows`; `dropped` covers clean and dedup, not picking.
    """

    name: str
    license: str
    revision: str
    files: int
    bytes: int  # of the files as found, compressed or not
    read: int
    quarantined: int
    dropped: dict[str, int]  # reason code → records
    pool_rows: int
    pool_tokens: int
    picked_rows: int  # in the mixture, all splits; a row that two selections picked counts once
    picked_tokens: int
    builder: str = ""  # the word of the builder that made its rows; "": they were read from files


@dataclass(frozen=True)
class BuildFacts:
    """One builder over the pool and what it made."""

    name: str  # the recipe's name of the build
    builder: str
    paper: str  # Builder.source
    options: dict[str, Any]  # the builder's Spec, JSON
    sources: tuple[str, ...]  # whose rows it read
    parents: int  # rows it read
    used: int  # of them, those that a row was made of
    rows: int  # rows it made
    refused: dict[str, int]  # reason code → rows that gave none, or not all that they could
    facts: dict[str, Any] = field(default_factory=dict)  # Fitted.facts, JSON


@dataclass(frozen=True)
class LeakFacts:
    """What of the built rows is on more than one side of the splits; all zero is no leak."""

    rows: int  # built rows of the mixture
    parents: int  # that they are made of
    shared_parents: int  # parents with rows in several splits
    exact: int  # requests that several splits ask word for word
    near: int  # clusters of near-duplicate parents in several splits
    context: int  # rows shown as examples that are parents too
    near_duplicates: str  # what counts as one

    @property
    def total(self) -> int:
        """Leaks of every kind."""
        return self.shared_parents + self.exact + self.near + self.context


@dataclass(frozen=True)
class StageFacts:
    """One stage's books: `read + made = written + sum(dropped) + quarantined`."""

    stage: str  # ingest, clean, dedup, build, pick, mix, mark
    read: int
    written: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason code → records
    quarantined: int = 0
    made: int = 0  # new rows, of builders


@dataclass(frozen=True)
class SelectionFacts:
    """One selector over the pool and what it picked."""

    name: str  # the recipe's name of the selection
    selector: str
    paper: str  # Selector.source
    score_kind: str  # Selector.scale: rank, log_weight, probability, threshold
    options: dict[str, Any]  # the selector's Spec, JSON
    pick: dict[str, Any]  # recipe.Pick, JSON
    pool_rows: int  # rows it scored
    picked_rows: int  # before mixing weights
    picked_tokens: int
    by_source: dict[str, Tally]  # source → picked
    facts: dict[str, Any] = field(default_factory=dict)  # Fitted.facts, JSON


@dataclass(frozen=True)
class SampleFacts:
    """The target, the reference or the rows to avoid: which files, how many rows."""

    files: tuple[str, ...]  # as the recipe names them
    license: str
    revision: str
    rows: int  # used by selectors
    heldout_rows: int = 0  # set aside for evaluation; no selector sees them


@dataclass(frozen=True)
class ArmFacts:
    """What a model learned from one selection's picks, at the same number of tokens for all; bits per byte.

    `gain` over uniform picks after the warm-up, positive is better, with its 95 % interval; None for uniform itself and
    for the model without a warm-up. `tuned_gain` is the same after fine-tuning.
    """

    name: str
    warmed: float  # held-out target rows, after the warm-up
    tuned: float  # after fine-tuning on a few target rows as well
    kept: float  # held-out reference rows after the warm-up: higher than without it is what was forgotten
    gain: tuple[float, float, float] | None = None  # mean, low, high
    tuned_gain: tuple[float, float, float] | None = None
    rows: float | None = None  # of its picks, mean over seeds
    coverage: float | None = None  # share of target rows that are nearest to some pick


@dataclass(frozen=True)
class EvidenceFacts:
    """What `mixtura probe` measured for this recipe."""

    model: str  # what was trained: "tiny, 1.3 M parameters, pre-trained on the reference", or a name
    tokens: int  # of each warm-up
    seeds: int
    heldout_rows: int
    finetune_rows: int
    arms: tuple[ArmFacts, ...]
    orders: int = 1  # trainings of each arm in a seed, averaged


@dataclass(frozen=True)
class MarkTally:
    """Answers of one source: all, those with a score, those that are marked."""

    answers: int
    scored: int
    marked: int


@dataclass(frozen=True)
class MarkFacts:
    """Which answers of the mixture are marked, by what, and how many."""

    indicator: str
    selector: str
    paper: str  # Selector.source
    options: dict[str, Any]  # the selector's Spec, JSON
    column: str  # of the selector, with a score for each answer
    threshold: float | None
    share: float | None
    control: str | None  # random, length; None: by the score
    rows: int  # of the mixture, with at least one mark
    messages: int  # that carry the indicator: an answer in two steps has one
    no_score: dict[str, int]  # why answers have no score → answers
    no_message: int  # with a score, and no user's message before them that could carry a mark
    by_source: dict[str, MarkTally]
    quantiles: dict[str, float]  # percent → score below which so many of the scored answers are
    lowest_marked: float | None = None
    highest_unmarked: float | None = None

    @property
    def total(self) -> MarkTally:
        """All sources."""
        parts = self.by_source.values()
        return MarkTally(*(sum(getattr(p, n) for p in parts) for n in ("answers", "scored", "marked")))


@dataclass(frozen=True)
class Summary:
    """Everything about a mixture that is counted or set."""

    name: str
    seed: int
    fingerprint: str  # Recipe.fingerprint()
    version: str  # of Mixtura
    recipe_yaml: str  # the resolved recipe
    form: Form
    tokenizer: str  # recipe.clean.tokenizer: what a token is
    sources: tuple[SourceFacts, ...]
    stages: tuple[StageFacts, ...]  # in order; each reads what the one before it wrote
    selections: tuple[SelectionFacts, ...]
    splits: dict[str, Tally]  # train, validation, test; those that were written
    languages: dict[str, int] = field(default_factory=dict)  # BCP 47 → rows of the mixture; "" is unknown
    licenses: dict[str, int] = field(default_factory=dict)  # licence → rows of the mixture
    target: SampleFacts | None = None
    reference: SampleFacts | None = None
    avoid: SampleFacts | None = None
    encoder: str | None = None  # name and size of the encoder, where one was used
    near_duplicates: str | None = None  # "Jaccard ≥ 0.8 of 5-word shingles", or None: off
    evidence: EvidenceFacts | None = None  # where the recipe was probed
    marks: MarkFacts | None = None  # where the recipe marks answers
    builds: tuple[BuildFacts, ...] = ()
    leaks: LeakFacts | None = None  # where rows were built

    @property
    def total(self) -> Tally:
        """The whole mixture, all splits."""
        parts = self.splits.values()
        return Tally(sum(s.rows for s in parts), sum(s.tokens for s in parts), sum(s.bytes for s in parts))

    def check(self) -> Summary:
        """This summary, when its books balance.

        Raises:
            CountError: a stage lost a row without a reason, a stage did not read what the one before it wrote, or the
                sources or splits do not add up to the stages.
        """
        for s in self.stages:
            _equal(f"stage {s.stage}: read", s.read + s.made, s.written + sum(s.dropped.values()) + s.quarantined)
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            _equal(f"stage {after.stage}: read, against written by {before.stage}", after.read, before.written)
        for s in self.sources:
            _equal(f"source {s.name!r}: read", s.read, s.quarantined + sum(s.dropped.values()) + s.pool_rows)
        if self.stages:
            first = self.stages[0].read + sum(s.made for s in self.stages)
            _equal("sources: read", sum(s.read for s in self.sources), first)
            _equal("splits: rows", self.total.rows, self.stages[-1].written)
        _equal("sources: picked rows", sum(s.picked_rows for s in self.sources), self.total.rows)
        return self

    def to_json(self) -> str:
        """JSON with sorted keys; equal summaries give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what `to_json` wrote.

        Raises:
            pydantic.ValidationError: the text is not a summary.
        """
        return TypeAdapter(cls).validate_json(text)


def _equal(what: str, got: int, want: int) -> None:
    if got != want:
        raise CountError(f"{what} must be {want}; got {got}. A row left without a reason.")
