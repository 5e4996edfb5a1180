"""Prompt-based continued pre-training: raw text in the task's own template, with a label that a labeller gave it.

The lines are documents: a trainer learns from every token of them, in a short stage before fine-tuning on the task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.index import Index
from mixtura.recipe.model import digest
from mixtura.tasks.template import MissingField, Template, as_text, fields_of

SHARPNESS = 20.0  # of the vote: a neighbour nearer by 0.1 of cosine weighs e^2 = 7 times as much


class Spec(contract.Spec):
    """Options of render."""

    label: str = Field(description="Field of the label, such as {label}: rows that have it teach the labeller.")
    text: str = Field(default="{text}", description="The raw text: a template over the row's fields.")
    line: str = Field(
        default="{text}\nIt was {words}.", description="The line that is written; {text} and {words}, each once."
    )
    words: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        min_length=2, description="Label → the words that stand for it; one-to-one."
    )
    neighbours: PositiveInt = Field(default=16, description="Labelled rows that vote; more are steadier and blunter.")
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.0, description="Share of the vote that a label needs; the paper takes every label, which is 0."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if sorted(Template(self.line).fields) != ["text", "words"]:
            raise ValueError("line must insert {text} and {words}, each once")
        if len({w.strip().casefold() for w in self.words.values()}) != len(self.words):
            raise ValueError("words must be one-to-one: two labels share words")
        return self


class Render:
    """Source: Shi, Lipani 2023 (arXiv:2305.01711), section on prompt-based continued pre-training; code read.

    Differs: the labeller is a vote of the nearest labelled rows in the recipe's encoder, where the paper tunes a prompt
    of the model itself (a model's labels can be had from `subtask`); a label's confidence is kept and can be asked for
    a floor; the words must be one-to-one, as a verbaliser of the authors' swaps two labels; a line whose text or words
    cannot be read back is refused; and no line is made of a labelled row, so that no gold label enters.
    """

    name: ClassVar[str] = "render"
    source: ClassVar[str] = "Prompt-based continued pre-training, arXiv:2305.01711, labels by vote of neighbours"
    needs: ClassVar[Needs] = Needs(vectors=True)
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Keep the vectors and labels of the labelled rows.

        Raises:
            InputError: fewer than two labels occur, or one has no words.
        """
        names, vectors, labels = sorted(spec.words), [], []
        for shard in shards:
            for i, (_, label) in enumerate(_labelled(spec, shard)):
                if label is not None:
                    if label not in spec.words:
                        raise InputError("builder 'render': words", "must have words for every label", got=label)
                    vectors.append(contract.vectors_of(self.name, contract.Needs(vectors=True), shard, "shard")[i])
                    labels.append(names.index(label))
        if len(set(labels)) < 2:
            need = f"must find at least two labels in {spec.label}"
            raise InputError("builder 'render'", need, got=sorted({names[i] for i in labels}))
        counts = {n: labels.count(i) for i, n in enumerate(names)}
        return Fitted({"vectors": np.stack(vectors), "labels": np.array(labels, np.int64)}, {"labelled": counts})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """One line for each row without a label."""
        built, names, template = Built(self.name), sorted(spec.words), digest(spec.line)[:12]
        share = _votes(spec, fitted, shard)
        for (row, label), votes in zip(_labelled(spec, shard), share, strict=True):
            best = int(votes.argmax())
            name, confidence = names[best], round(float(votes[best]), 4)
            if label is not None:
                built.refuse(row, "labelled", "teaches the labeller only")
                continue
            if confidence < spec.min_confidence:
                built.refuse(row, "low-confidence", f"{confidence:g} for {name}")
                continue
            try:
                text = Template(spec.text).text(fields_of(row))
            except MissingField as missing:
                built.refuse(row, "missing-field", missing.field)
                continue
            line = Template(spec.line).text({"text": text, "words": spec.words[name]})
            if parse(spec, line) != (text, name):
                built.refuse(row, "ambiguous-line", "text and words cannot be read back")
                continue
            about = {"template_id": template, "pseudo_label": name, "pseudo_conf": confidence}
            about |= {"labeler": f"vote of {spec.neighbours} neighbours", "loss_spans": [[0, len(line)]]}
            built.add([row], text=line, task=row.get("task"), about=about)
        return built


def parse(spec: Spec, line: str) -> tuple[str, str] | None:
    """The text and the label of a line; None where it is no line of this template."""
    of_words = {w: label for label, w in spec.words.items()}
    alternatives = "|".join(re.escape(w) for w in sorted(of_words, key=len, reverse=True))
    groups = {"text": "(?P<text>.*)", "words": f"(?P<words>{alternatives})"}
    pattern = "".join(groups[part] if is_field else re.escape(part) for is_field, part in Template(spec.line).parts)
    found = re.fullmatch(pattern, line, re.DOTALL)
    return (found["text"], of_words[found["words"]]) if found else None


def _labelled(spec: Spec, shard: Shard) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Each row and its label, or None where it has none."""
    template = Template(spec.label)
    for row in shard.rows.iter_rows(named=True):
        try:
            yield row, as_text(template.value(fields_of(row)))
        except MissingField:
            yield row, None


def _votes(spec: Spec, fitted: Fitted, shard: Shard) -> np.ndarray:
    """f64[n, labels]: each label's share of the vote of the nearest labelled rows; rows sum to 1."""
    votes = np.zeros((len(shard), len(spec.words)))
    if not len(shard):
        return votes
    vectors = contract.vectors_of(Render.name, contract.Needs(vectors=True), shard, "shard")
    scores, near = Index(fitted.arrays["vectors"], device="cpu").search(vectors, spec.neighbours)
    weight = np.exp(SHARPNESS * (scores - scores[:, :1]).astype(np.float64))
    for place in range(near.shape[1]):
        np.add.at(votes, (np.arange(len(votes)), fitted.arrays["labels"][near[:, place]]), weight[:, place])
    return votes / votes.sum(1, keepdims=True)


BUILDER = Render()
