"""Where rows come from, and which of them stay: sources, samples of a distribution, cleaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mixtura.recipe.model import Globs, Model, Positive, Share, Word


class Columns(Model):
    """Which of the file's columns become the row: each value is a column or a template, `{title}: {abstract}`."""

    text: str | None = Field(default=None, description="Document text: a column, or a template of {columns}.")
    messages: str | None = Field(
        default=None, description="Conversation: OpenAI (role, content) or ShareGPT (from, value)."
    )
    system: str | None = Field(default=None, description="System turn: a column or a template.")
    prompt: str | None = Field(default=None, description="User turn: a column or a template.")
    completion: str | None = Field(default=None, description="Assistant turn: a column or a template.")
    chosen: str | None = Field(default=None, description="Preferred answer, for preference rows.")
    rejected: str | None = Field(default=None, description="Refused answer, for preference rows.")
    tools: str | None = Field(default=None, description="Tool definitions, kept as JSON.")
    task: str | None = Field(default=None, description="Task name of each row.")
    language: str | None = Field(default=None, description="Language of each row.")
    license: str | None = Field(default=None, description="Licence of each row, where it differs within the source.")
    split_group: str | None = Field(default=None, description="Rows with an equal value stay in one split.")

    @model_validator(mode="after")
    def _makes_a_row(self) -> Self:
        if not (self.text or self.messages or self.prompt):
            raise ValueError("must map at least one of text, messages, prompt")
        if self.text and (self.messages or self.prompt):
            raise ValueError("must map text, or a conversation (messages, prompt), not both")
        if bool(self.chosen) != bool(self.rejected):
            raise ValueError("must map chosen and rejected together")
        if self.prompt and not (self.completion or self.chosen):
            raise ValueError("must map completion (or chosen and rejected) beside prompt")
        return self


class Source(Model):
    """A named set of files, with its licence and revision."""

    files: Globs = Field(description="Paths, globs, folders or fsspec URLs; relative to the recipe's folder.")
    format: Word | None = Field(
        default=None, description="The reader's word; by default the file name's ending decides."
    )
    columns: Columns | None = Field(
        default=None, description="Mapping, where the columns are not recognised by themselves."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the reader, such as delimiter.")
    license: str = Field(default="unknown", description="SPDX id or name; it follows each row into the card.")
    revision: str = Field(default="", description="Version of the source: a commit, a date, a DOI.")
    task: str | None = Field(default=None, description="Task name of every row that has none of its own.")
    language: str | None = Field(default=None, description="Language (BCP 47) of every row that has none of its own.")
    max_quarantine: Share = Field(default=0.05, description="Stop where more than this share of records is broken.")
    allow_empty: bool = Field(default=False, description="Go on where the source yields no row at all.")
    max_record_bytes: PositiveInt = Field(default=16 << 20, description="A longer record is quarantined.")
    max_ratio: Positive = Field(default=200.0, description="A compressed file that swells beyond this is a bomb.")


class Sample(Source):
    """Rows that show a distribution: the target, or the reference."""

    rows: PositiveInt = Field(default=1000, description="Use this many, chosen by hash; more costs time, linearly.")


class Target(Sample):
    """The few rows that show what the user wants."""

    heldout_rows: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Set these aside for `train` to measure the target loss on; selection never sees them."
    )
    exclude_from_pool: bool = Field(
        default=True, description="Drop pool rows equal to, or near-duplicates of, target rows."
    )


class NearDedup(Model):
    """MinHash LSH proposes pairs, exact Jaccard decides."""

    threshold: Share = Field(
        default=0.8, description="Jaccard of word shingles at which two rows are one; lower drops more."
    )
    ngram: PositiveInt = Field(default=5, description="Words in a shingle; fewer find looser copies.")
    bands: PositiveInt = Field(default=20, description="LSH bands; more find more true pairs and cost more.")
    rows_per_band: PositiveInt = Field(default=6, description="Hashes in a band; more propose fewer false pairs.")

    def sentence(self) -> str:
        """What counts as a near-duplicate, in words."""
        return f"Jaccard ≥ {self.threshold:g} of {self.ngram}-word shingles"


class Repetition(Model):
    """Gopher's repetition rules (Rae et al. 2021, table A1); a share above the limit drops the row."""

    duplicate_lines: Share = Field(default=0.30, description="Share of lines that repeat an earlier one.")
    duplicate_line_chars: Share = Field(default=0.20, description="Share of characters in such lines.")
    top_2gram: Share = Field(default=0.20, description="Share of characters in the commonest 2-gram of words.")
    top_3gram: Share = Field(default=0.18, description="The same for 3-grams.")
    top_4gram: Share = Field(default=0.16, description="The same for 4-grams.")


class Clean(Model):
    """Which records become the pool."""

    unicode: Literal["nfc", "nfkc", "none"] = Field(default="nfc", description="Unicode normal form of all text.")
    fix_encoding: bool = Field(default=False, description="Repair mojibake with ftfy; costs about 1 ms a row.")
    min_chars: Annotated[int, Field(ge=0)] = Field(default=1, description="Drop shorter rows.")
    max_chars: PositiveInt = Field(default=1_000_000, description="Drop longer rows.")
    min_tokens: Annotated[int, Field(ge=0)] = Field(default=1, description="Drop rows of fewer tokens.")
    max_tokens: PositiveInt = Field(default=1_000_000, description="Drop rows of more tokens.")
    repetition: Repetition | None = Field(default=None, description="Drop repetitive rows; {} takes Gopher's limits.")
    exact_dedup: bool = Field(default=True, description="One row per content id, across sources.")
    near_dedup: NearDedup | None = Field(
        default=NearDedup(), description="One row per near-duplicate cluster; null: off."
    )
    tokenizer: str = Field(
        default="words", description="Counts tokens: 'words' (no model), or a tokenizer's name or folder."
    )
