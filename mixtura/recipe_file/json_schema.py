"""JSON Schema of a recipe, for editors."""

from __future__ import annotations

from typing import Any

from mixtura import registry
from mixtura.recipe import Recipe


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe, with each installed selector's and builder's options under its word."""
    tree = Recipe.model_json_schema()
    tree["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    places: tuple[tuple[registry.Kind, str, str], ...] = (
        ("selectors", "Selection", "selector"), ("builders", "Build", "builder"),
    )  # fmt: skip
    for kind, model, key in places:
        entry = tree["$defs"][model]
        entry["properties"][key]["enum"] = list(registry.words(kind))
        entry["allOf"] = [_options_rule(kind, key, word, tree["$defs"]) for word in registry.words(kind)]
    return tree


def _options_rule(kind: registry.Kind, key: str, word: str, definitions: dict[str, Any]) -> dict[str, Any]:
    options = registry.find(kind, word).Spec.model_json_schema(ref_template="#/$defs/{model}")
    definitions |= options.pop("$defs", {})
    return {
        "if": {"properties": {key: {"const": word}}},
        "then": {"properties": {"options": options}},
    }
