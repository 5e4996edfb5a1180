"""Between builders that ask a model and the checks that judge what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from mixtura import registry
from mixtura.checking import Question, Uncheckable
from mixtura.errors import InputError
from mixtura.pipeline.builder import Built


def check_of(builder: str, word: str, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """A check and its options as its own model.

    Args:
        builder: whose option it is, for errors.
        word: the check's.
        options: as the recipe has them.

    Raises:
        InputError: no such check, or an impossible option.
    """
    check = registry.find("checks", word)
    try:
        return check, check.Spec.model_validate(dict(options))
    except ValidationError as e:
        problem = e.errors(include_url=False)[0]
        where = ".".join(str(p) for p in problem["loc"])
        thing = f"builder {builder!r}: check_options{'.' + where if where else ''}"
        raise InputError(thing, f"must suit check {word!r}: {problem['msg']}", got=problem["input"]) from None


def questions(
    spec: Any, built: Built, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Question]]:
    """Rows with their questions; one that cannot be checked is refused with the check's own reason.

    Args:
        spec: a builder's options with `check` and `check_options`.
        built: where refusals go.
        rows: of schema ROW.
    """
    check, options = check_of(built.builder, spec.check, spec.check_options)
    for row in rows:
        try:
            yield row, check.question(options, row)
        except Uncheckable as e:
            built.refuse(row, e.code, str(e).partition(": ")[2])


def in_order(built: Built, rows: Iterable[str]) -> Built:
    """What was built, its refusals in the order of the rows: some are known before the model is asked, some after."""
    place = {row: i for i, row in enumerate(rows)}
    built.refused.sort(key=lambda refused: place[refused[0]])
    return built
