"""How rows are made, embedded, scored and picked: builds, the encoder, selections."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mixtura.recipe.model import Globs, Model, Positive, Share, Word


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
