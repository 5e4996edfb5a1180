"""What a builder is: it looks at all rows once, then turns each shard of them into new rows.

A builder is one file in `mixtura/builders/` (or a user's module behind the entry point `mixtura.builders`) that offers
`BUILDER`, an object with the attributes of `Builder`. Each row it makes names its parents; each row it was given ends
as a parent or with a reason. What it makes is cleaned, deduplicated, selected and written as any other source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import orjson
import polars as pl

from mixtura.errors import MixturaError
from mixtura.pipeline.contract import Fitted, Shard, Spec
from mixtura.rows import ROW, content_id, table

Row = Mapping[str, Any]  # columns of `rows.ROW`


@dataclass(frozen=True)
class Needs:
    """What a builder is given beside the rows; checked before any work.

    vectors: the recipe's encoder embeds what each row asks (`asked_text`), never its answer.
    files: options that name a file beside the recipe; `Means.files` holds its text.
    generator: it asks a model, where its options name one.
    """

    vectors: bool = False
    files: tuple[str, ...] = ()
    generator: bool = False


@dataclass(frozen=True)
class Means:
    """What a builder works with.

    seed: of every random choice.
    files: option → text of the file that it names.
    generator: asks the model that the options name; None where they name none.
    """

    seed: int
    files: Mapping[str, str] = field(default_factory=dict)
    generator: Any = None


@dataclass
class Built:
    """What a builder makes of one shard.

    builder: the builder's word; every row's `meta` says it.
    """

    builder: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)  # id, reason, detail

    def add(
        self,
        parents: Sequence[Row],
        *,
        context: Sequence[Row] = (),
        loss_turns: Sequence[int] | None = None,
        about: Mapping[str, Any] | None = None,
        **content: Any,
    ) -> None:
        """Make a row.

        Args:
            parents: the rows it is made of, of one split group: it stays in their split.
            context: rows that are shown in it but not learned from, of a pool that no split holds.
            loss_turns: positions in `messages` of the turns to learn from; None: every assistant turn.
            about: what else is known of it (prompt_id, target_source, judge, ...), JSON; goes into `meta`.
            content: columns of `rows.ROW`: `messages`, `text`, `chosen`, ..., `task`; `language` and `split_group` are
                the first parent's where they are not given, a licence is that of all parents and context together.

        Raises:
            MixturaError: no parent, or parents of several split groups; a fault of the builder.
        """
        if not parents:
            raise MixturaError(f"builder {self.builder!r} made a row without parents")
        groups = {group_of(p) for p in parents}
        if len(groups) > 1:
            raise MixturaError(f"builder {self.builder!r} made a row of parents from {len(groups)} split groups")
        first = parents[0]
        said: dict[str, Any] = {"builder": self.builder, **(about or {})}
        if context:
            said["context"] = [c["id"] for c in context]
        if loss_turns is not None:
            said["loss_turns"] = list(loss_turns)
        self.rows.append(
            {
                "id": content_id(content),
                "file": first["file"],
                "offset": first["offset"],
                "language": first.get("language"),
                "license": licenses_of([*parents, *context]),
                "split_group": groups.pop(),
                **content,
                "meta": orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode(),
                "parents": [p["id"] for p in parents],
            }
        )

    def refuse(self, row: Row, reason: str, detail: str = "") -> None:
        """A row that gives nothing, or not all that it could: a code of words joined by hyphens, and a detail."""
        self.refused.append((row["id"], reason, detail))

    def table(self, source: str) -> pl.DataFrame:
        """The rows as a table of schema `ROW`, in the order in which they were made."""
        return pl.DataFrame(table([r | {"source": source} for r in self.rows], ROW))


def asked_text(rows: pl.DataFrame) -> pl.Series:
    """What each row asks: its turns before a last answer, or a document's text.

    Args:
        rows: columns `text` and `messages`.

    Returns:
        String series `text`, in row order, never null.
    """
    turns = pl.col("messages")
    answered = (turns.list.last().struct.field("role") == "assistant").fill_null(False)
    asked = turns.list.head(turns.list.len() - answered.cast(pl.UInt32))
    said = asked.list.eval(pl.element().struct.field("content").fill_null("")).list.join("\n")
    return rows.select(text=pl.coalesce("text", said, pl.lit("")))["text"]


def group_of(row: Row) -> str:
    """The split group of a row; a row without one is a group of its own."""
    return row.get("split_group") or row["id"]


def licenses_of(rows: Sequence[Row]) -> str | None:
    """One SPDX expression for what is made of several rows: `cc-by-4.0 AND mit`; None where none is known."""
    names = sorted({n for r in rows if (n := r.get("license"))})
    return " AND ".join(names) or None


class Builder(Protocol):
    """The shape of a builder. `build` may run in any process, on any machine, on any cut of the rows."""

    name: ClassVar[str]  # the file's stem and the recipe's word
    source: ClassVar[str]  # paper, section; and what differs
    needs: ClassVar[Needs]
    Spec: type[Spec]

    def fit(self, spec: Any, shards: Iterable[Shard], means: Means) -> Fitted:
        """Look at all rows, as often as needed: caps, pools and indexes that no shard knows by itself.

        Args:
            spec: an instance of `self.Spec`.
            shards: every row, each with all columns of `rows.ROW`, in the pool's order; may be walked more than once.
            means: seed, files, generator.

        Raises:
            InputError: an option is impossible for these rows.
        """
        ...

    def build(self, spec: Any, fitted: Fitted, shard: Shard, means: Means) -> Built:
        """New rows of a shard.

        Returns:
            Rows in the order of their first parents; each row of the shard is a parent or is refused. What a row gives
            does not depend on which other rows share its shard.
        """
        ...
