"""The recipe as a file: YAML in, clear sentences out, JSON Schema for editors."""

from mixtura.recipe_file.document import base_of, build, environment, load, parse, resolved_yaml
from mixtura.recipe_file.json_schema import schema
from mixtura.recipe_file.mistakes import explain
from mixtura.recipe_file.tree import MAX_BYTES, parse_tree, read_tree
from mixtura.recipe_file.words import (
    builder_of,
    builder_spec_of,
    check_of,
    check_words,
    marker_of,
    pick_of,
    selector_of,
    spec_of,
)

__all__ = [
    "MAX_BYTES",
    "base_of",
    "build",
    "builder_of",
    "builder_spec_of",
    "check_of",
    "check_words",
    "environment",
    "explain",
    "load",
    "marker_of",
    "parse",
    "parse_tree",
    "pick_of",
    "read_tree",
    "resolved_yaml",
    "schema",
    "selector_of",
    "spec_of",
]
