"""The recipe as a file: YAML in, clear sentences out, JSON Schema for editors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mixtura import registry
from mixtura.errors import InputError, RecipeError, nearest
from mixtura.recipe import Build, Mine, Pick, Recipe, Selection

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # after aliases are expanded: a YAML bomb grows here, not in the file
MAX_DEPTH = 40
MARKS = "marks"  # how a selector goes by that scores the mixture for `mix.marks`


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


def read_tree(path: str | Path, noun: str) -> dict[str, Any]:
    """The mapping in a YAML file that a person wrote.

    Args:
        path: the file.
        noun: what it is, for errors.

    Raises:
        InputError: it is missing, too large, no YAML, a YAML bomb, or no mapping.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{noun} {str(path)!r}", f"must be at most {MAX_BYTES:,} bytes", got=size)
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        step = "Give the path of a YAML file; recipes/ has some to start from"
        raise InputError(f"{noun} {str(path)!r}", "must be a readable file", got=e.strerror, next_step=step) from None
    except UnicodeDecodeError as e:
        raise InputError(f"{noun} {str(path)!r}", "must be UTF-8 text", got=str(e)) from None
    return parse_tree(text, str(path), noun)


def parse_tree(text: str, name: str, noun: str) -> dict[str, Any]:
    """The mapping in YAML text; see `read_tree`."""
    thing = f"{noun} {name!r}"
    try:
        tree = yaml.load(text, Loader=_Loader)  # a SafeLoader that also refuses duplicate keys
        _weigh(tree)
    except yaml.YAMLError as e:
        raise InputError(thing, f"must be valid YAML: {_fault(e)}") from None
    except ValueError as e:  # a date that no calendar has, an integer of thousands of digits
        raise InputError(thing, f"must hold values that YAML can read: {e}") from None
    except (RecursionError, _Bomb) as e:
        got = str(e) if isinstance(e, _Bomb) else "endless nesting"
        raise InputError(thing, "must not expand its aliases without end", got=got) from None
    if not isinstance(tree, dict):
        raise InputError(thing, "must be a mapping of keys", got=type(tree).__name__)
    return tree


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


def check_words(recipe: Recipe) -> None:
    """Check what the tree alone cannot know: selectors, their options and needs, readers.

    Raises:
        RecipeError: an unknown word, an impossible option, or a selector without the target it needs.
    """
    for i, selection in enumerate(recipe.select):
        where = f"select.{i}"
        selector = _selector(selection, where)
        if selector.needs.target and recipe.target is None:
            raise RecipeError("target", f"is needed by selector {selection.selector!r}", next_step="Add a target")
        if selection.pick.rule == "gumbel" and selector.scale == "rank":
            raise RecipeError(
                f"{where}.pick.rule",
                f"cannot be 'gumbel' with selector {selection.selector!r}: its score is a rank, not a weight",
                next_step="Use rule 'top'",
            )
        rules_of = {
            "cover": "prices its targets, such as nudge",
            "round_robin": "names its targets, such as rds",
            "got-d": "is nudge",
        }
        if (rule := selection.pick.rule) in rules_of and rule not in getattr(selector, "rules", ()):
            raise RecipeError(
                f"{where}.pick.rule",
                f"can be {rule!r} only with a selector that {rules_of[rule]}",
                got=selection.selector,
                next_step="Use rule 'top'",
            )
    _check_marks(recipe)
    _check_avoid(recipe)
    for i, made in enumerate(recipe.build):
        _word("builders", made.builder, f"build.{i}.builder")
        builder_spec_of(made, f"build.{i}")
    if recipe.mine != Mine():
        check_of(recipe.mine)
    places = {f"sources.{n}": s for n, s in recipe.sources.items()} | recipe.samples
    for where, source in places.items():
        if source.format is not None:
            _word("readers", source.format, f"{where}.format")


def _selector(selection: Selection, where: str) -> Any:
    """The selector behind a selection's word, its options checked.

    Raises:
        RecipeError: an unknown word, an impossible option, or no model for one that reads rows with a causal LM.
    """
    selector = _word("selectors", selection.selector, f"{where}.selector")
    if selector.needs.model and not selection.options.get("model"):
        step = "Name the folder of a causal LM, or one of the hub"
        need = f"is needed by selector {selection.selector!r}, which reads rows with a causal LM"
        raise RecipeError(f"{where}.options.model", need, next_step=step)
    spec_of(selection, where)
    return selector


