"""What a round learns from: rows drawn, put to the policy, and paired as the recipe says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import ValidationError

from mixtura import recipe_file
from mixtura.loop.cast import Item
from mixtura.loop.pairs import Paired, golds, searched, unjudged, verified
from mixtura.loop.policy import Policy
from mixtura.mining.attempts import Sampling, ask_of, attempt
from mixtura.mining.standing import Standard
from mixtura.pipeline.hashing import keys
from mixtura.recipe import Mine
from mixtura.search.explore import Search


def found_pairs(policy: Policy, rows: Sequence[Item], spec: Mine, search: Search | None, seed: int) -> Paired:
    """The pairs of a round, which follow from the policy and the seed.

    Args:
        policy: the model that is mined.
        rows: to learn from.
        spec: which rows and answers; its `pairs` is the most there can be.
        search: how to look for near misses in verified rows; None takes the sampled answers.
        seed: of the draw and the answers.
    """
    items = drawn(rows, spec.rows, seed)
    sampling = Sampling(spec.samples, spec.max_tokens, spec.temperature, seed)
    if spec.by == "verified":
        tried = attempt(policy.model, [i.question for i in items], sampling)
        standard = Standard.of(tried)
        if search is None:
            paired = verified(items, tried, standard)
        else:
            paired = searched(policy.model, items, tried, standard, search, seed)
    else:
        if spec.by == "perplexity":
            items = surprising(policy, items, spec.share)
        if spec.learn == "answers":  # the right ones are known: nothing is asked
            return golds(items[: spec.pairs])
        items = items[: 2 * spec.pairs]  # some will have no other answer
        paired = unjudged(items, attempt(policy.model, [i.question for i in items], sampling))
    over = len(paired.pairs) - spec.pairs
    return paired if over <= 0 else Paired(paired.pairs[: spec.pairs], {**paired.without, "over-budget": over})


def search_of(spec: Mine) -> Search | None:
    """The search's options as their own model; None where there is no search.

    Raises:
        RecipeError: an unknown or impossible option.
    """
    if spec.search is None:
        return None
    limits = {"max_tokens": spec.max_tokens, "temperature": spec.temperature, "samples": spec.samples}
    try:
        return Search.model_validate(limits | spec.search)
    except ValidationError as e:
        raise recipe_file.explain(e, spec.search, "mine.search.", Search) from None


def drawn(items: Sequence[Item], rows: int | None, seed: int) -> list[Item]:
    """`rows` of the items, all where it is None, in an order that the seed decides row by row."""
    order = np.argsort(keys(pl.Series([i.id for i in items], dtype=pl.String), seed, "mine/rows"), kind="stable")
    return [items[i] for i in order[:rows]]


def surprising(policy: Policy, items: Sequence[Item], share: float) -> list[Item]:
    """The share of items whose right answer has the highest perplexity, the highest first.

    Source: iTool (arXiv 2501.09766), section 3: the 30 % of rows with the highest perplexity of the gold answer.
    Differs: one stratum; a gold that cannot be judged is left out rather than lost unseen.
    """
    golds = policy.model.likelihoods([ask_of(i.question) for i in items], [i.question.gold for i in items])
    known = [(g.loss, i.id, i) for g, i in zip(golds, items, strict=True) if g is not None]
    known.sort(key=lambda k: (-k[0], k[1]))
    return [i for _, _, i in known[: max(1, round(share * len(known)))]]
