"""The recipe: one tree of models that says everything about a mixture.

The same models check a YAML file (`recipe_file.load`), print the JSON Schema that editors complete from
(`mixtura schema`), and are the parameters of the Prefect flow. Each field says which way it pushes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Globs = Annotated[
    list[str],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]


class Model(BaseModel):
    """Frozen, and strict about keys: an unknown one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Embed(Model):
    """Vectors of pool, target and reference, from one encoder."""

    encoder: str = Field(
        default="fitted", description="'fitted' (TF-IDF + SVD, no model), or a sentence-transformers model."
    )
    revision: str | None = Field(default=None, description="Revision of a model from a hub.")
    dimensions: PositiveInt = Field(default=256, description="Of the fitted encoder; more keeps finer differences.")
    features: PositiveInt = Field(default=50_000, description="Vocabulary of the fitted encoder.")
    fit_rows: PositiveInt = Field(default=20_000, description="Rows the fitted encoder learns from, chosen by hash.")
    fit_on: list[str] | None = Field(
        default=None, description="Sources it learns from; naming stable ones keeps vectors reusable when others grow."
    )
    dtype: Literal["f16", "f32"] = Field(default="f16", description="Stored type; f16 halves the disk.")
    max_chars: PositiveInt = Field(default=8_000, description="Text beyond this is not read.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where a model runs.")
    batch_tokens: PositiveInt = Field(
        default=16_384, description="Tokens in a batch of a model; lower it when memory is short."
    )


class Build(Model):
    """A builder that makes new rows out of rows; what it makes is a source of its own, under the build's name."""

    builder: Word = Field(description="The builder's word, such as twins.")
    name: Word | None = Field(default=None, description="Names the rows it makes; by default the builder's word.")
    sources: Globs = Field(description="Sources, or builds above this one, whose rows it reads.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the builder.")

    @property
    def word(self) -> str:
        """The name that its rows go by."""
        return self.name or self.builder