def _check_marks(recipe: Recipe) -> None:
    """What marks turns must score turns, in the column that the recipe names."""
    marks, marker = recipe.mix.marks, marker_of(recipe)
    if marks is None or marker is None:
        return
    selector = selector_of(marker) if marks.selection else _selector(marker, "mix.marks")
    columns = selector.turn_columns(spec_of(marker)) if hasattr(selector, "turn_columns") else ()
    where = "mix.marks.selection" if marks.selection else "mix.marks.selector"
    if not columns:
        step = "Name one that scores turns, such as context"
        raise RecipeError(where, "must score each answer of a conversation", got=marker.selector, next_step=step)
    if marks.score not in columns:
        need = f"must be one of {', '.join(columns)}"
        raise RecipeError("mix.marks.score", need, got=marks.score, next_step=nearest(marks.score, columns))
    if marks.selector and selector.needs.vectors:
        step = "Make it a selection, and name that in mix.marks.selection"
        raise RecipeError(where, "must not need vectors: these are made before the mixture", next_step=step)
    if marks.selector and selector.needs.target and recipe.target is None:
        raise RecipeError("target", f"is needed by selector {marker.selector!r}", next_step="Add a target")


def marker_of(recipe: Recipe) -> Selection | None:
    """The selection whose scores decide which answers are marked: one of the recipe's, or one made for it."""
    marks = recipe.mix.marks
    if marks is None:
        return None
    if marks.selection is not None:
        return next(s for s in recipe.select if s.word == marks.selection)
    # it picks nothing: the budget only makes it a selection like any other
    return Selection(
        selector=marks.selector or "", name=MARKS, options=marks.options, pick=Pick(budget_rows=1),
        sources=recipe.chosen_from(),
    )  # fmt: skip


def _check_avoid(recipe: Recipe) -> None:
    words = [s.selector for s in recipe.select]
    if recipe.avoid is not None and not any(selector_of(s).needs.avoid for s in recipe.select):
        step = "Leave it out, or select with nudge"
        raise RecipeError("avoid", "must have a selector that heeds it", got=words, next_step=step)


def selector_of(selection: Selection) -> Any:
    """The selector object behind a selection's word."""
    return registry.find("selectors", selection.selector)


def pick_of(selection: Selection) -> Pick:
    """The selection's pick, its rule by name: by default the first that its selector offers, else 'top'."""
    rule = selection.pick.rule or next(iter(getattr(selector_of(selection), "rules", ())), "top")
    return selection.pick.model_copy(update={"rule": "top" if rule == "got-d" else rule})


def spec_of(selection: Selection, where: str = "select") -> BaseModel:
    """The selector's options as its own model; rule 'got-d' is the paper's score too, where no option says otherwise.

    Raises:
        RecipeError: an unknown or impossible option.
    """
    selector = selector_of(selection)
    options = (getattr(selector, "as_published", {}) if selection.pick.rule == "got-d" else {}) | selection.options
    try:
        return selector.Spec.model_validate(options)
    except ValidationError as e:
        raise explain(e, options, f"{where}.options.", selector.Spec) from None


def builder_of(build: Build) -> Any:
    """The builder object behind a build's word."""
    return registry.find("builders", build.builder)


def builder_spec_of(build: Build, where: str = "build") -> BaseModel:
    """The builder's options as its own model.

    Raises:
        RecipeError: an unknown or impossible option.
    """
    builder = builder_of(build)
    try:
        return builder.Spec.model_validate(build.options)
    except ValidationError as e:
        raise explain(e, build.options, f"{where}.options.", builder.Spec) from None


def check_of(mine: Mine) -> tuple[Any, BaseModel]:
    """The check that judges answers, and its options as its own model.

    Raises:
        RecipeError: an unknown check, or an unknown or impossible option.
    """
    check = _word("checks", mine.check, "mine.check")
    try:
        return check, check.Spec.model_validate(mine.options)
    except ValidationError as e:
        raise explain(e, mine.options, "mine.options.", check.Spec) from None


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


def _fault(error: yaml.YAMLError) -> str:
    """The problem and its place, without the parser's own picture of the text."""
    mark = getattr(error, "problem_mark", None)
    at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{at}"


class _Bomb(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """Safe, and a key given twice is an error rather than the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _weigh(tree: Any) -> int:
    """Count nodes as if every alias were written out, without writing them out."""
    weights: dict[int, int] = {}

    def weigh(node: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise _Bomb(f"more than {MAX_DEPTH} levels")
        if not isinstance(node, dict | list):
            return 1
        if id(node) not in weights:
            weights[id(node)] = 1 + sum(weigh(child, depth + 1) for child in _children(node))
        if weights[id(node)] > MAX_NODES:
            raise _Bomb(f"more than {MAX_NODES:,} values")
        return weights[id(node)]

    return weigh(tree, 0)


def _children(node: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    return iter(node.values() if isinstance(node, dict) else node)


def _word(kind: registry.Kind, word: str, where: str) -> Any:
    try:
        return registry.find(kind, word)
    except InputError as e:
        raise RecipeError(where, e.need, got=word, next_step=e.next_step) from None


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
