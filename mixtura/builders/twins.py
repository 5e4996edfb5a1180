"""Zero-shot and one-shot twins: each row as it is, and again with the nearest solved example in front.

The example comes from a context pool that no split holds, is found by what the row asks, never by its answer, and lies
in the user's turn: the trainer learns the row's own answer alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from mixtura.errors import InputError
from mixtura.pipeline import contract
from mixtura.pipeline.builder import Built, Means, Needs, group_of
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.hashing import unit_noise
from mixtura.pipeline.index import Index
from mixtura.pipeline.packed_text import pack, unpack
from mixtura.tasks.template import MissingField, Template, fields_of

CANDIDATES = 8  # nearest context rows looked at: more than one only to step over copies of the row itself
CONTEXT = ("id", "license", "question", "answer", "shot")  # what is kept of a context row, as texts


class Spec(contract.Spec):
    """Options of twins."""

    context_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=5 / 6, description="Share of the rows, by hash, that only serve as examples; the paper has 50k of 60k."
    )
    context: list[str] | None = Field(
        default=None, description="Sources that only serve as examples, instead of a share of all."
    )
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        default=0.3, description="Cosine of an example that is near enough; higher gives fewer and better twins."
    )
    forms: Literal["both", "zero-shot", "one-shot"] = Field(default="both", description="Which of the twins to make.")
    question: str = Field(default="{prompt}", description="What is asked: a template over the row's fields.")
    answer: str = Field(default="{completion}", description="What is answered: a template over the row's fields.")
    shot: str = Field(
        default="{question}\n{answer}", description="A solved example: {question}, {answer} and the row's fields."
    )
    query: str = Field(default="{question}", description="The row's own question: {question} and the row's fields.")
    separator: str = Field(default="\n\n", description="Between the example and the question.")
    language: str | None = Field(default=None, description="Language of the built rows; by default the parent's.")


class Twins:
    """Source: arXiv:2312.12740 (adaptive MT), section 3; recipe verified in the authors' code.

    Differs: twins share a split group (the authors shuffle both forms before they split, so that 95 % of validation
    rows have their twin in training); a floor of similarity; copies of the row are no examples; exact search; the loss
    is on the row's own answer rather than on all tokens; any task with a question and an answer.
    """

    name: ClassVar[str] = "twins"
    source: ClassVar[str] = "Adaptive machine translation by fine-tuning, arXiv:2312.12740, with its split leak closed"
    needs: ClassVar[Needs] = Needs(vectors=True)
    Spec = Spec

    def fit(self, spec: Spec, shards: Iterable[Shard], means: Means) -> Fitted:
        """Put the context pool together: vectors of its questions, and the solved examples as text."""
        kept: dict[str, list[str]] = {c: [] for c in CONTEXT}
        vectors: list[np.ndarray] = []
        texts = _Texts(spec)
        rows = 0
        for shard in shards:
            rows += len(shard)
            serves = _serves(spec, shard.rows, means.seed)
            made = [(i, texts.shot(row)) for i, row in enumerate(shard.rows.iter_rows(named=True)) if serves[i]]
            good = [(i, shot) for i, shot in made if shot is not None]
            for _, shot in good:
                for column in CONTEXT:
                    kept[column].append(shot[column])
            vectors.append(_vectors(shard)[[i for i, _ in good]])
        count = len(kept["id"])
        if not count or count == rows:
            need = "must leave rows on both sides of its context pool"
            raise InputError("builder 'twins'", need, got=f"{count} of {rows} rows", next_step="Change context_share")
        arrays = {"vectors": np.concatenate(vectors)}
        for column in CONTEXT:
            arrays |= pack(column, kept[column])
        return Fitted(arrays, {"context_rows": count, "search": "exact"})

    def build(self, spec: Spec, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """Both twins of each row that is no example itself."""
        built, texts = Built(self.name), _Texts(spec)
        serves = _serves(spec, shard.rows, means.seed)
        found = _Neighbours(spec, fitted).of(shard, ~serves) if spec.forms != "zero-shot" else iter(())
        for serving, row in zip(serves, shard.rows.iter_rows(named=True), strict=True):
            if serving:
                built.refuse(row, "context-pool", "serves as an example only")
                continue
            neighbours = next(found, [])
            try:
                said = texts.asked(row)
            except MissingField as missing:
                built.refuse(row, "missing-field", missing.field)
                continue
            self._twins(spec, built, row, said, neighbours)
        return built

    def _twins(
        self, spec: Spec, built: Built, row: dict[str, Any], said: dict[str, str], neighbours: list[dict[str, Any]]
    ) -> None:
        extra: dict[str, Any] = {"language": spec.language} if spec.language else {}
        if spec.forms != "one-shot":
            turns = _turns(said["query"], said["answer"])
            built.add([row], messages=turns, task=row["task"], about={"prompt_id": "zero-shot"}, **extra)
        if spec.forms == "zero-shot":
            return
        near = next((n for n in neighbours if not _copies(n, said)), None)
        if near is None or near["similarity"] < spec.min_similarity:
            best = "no example but copies" if near is None else f"{near['similarity']:.3f}"
            built.refuse(row, "below-floor", best)
            return
        turns = _turns(near["shot"] + spec.separator + said["query"], said["answer"])
        about = {"prompt_id": "one-shot", "similarity": round(near["similarity"], 6)}
        built.add([row], context=[near], messages=turns, task=row["task"], about=about, **extra)


class _Texts:
    """The templates, read once."""

    def __init__(self, spec: Spec) -> None:
        self.question, self.answer = Template(spec.question), Template(spec.answer)
        self.shots, self.query = Template(spec.shot), Template(spec.query)

    def asked(self, row: Mapping[str, Any]) -> dict[str, str]:
        """`question, answer, query` of a row; raises MissingField."""
        fields = fields_of(row)
        said = {"question": self.question.text(fields), "answer": self.answer.text(fields)}
        return said | {"query": self.query.text(fields | said)}

    def shot(self, row: Mapping[str, Any]) -> dict[str, str] | None:
        """A context row as texts, columns CONTEXT; None where it lacks a field."""
        fields = fields_of(row)
        try:
            said = {"question": self.question.text(fields), "answer": self.answer.text(fields)}
            return said | {"id": row["id"], "license": row["license"] or "", "shot": self.shots.text(fields | said)}
        except MissingField:
            return None


class _Neighbours:
    """The context pool, ready to be searched."""

    def __init__(self, spec: Spec, fitted: Fitted) -> None:
        self.index = Index(fitted.arrays["vectors"], device="cpu")
        self.columns = {c: unpack(fitted.arrays, c) for c in CONTEXT}

    def of(self, shard: Shard, wanted: np.ndarray) -> Iterator[list[dict[str, Any]]]:
        """For each wanted row the nearest context rows, best first, with their `similarity`."""
        scores, positions = self.index.search(_vectors(shard)[wanted], CANDIDATES)
        for row_scores, row_positions in zip(scores.tolist(), positions.tolist(), strict=True):
            yield [
                {c: v[p] for c, v in self.columns.items()} | {"similarity": s}
                for s, p in zip(row_scores, row_positions, strict=True)
            ]


def _serves(spec: Spec, rows: pl.DataFrame, seed: int) -> np.ndarray:
    """bool[n]: the rows that are examples only. Whole split groups, so that no example is a sibling of a row."""
    if spec.context is not None:
        return rows["source"].is_in(spec.context).to_numpy()
    groups = pl.Series([group_of(r) for r in rows.select("id", "split_group").iter_rows(named=True)], dtype=pl.String)
    return unit_noise(groups, seed, "twins/context") < spec.context_share


def _copies(near: Mapping[str, Any], said: Mapping[str, str]) -> bool:
    """Whether an example gives the answer away: it asks or answers just what the row does."""
    return any(near[k].strip().casefold() == said[k].strip().casefold() for k in ("question", "answer"))


def _turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": question, "tool_calls": None},
        {"role": "assistant", "content": answer, "tool_calls": None},
    ]


def _vectors(shard: Shard) -> np.ndarray:
    if shard.vectors is None:
        raise InputError("builder 'twins'", "needs vectors of its rows", next_step="Embed these rows first")
    return shard.vectors


BUILDER = Twins()
