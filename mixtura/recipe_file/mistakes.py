"""What is wrong with a tree, in one sentence that names the key, the need and what came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from mixtura.errors import RecipeError, nearest
from mixtura.recipe import Recipe


def explain(error: ValidationError, tree: Any, prefix: str = "", model: type[BaseModel] = Recipe) -> RecipeError:
    """The first mistake as one sentence; the count of the others follows."""
    problems = sorted(error.errors(include_url=False), key=_telling)
    problem = problems[0]
    path = [p for p in problem["loc"] if not _is_union_tag(p, tree)]
    where = prefix + ".".join(str(p) for p in path) if path else prefix.rstrip(".") or "recipe"
    rest = f"{len(problems) - 1} more mistake(s) follow" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        choices = _keys_at(model, [str(p) for p in path[:-1]])
        step = ". ".join(s for s in (nearest(str(path[-1]), choices), rest) if s)
        return RecipeError(where, f"is not a key here; expected one of {', '.join(choices)}", next_step=step)
    if problem["type"] == "missing":
        return RecipeError(where, "is required", next_step=rest)
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    need = message.replace("input should be", "must be").replace("string should", "must")
    got = None if problem["type"] == "value_error" else problem["input"]
    return RecipeError(where, need if need.startswith("must") else f"is wrong: {need}", got=got, next_step=rest)


def _telling(problem: Any) -> tuple[bool, bool]:
    """An unknown key first: a misspelt one is also why another is missing. The other branch of a union last."""
    other_branch = problem["type"] == "string_type" and isinstance(problem["input"], dict)
    return other_branch, problem["type"] != "extra_forbidden"


def _is_union_tag(part: Any, tree: Any) -> bool:
    """Pydantic names the branch of a union in the path (`train.model.TinyModel`); a user never wrote that."""
    return isinstance(part, str) and bool(
        re.fullmatch(r"[A-Z]\w+|str|int|float|dict\[.*\]|list\[.*\]|function-.*", part)
    )


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the model that a key path leads to."""
    here: type[BaseModel] = model
    for part in path:
        field = here.model_fields.get(part)
        if field is None:  # an entry of a list or a mapping: stay with its model
            continue
        here = next(iter(_models_in(field.annotation)), here)
    return list(here.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
