"""What a recipe's words stand for: selectors, builders, checks, readers, and whether they fit what surrounds them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from mixtura import registry
from mixtura.errors import InputError, RecipeError, nearest
from mixtura.recipe import Build, Mine, Pick, Recipe, Selection
from mixtura.recipe_file.mistakes import explain

MARKS = "marks"  # how a selector goes by that scores the mixture for `mix.marks`


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


def _word(kind: registry.Kind, word: str, where: str) -> Any:
    try:
        return registry.find(kind, word)
    except InputError as e:
        raise RecipeError(where, e.need, got=word, next_step=e.next_step) from None
