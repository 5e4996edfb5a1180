"""What is done with a mixture: training on it, probing it, mining what a model fails at."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mixtura.recipe.model import Model, Positive, Share, Word


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
    orders: PositiveInt = Field(
        default=1,
        description="Trainings of each selection's picks in a repeat, each in an order of its own; their losses are "
        "averaged: less noise where a repeat, which draws and selects anew, is dearer than a training.",
    )
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