class Cap(Model):
    """The most one source may take of a selection's picks."""

    share: Share | None = Field(default=None, description="Share of the budget.")
    rows: PositiveInt | None = Field(default=None, description="Rows.")
    tokens: PositiveInt | None = Field(default=None, description="Tokens.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(v is not None for v in (self.share, self.rows, self.tokens)) != 1:
            raise ValueError("must give exactly one of share, rows, tokens")
        return self


class Pick(Model):
    """How scores become picks, under one budget."""

    rule: Literal["cover", "top", "got-d", "gumbel", "round_robin", "threshold"] | None = Field(
        default=None,
        description="By default the selector's own. 'cover': targets that are served stop paying; 'top': best first, "
        "and 'got-d' so by the paper's own score, for nudge; 'gumbel': sampled by weight; 'round_robin': "
        "each target in turn takes its nearest row; 'threshold': all above.",
    )
    budget_rows: PositiveInt | None = Field(default=None, description="Rows to pick.")
    budget_tokens: PositiveInt | None = Field(default=None, description="Tokens to pick.")
    threshold: float | None = Field(default=None, description="Lowest score that rule 'threshold' takes.")
    temperature: Positive = Field(default=1.0, description="Of rule 'gumbel': higher picks more evenly.")
    strength: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.9,
        description="Of rule 'cover': the picks' share of what the model has seen when all are picked. Higher serves "
        "every target alike, near 0 is rule 'top'.",
    )
    caps: dict[str, Cap] = Field(default_factory=dict, description="Cap per source; '*' is every other source.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.budget_rows and self.budget_tokens:
            raise ValueError("must give budget_rows or budget_tokens, not both")
        if self.rule == "threshold" and self.threshold is None:
            raise ValueError("must give threshold when rule is 'threshold'")
        if self.rule != "threshold" and self.threshold is not None:
            raise ValueError("must not give threshold unless rule is 'threshold'")
        if self.rule != "threshold" and not (self.budget_rows or self.budget_tokens):
            raise ValueError("must give budget_rows or budget_tokens")
        return self


class Selection(Model):
    """One selector over the pool, and what it picks."""

    selector: Word = Field(description="The selector's word, such as nudge.")
    name: Word | None = Field(default=None, description="Name of this selection; by default the selector's word.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the selector.")
    sources: list[str] | None = Field(
        default=None, description="Choose from these sources or builds only; by default from all that no build reads."
    )
    pick: Pick = Field(description="Budget and rule.")

    @property
    def word(self) -> str:
        """The name this selection goes by."""
        return self.name or self.selector


class Splits(Model):
    """Shares of the mixture kept out of training; a split_group is never divided."""

    validation: Share = Field(default=0.01, description="Share of rows for validation.")
    test: Share = Field(default=0.0, description="Share of rows for testing.")

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("must leave a share for training: validation + test must be below 1")
        return self


class Marks(Model):
    """Which answers are marked as leaning on what the user gave, and the indicator that marks them.

    A model that learned from marked turns can be asked for such answers: with the indicator, at inference.
    """

    selector: Word | None = Field(
        default=None, description="Scores the mixture's rows, turn by turn: such as context. Or give selection."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of that selector.")
    selection: str | None = Field(
        default=None, description="Instead of selector: a selection that scored its rows turn by turn already."
    )
    score: str = Field(default="turn_scores", description="Column of the selector that holds a score for each answer.")
    threshold: float | None = Field(default=None, description="Mark answers that score above this; lower marks more.")
    share: Share | None = Field(
        default=None, description="Or mark this share of the answers that have a score, the highest first."
    )
    indicator: str = Field(
        default="[IND]",
        pattern=r"^[!-~]{2,40}$",
        description="Written behind the user's message; rows that spell it out themselves are dropped, and counted.",
    )
    control: Literal["random", "length"] | None = Field(
        default=None,
        description="A baseline: as many answers, drawn by hash among all ('random'), or among those of like length.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if bool(self.selector) == bool(self.selection):
            raise ValueError("must give exactly one of selector, selection")
        if self.options and self.selection:
            raise ValueError("must not give options beside selection, which has its own")
        if (self.threshold is None) == (self.share is None):
            raise ValueError("must give exactly one of threshold, share")
        return self


class Mix(Model):
    """How selections become one mixture."""

    weights: dict[str, Positive] | None = Field(
        default=None, description="Share of each selection; by default all it picked."
    )
    unit: Literal["rows", "tokens"] = Field(default="rows", description="What the weights count.")
    budget_rows: PositiveInt | None = Field(default=None, description="Rows of the whole mixture; with weights only.")
    budget_tokens: PositiveInt | None = Field(
        default=None, description="Tokens of the whole mixture; with weights only."
    )
    splits: Splits = Field(default=Splits(), description="Validation and test shares.")
    marks: Marks | None = Field(default=None, description="Mark answers that lean on the context; null: none.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.budget_rows and self.budget_tokens:
            raise ValueError("must give budget_rows or budget_tokens, not both")
        if (self.budget_rows or self.budget_tokens) and self.weights is None:
            raise ValueError("must give weights beside a budget of the mixture")
        return self


class Output(Model):
    """Where the mixture goes."""

    folder: str | None = Field(default=None, description="Relative to the recipe's folder; by default mixtures/NAME.")
    rows_per_file: PositiveInt = Field(default=50_000, description="Rows of one Parquet file of a split.")
    form: Literal["auto", "text", "messages", "preference"] = Field(
        default="auto",
        description="What trainers see; auto: conversations stay conversations where every row is one, else text.",
    )
    sets: list[Literal["step", "action"]] = Field(
        default_factory=list,
        description="Also write the rows of each step, or of each action, of a task pool as a set of their own.",
    )


class TinyModel(Model):
    """A small causal LM made from a config, with a tokenizer trained on the mixture: for tests and demos."""

    layers: PositiveInt = 4
    width: PositiveInt = 256
    heads: PositiveInt = 4
    vocabulary: PositiveInt = 4096

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        return self


class Preference(Model):
    """How the bundled trainer learns from pairs of a chosen and a rejected answer."""

    loss: Literal["dpo", "simpo"] = Field(
        default="dpo",
        description="'dpo': against the start model, which it stays near; 'simpo': per token and without a reference, "
        "so that longer answers gain nothing by their length.",
    )
    beta: Positive | None = Field(
        default=None,
        description="By default 0.1 for dpo, 2.5 for simpo. Of dpo: lower moves further from the start model; of "
        "simpo: higher cares more about pairs that are still the wrong way round.",
    )
    gamma: Annotated[float, Field(ge=0)] = Field(
        default=0.5,
        description="Of simpo: the lead that a chosen answer must have, in units of beta x log-probability.",
    )
    nll: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Weight of the chosen answers' own loss per token beside; some keeps short answers that differ in "
        "one value from becoming less likely on both sides.",
    )
    learning_rate: Positive = Field(
        default=1e-6, description="Peak for pairs, in place of train.learning_rate: a policy breaks at higher ones."
    )

    @property
    def strength(self) -> float:
        """Beta, or its default for the loss (Rafailov et al. 2023; Meng et al. 2024, section 4)."""
        return self.beta if self.beta is not None else {"dpo": 0.1, "simpo": 2.5}[self.loss]


class Train(Model):
    """The bundled trainer's settings."""

    model: str | TinyModel = Field(
        default=TinyModel(), description="A transformers causal LM by name or folder, or a tiny one."
    )
    revision: str | None = Field(default=None, description="Revision of a model from a hub.")
    loss: Literal["completion", "all"] = Field(
        default="completion", description="Tokens of answers only, or of everything."
    )
    preference: Preference = Field(
        default=Preference(), description="Where the mixture holds preference pairs: how they are learned."
    )
    sequence_length: PositiveInt = Field(default=512, description="Tokens in a packed sequence.")
    batch_tokens: PositiveInt = Field(default=8_192, description="Tokens in one optimiser step.")
    micro_batch: PositiveInt = Field(
        default=8, description="Sequences on the device at once; lower it when memory is short."
    )
    epochs: Positive = Field(default=1.0, description="Passes over the mixture, unless steps is given.")
    steps: PositiveInt | None = Field(default=None, description="Optimiser steps.")
    learning_rate: Positive = Field(default=3e-4, description="Peak of the cosine schedule.")
    warmup: Share = Field(default=0.05, description="Share of steps that warm up.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Positive = Field(default=1.0, description="Gradient norm limit.")
    checkpoint_every: PositiveInt = Field(default=200, description="Steps between checkpoints.")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Probe(Model):
    """`mixtura probe`: warm a model up on each selection's picks at equal tokens, and measure what it brings."""

    model: str | TinyModel = Field(
        default=TinyModel(width=128),
        description="A transformers causal LM by name or folder, or a small one, pre-trained on the reference.",
    )
    pretrain_tokens: PositiveInt = Field(default=5_000_000, description="Tokens of a small model's pre-training.")
    seeds: PositiveInt = Field(default=3, description="Repeats, each with a sample of its own; more narrow intervals.")
    finetune_rows: PositiveInt = Field(default=200, description="Target rows to fine-tune on after the warm-up.")
    finetune_epochs: PositiveInt = Field(default=3, description="Passes over them.")
    learning_rate: Positive = Field(default=1e-3, description="Peak, the same for every selection.")
    sequence_length: PositiveInt = Field(default=256, description="Tokens in a packed sequence.")
    batch_tokens: PositiveInt = Field(default=4_096, description="Tokens in one optimiser step.")
    micro_batch: PositiveInt = Field(default=16, description="Sequences on the device at once.")


class Mine(Model):
    """`mixtura mine`: find what a model fails at among the mixture's rows, learn from it, and go round."""

    check: Word = Field(default="tool_calls", description="What judges an answer, such as tool_calls or numeric.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the check.")
    heldout_tools: Share = Field(
        default=0.1, description="Share of tools that no training row may call or offer; the loop measures on them too."
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        default=3,
        description="Steps of right answers to train on before the first round, with the settings of `train`: the "
        "easiest part of the rows, then that and the next, at last all. 0: the model answers already.",
    )
    rounds: Annotated[int, Field(ge=0)] = Field(default=3, description="Rounds at most; 0: the warm-up alone.")
    stop: bool = Field(
        default=True,
        description="Stop at the first round that shows no rise on held-out rows beyond its 95 % interval; false makes "
        "every round, to compare at equal cost.",
    )
    rows: PositiveInt | None = Field(
        default=None, description="Rows tried in a round, drawn anew in each; by default all. More find more failures."
    )
    by: Literal["verified", "perplexity", "random"] = Field(
        default="verified",
        description="'verified': learn from answers that a check found wrong, against ones that it found right; "
        "'perplexity': from rows whose right answer surprises the model most, answers unjudged (iTool); 'random': from "
        "any rows, answers unjudged. The last two are there to compare with.",
    )
    search: dict[str, Any] | None = Field(
        default=None,
        description="Of by: verified: search the rows that fail for near misses, such as {by: tree, step: argument}; "
        "null: pairs come from the answers that were sampled anyway.",
    )
    learn: Literal["pairs", "answers"] = Field(
        default="pairs",
        description="What a round trains on: 'pairs', against the wrong answers, with the settings of "
        "train.preference; 'answers': their right ones alone, as any supervised rows.",
    )
    learning_rate: Positive | None = Field(
        default=None, description="Of learn: answers: peak of a round; by default train.learning_rate, the warm-up's."
    )
    share: Share = Field(default=0.3, description="Of by: perplexity: the share of rows that surprises most.")
    pairs: PositiveInt = Field(default=2_000, description="Pairs of a round at most, chosen by hash.")
    samples: PositiveInt = Field(default=8, description="Answers to each row; more find rarer failures.")
    temperature: Positive = Field(default=1.0, description="Of the answers; 1 is the model's own distribution.")
    max_tokens: PositiveInt = Field(default=256, description="Longest answer.")
    steps: PositiveInt | None = Field(
        default=None, description="Optimiser steps of a round; by default one pass over its pairs."
    )


class Recipe(Model):
    """Everything about one mixture."""

    name: Word = Field(description="Names the mixture, its folder and its card.")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="The same seed over the same rows gives the same bytes.")
    env: list[str] = Field(
        default_factory=list, description="Environment variables that `${NAME}` may name in paths and model names."
    )
    sources: dict[Word, Source] = Field(min_length=1, description="The pool's sources; an earlier one wins duplicates.")
    target: Target | None = Field(default=None, description="Rows that show what the mixture is for.")
    reference: Sample | None = Field(
        default=None, description="Sample of the base model's training data; else the pool's own."
    )
    avoid: Sample | None = Field(
        default=None, description="Rows to move away from, which then leave the pool too; of selectors, nudge heeds it."
    )
    clean: Clean = Field(default=Clean(), description="Filters and deduplication.")
    build: list[Build] = Field(default_factory=list, description="Builders, in order: new rows out of rows.")
    embed: Embed = Field(default=Embed(), description="Encoder; used only where a selector needs vectors.")
    select: list[Selection] = Field(min_length=1, description="Selections that feed the mixture.")
    mix: Mix = Field(default=Mix(), description="Weights and splits.")
    output: Output = Field(default=Output(), description="Folder and files.")
    train: Train = Field(default=Train(), description="Settings of `mixtura train`.")
    probe: Probe = Field(default=Probe(), description="Settings of `mixtura probe`.")
    mine: Mine = Field(default=Mine(), description="Settings of `mixtura mine`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [s.word for s in self.select]
        if len(set(names)) != len(names):
            raise ValueError(f"select must have a different name for each selection; got {names}")
        known = self._with_builds()
        for selection in self.select:
            _known(f"select.{selection.word}.sources", selection.sources or [], known)
            _known(f"select.{selection.word}.pick.caps", [c for c in selection.pick.caps if c != "*"], known)
        _known("embed.fit_on", self.embed.fit_on or [], set(self.sources))
        if self.mix.weights is not None:
            _known("mix.weights", list(self.mix.weights), set(names))
            if missing := sorted(set(names) - set(self.mix.weights)):
                raise ValueError(f"mix.weights must weigh every selection; missing {missing}")
        if self.mix.marks is not None and self.mix.marks.selection is not None:
            _known("mix.marks.selection", [self.mix.marks.selection], set(names))
        reserved = {"target", "reference", "avoid"} & known
        if reserved:
            raise ValueError(f"sources must not be named {sorted(reserved)}: the words are taken")
        return self

    @property
    def samples(self) -> dict[str, Sample]:
        """Rows that show a distribution, by what they are to the mixture; those that the recipe has."""
        given = {"target": self.target, "reference": self.reference, "avoid": self.avoid}
        return {role: sample for role, sample in given.items() if sample is not None}

    def _with_builds(self) -> set[str]:
        """Names of sources and builds; each build reads what stands before it, and takes a name of its own."""
        known = set(self.sources)
        for build in self.build:
            _known(f"build.{build.word}.sources", build.sources, known)
            if build.word in known:
                raise ValueError(f"build must have names that no source and no other build has; got {build.word!r}")
            known.add(build.word)
        return known

    def pool_names(self) -> list[str]:
        """Names that rows of the pool go by: sources, then builds, in the recipe's order."""
        return [*self.sources, *(b.word for b in self.build)]

    def sources_of(self, selection: Selection) -> list[str]:
        """What a selection may choose from: what it names, else everything that no build reads."""
        read = {name for b in self.build for name in b.sources}
        return selection.sources or [n for n in self.pool_names() if n not in read]

    def chosen_from(self) -> list[str]:
        """Sources and builds that some selection may choose from; the others only serve builds."""
        open_names = {n for s in self.select for n in self.sources_of(s)}
        return [n for n in self.pool_names() if n in open_names]

    def fingerprint(self) -> str:
        """Digest of everything that the recipe says, as 16 hex digits."""
        return digest(self.model_dump(mode="json"))[:16]


def digest(value: Any) -> str:
    """SHA-256 of a JSON value with sorted keys, as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _known(where: str, named: list[str], known: set[str]) -> None:
    if unknown := [n for n in named if n not in known]:
        raise ValueError(f"{where} must name known ones of {sorted(known)}; got {unknown}")
