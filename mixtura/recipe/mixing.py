"""How selections become one mixture, and where it goes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mixtura.recipe.model import Model, Positive, Share, Word


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
