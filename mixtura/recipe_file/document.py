"""From a file to a checked recipe, and back to YAML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mixtura.errors import RecipeError
from mixtura.recipe import Recipe
from mixtura.recipe_file.mistakes import explain
from mixtura.recipe_file.tree import parse_tree, read_tree
from mixtura.recipe_file.words import check_words


def load(path: str | Path) -> Recipe:
    """Read and check a recipe; nothing else is touched.

    Raises:
        RecipeError: with the path of the first wrong key, what was expected, what came, and the nearest valid word.
        InputError: the file is missing, too large, no YAML, or a YAML bomb.
    """
    return build(read_tree(path, "recipe"))


def parse(text: str, name: str = "recipe") -> Recipe:
    """A recipe from YAML text; see `load`."""
    return build(parse_tree(text, name, "recipe"))


def build(tree: dict[str, Any]) -> Recipe:
    """A recipe from plain values, its selectors' options and words checked too.

    Raises:
        RecipeError: see `load`.
    """
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as e:
        raise explain(e, tree) from None
    check_words(recipe)
    return recipe


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out; `${NAME}` stays unexpanded, so no secret and no machine enters."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def base_of(path: str | Path) -> Path:
    """The folder that a recipe's paths are relative to: its own, or the parent of a folder `recipes` that holds it."""
    folder = Path(path).resolve().parent
    return folder.parent if folder.name == "recipes" else folder


def environment(recipe: Recipe) -> dict[str, str]:
    """Values of the variables that the recipe declares.

    Raises:
        RecipeError: a declared variable is not set.
    """
    if missing := [n for n in recipe.env if n not in os.environ]:
        step = f"Set it: {missing[0]}=… mixtura run …"
        raise RecipeError("env", "must name variables that are set", got=missing, next_step=step)
    return {n: os.environ[n] for n in recipe.env}
