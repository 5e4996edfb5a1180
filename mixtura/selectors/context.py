"""Context: conversations whose answers draw on what the user gave."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from mixtura.errors import InputError
from mixtura.pipeline import lm
from mixtura.pipeline.attention.options import ATTENTION, GIVES, Column, Measure, Way, Withhold
from mixtura.pipeline.attention.survey import Conversation, Measured, Survey, conversations
from mixtura.pipeline.contract import Fitted, Needs, Scale, Shard, rows_of

if TYPE_CHECKING:
    from mixtura.pipeline.attention.reader import AttentionReader

UNSCORED = -1000.0  # of a row without a scored answer: below any mass and any nats per token


class Spec(lm.Spec):
    """Options of context: those of the language model, what is measured, and which column is the score."""

    score: Column = Field(
        default="raw",
        description="The column that is an answer's score. Of attention, for a forward pass that ends at one layer: "
        + "; ".join(f"{name}: {what}" for name, what in ATTENTION.items())
        + ". Of the answer's loss, for two whole passes: gain: nats per token that the context saves; barred: nats per "
        "token that it costs to bar the strongest heads from the user's tokens.",
    )
    measures: tuple[Measure, ...] = Field(
        default=("attention",), description="What is measured beside what the score needs: attention, gain, barred."
    )
    layer: NonNegativeInt | None = Field(
        default=None, description="The layer whose attention is read, from 0; by default the one at 15/22 of the depth."
    )
    averaged: PositiveInt = Field(
        default=1,
        description="Layers whose columns are averaged, that layer the last; more are steadier, and cost little. The "
        "paper reads 1.",
    )
    way: Way = Field(
        default="auto",
        description="How attention is summed. auto: by the kernel where it computes the same, else rows; rows: exact "
        "in float32; indicator: by the kernel; lse: by its denominators, on a CPU; naive: the whole matrix.",
    )
    withheld: Withhold = Field(
        default="passage",
        description="What gain takes away. passage: the middle of each long message of the user, where text to read "
        "stands; user: all that the user said.",
    )
    barred_share: float = Field(
        default=0.05, gt=0.0, le=1.0, description="Of barred: the share of all heads, the strongest, that is barred."
    )
    sample_rows: PositiveInt = Field(
        default=256,
        description="Conversations of the pool's sample that say how scores are spread, and which heads are strong.",
    )

    @property
    def measured(self) -> frozenset[Measure]:
        """Everything that has to be measured."""
        needed: Measure = self.score if self.score in ("gain", "barred") else "attention"
        return frozenset({*self.measures, needed})


class Context:
    """score = that of the row's most context-dependent answer; each answer has its own in `turn_scores`.

    Source and differences: see `pipeline.attention.account`. Differs also: any model, template and tokenizer; nothing
    is padded or cut to 2,047 tokens; an answer that does not fit the window has no score; `gain` and `barred` are ours.
    """

    name: ClassVar[str] = "context"
    source: ClassVar[str] = (
        "Wang et al. 2024, On the Loss of Context Awareness in General Instruction Fine-tuning, section 3.1"
    )
    needs: ClassVar[Needs] = Needs(columns=("messages", "chosen", "tools"), model=True)
    scale: ClassVar[Scale] = "threshold"
    Spec: type[Spec] = Spec

    def turn_columns(self, spec: Spec) -> tuple[str, ...]:
        """Columns with a score for each answer: the one that the recipe wants, and all others that were measured."""
        return ("turn_scores", *(name for name in _measured(spec) if name in get_args(Column)))

    def fit(self, spec: Spec, *, sample: Shard, target: Shard | None, reference: Shard | None, seed: int) -> Fitted:
        """Find the strongest heads, and how scores are spread over the sample; target and reference play no part.

        Raises:
            InputError: the sample holds no answer, or none that can be read; or the model is unfit.
        """
        rows = rows_of(self.name, self.needs, sample, "sample")
        given = [c for c in conversations(rows) if any(m["role"] == "assistant" for m in c.messages)][
            : spec.sample_rows
        ]
        if not given:
            raise InputError("selector 'context'", "needs conversations with an answer in its sample", got="none")
        reader = _reader(spec)
        heads = _heads(spec, reader, given)
        found = _survey(spec, reader, heads).measure(given)
        reasons = Counter(reason for m in found for reason in m.unscored.values())
        scores = [v[spec.score] for m in found for v in m.values.values()]
        if not scores:
            worst, count = reasons.most_common(1)[0]
            got = f"{worst} for {count} of {sum(reasons.values())}"
            raise InputError("selector 'context'", "needs an answer in its sample that it can score", got=got)
        low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
        facts = {
            "layer": reader.layer,
            "layers_averaged": len(reader.read_layers),
            "layers_with_attention": len(reader.layers),
            "chat_template": "the tokenizer's"
            if reader.lm.tokenizer.chat_template
            else "plain: the tokenizer has none",
            "sample_rows": len(given),
            "sample_answers": len(scores) + sum(reasons.values()),
            "sample_unscored": dict(sorted(reasons.items())),
            "score_5_percent": round(float(low), 6),
            "score_median": round(float(middle), 6),
            "score_95_percent": round(float(high), 6),
        }
        return Fitted({"heads": np.array(heads, np.int32).reshape(-1, 2)}, facts)

    def score(self, spec: Spec, fitted: Fitted, shard: Shard) -> pl.DataFrame:
        """`id, score, turns, turn_scores, unscored, answer_tokens`, and the columns of what was measured.

        All but the first two are lists with an entry per answer, in order. `turns` (i32) are the answers' positions in
        `messages` (followed by `chosen`, where a row has it), `turn_scores` (f32) the column that the recipe wants,
        null where an answer has none: `unscored` then says why. A row without a scored answer has `UNSCORED`.
        """
        rows = rows_of(self.name, self.needs, shard, "shard")
        heads = [(int(layer), int(head)) for layer, head in fitted.arrays["heads"]]
        found = _survey(spec, _reader(spec), heads).measure(conversations(rows))
        scores = [max((v[spec.score] for v in m.values.values()), default=UNSCORED) for m in found]
        reasons = [[m.unscored.get(t) for t in m.turns] for m in found]
        return pl.DataFrame(
            [
                rows["id"],
                pl.Series("score", scores, dtype=pl.Float64),
                pl.Series("turns", [list(m.turns) for m in found], dtype=pl.List(pl.Int32)),
                _per_turn("turn_scores", found, spec.score),
                pl.Series("unscored", reasons, dtype=pl.List(pl.String)),
                _per_turn("answer_tokens", found, "answer_tokens", pl.Int32),
                *(_per_turn(name, found, name) for name in _measured(spec)),
            ]
        )


def _measured(spec: Spec) -> list[str]:
    """Names of the columns that the options ask for, each once."""
    return list(dict.fromkeys(c for m in sorted(spec.measured) for c in GIVES[m]))


def _reader(spec: Spec) -> AttentionReader:
    from mixtura.pipeline.attention.reader import AttentionReader  # brings torch and transformers

    return AttentionReader(lm.open_model(spec), layer=spec.layer, averaged=spec.averaged, way=spec.way)


def _survey(spec: Spec, reader: AttentionReader, heads: list[tuple[int, int]]) -> Survey:
    return Survey(reader, measures=spec.measured, withheld=spec.withheld, heads=heads)


def _heads(spec: Spec, reader: AttentionReader, given: list[Conversation]) -> list[tuple[int, int]]:
    """The heads to bar; none where nobody asks for it."""
    if "barred" not in spec.measured:
        return []
    readings = [r for read in _survey(spec, reader, []).read(given) for r in read.readings]
    return reader.strongest_heads(readings, spec.barred_share) if readings else []


def _per_turn(name: str, found: list[Measured], column: str, dtype: Any = pl.Float32) -> pl.Series:
    """A list per row, with an entry per answer; null where the answer has no score."""
    values = [[m.values[t][column] if t in m.values else None for t in m.turns] for m in found]
    values = [[int(v) if dtype == pl.Int32 and v is not None else v for v in row] for row in values]
    return pl.Series(name, values, dtype=pl.List(dtype))


SELECTOR = Context()
