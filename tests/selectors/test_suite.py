"""The common suite: every check over every selector file, by the same door that a recipe uses."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from generators import Planted, as_conversations, cut, shard, two_topics
from polars.testing import assert_frame_equal
from pydantic import ValidationError
from tiny_lm import tiny_lm

from mixtura.errors import InputError
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.pipeline.pick import pick
from mixtura.recipe import Pick
from mixtura.registry import find, words

ROOT = Path(__file__).parents[2]
FILES = sorted(p.stem for p in (ROOT / "mixtura/selectors").glob("[!_]*.py"))

# check → selectors that it does not fit, and why
LONG = "sampling so many rows takes a minute; test_deficiency.py does it with fewer"
EXEMPT = {
    "check_equal_rows_have_equal_scores": {"uniform": "its draw is keyed by id, so that equal rows differ"},
    "check_cut_into_shards_changes_no_bit": {"deficiency": LONG},
    "check_picks_fit_the_budget_and_extend_smaller_ones": {"deficiency": LONG},
}


def spec_of(selector: Any, **changed: Any) -> Any:
    """The default options, and a language model where the selector reads with one."""
    given: dict[str, Any] = {"model": tiny_lm()} if selector.needs.model else {}
    if selector.name == "deficiency":
        given |= {"check": "exact", "samples": 1, "answer_tokens": 2, "sample_rows": 5}
    elif "messages" in selector.needs.columns:
        given |= {"sample_rows": 20}
    return selector.Spec(**given, **changed)


def pool_for(selector: Any, **options: Any) -> Planted:
    """Two topics; where the selector reads conversations, as those, and fewer: each takes milliseconds."""
    if "messages" not in selector.needs.columns:
        return two_topics(**options)
    if selector.name == "deficiency":  # each row costs samples
        planted = two_topics(**({"pool_rows": 30, "wanted_rows": 8} | options))
    else:
        planted = two_topics(pool_rows=options.get("pool_rows", 600) // 10, wanted_rows=20)
    return replace(planted, **{k: as_conversations(getattr(planted, k)) for k in ("pool", "target", "reference")})


def fit(selector: Any, planted: Planted, **changed: Any) -> Fitted:
    given = {"sample": planted.pool, "target": planted.target, "reference": planted.reference, "seed": 7} | changed
    return selector.fit(spec_of(selector), **given)


def scored(selector: Any, planted: Planted, rows: Shard | None = None) -> pl.DataFrame:
    return selector.score(spec_of(selector), fit(selector, planted), planted.pool if rows is None else rows)


def check_one_finite_score_per_row_in_order(selector):
    planted = pool_for(selector)
    out = scored(selector, planted)
    assert out["id"].to_list() == planted.pool.rows["id"].to_list()
    assert out.columns[:2] == ["id", "score"]
    assert out["score"].dtype == pl.Float64
    assert out["score"].is_finite().all()


def check_same_seed_same_scores(selector):
    planted = pool_for(selector)
    assert_frame_equal(scored(selector, planted), scored(selector, planted), check_exact=True)


def check_order_of_the_pool_changes_nothing(selector):
    planted = pool_for(selector)
    shuffled = cut(planted.pool, np.random.default_rng(1).permutation(len(planted.pool)))
    whole, other = scored(selector, planted), scored(selector, planted, shuffled)
    assert_frame_equal(whole.sort("id"), other.sort("id"), check_exact=True)


def check_cut_into_shards_changes_no_bit(selector):
    planted = pool_for(selector, pool_rows=1100)  # more than one tile of 512 rows
    spec, fitted = spec_of(selector), fit(selector, planted)
    whole = selector.score(spec, fitted, planted.pool)
    n = len(planted.pool)
    for sizes in ([1] * 20, [3 * n // 11, 5 * n // 11, 3 * n // 11], [513 * n // 1100, 587 * n // 1100]):
        ends = np.cumsum([0, *sizes])
        pieces = [cut(planted.pool, np.arange(a, b)) for a, b in pairwise(ends)]
        parts = pl.concat([selector.score(spec, fitted, p) for p in pieces])
        assert_frame_equal(parts, whole[: int(ends[-1])], check_exact=True)


def check_equal_rows_have_equal_scores(selector):
    planted = pool_for(selector)
    twice = cut(planted.pool, np.tile(np.arange(30), 2))
    renamed = Shard(twice.rows.with_columns(id=pl.Series([f"copy{i}" for i in range(60)])), twice.vectors)
    score = scored(selector, planted, renamed)["score"]
    assert score[:30].to_list() == score[30:].to_list()


def check_input_is_left_alone(selector):
    planted = pool_for(selector)
    rows, vectors = planted.pool.rows.clone(), planted.pool.vectors.copy()
    scored(selector, planted)
    assert_frame_equal(planted.pool.rows, rows, check_exact=True)
    assert (planted.pool.vectors == vectors).all()


def check_missing_column_is_named(selector):
    planted = pool_for(selector)
    for column in ("id", *selector.needs.columns):
        lacking = Shard(planted.pool.rows.drop(column), planted.pool.vectors)
        with pytest.raises(InputError, match=rf"selector '{selector.name}' needs columns \['{column}'\]"):
            selector.score(spec_of(selector), fit(selector, planted), lacking)


def check_missing_vectors_are_named(selector):
    planted = pool_for(selector)
    bare = Shard(planted.pool.rows, None)
    if not selector.needs.vectors:
        assert scored(selector, planted, bare)["score"].is_finite().all()
        return
    with pytest.raises(InputError, match=f"selector '{selector.name}' needs vectors of its shard"):
        scored(selector, planted, bare)
    with pytest.raises(InputError, match="vectors"):
        scored(selector, planted, Shard(planted.pool.rows, planted.pool.vectors[:-1]))


def check_lacking_target_is_named(selector):
    planted = pool_for(selector)
    for none in (None, cut(planted.target, [])):
        if not selector.needs.target:
            fit(selector, planted, target=none)
            continue
        with pytest.raises(InputError, match=f"selector '{selector.name}' needs a target"):
            fit(selector, planted, target=none)


def check_one_row_gets_an_answer(selector):
    planted = pool_for(selector)
    one = {"sample": cut(planted.pool, [0]), "target": cut(planted.target, [0]), "reference": None}
    out = selector.score(spec_of(selector), fit(selector, planted, **one), cut(planted.pool, [3]))
    assert out.height == 1
    assert np.isfinite(out["score"][0])


def check_empty_shard_gives_an_empty_table(selector):
    planted = pool_for(selector)
    full = scored(selector, planted)
    empty = scored(selector, planted, cut(planted.pool, []))
    assert empty.height == 0
    assert empty.schema == full.schema


def check_odd_rows_get_finite_scores(selector):
    planted = pool_for(selector)
    texts = ["", " \n\t", "…", "数据选择", "a" * 100_000, "\x00\x7f", "مرحبا بالعالم", "🙂 🙂", "x", "ﬁ ẞ İ"]
    vectors = np.zeros((len(texts), planted.pool.vectors.shape[1]), np.float32)  # no known word: a zero vector
    out = scored(selector, planted, shard(texts, vectors, prefix="odd"))
    assert out["score"].is_finite().all()
    assert out.height == len(texts) == 10


def check_saved_fit_scores_alike(selector):
    planted = pool_for(selector)
    fitted = fit(selector, planted)
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder))
        loaded = Fitted.load(Path(folder))
    spec = spec_of(selector)
    want, got = (selector.score(spec, f, planted.pool) for f in (fitted, loaded))
    assert_frame_equal(want, got, check_exact=True)
    assert loaded.facts == fitted.facts


def check_score_is_explained(selector):
    why = scored(selector, pool_for(selector)).drop("id", "score")
    assert why.width >= 1, "a score must come with at least one column that explains it"
    assert set(why.columns).isdisjoint({"source", "text", "messages", "tokens", "key", "rank"})


def check_picks_fit_the_budget_and_extend_smaller_ones(selector):
    planted = pool_for(selector)
    scores = planted.pool.rows.select("id", "source", "tokens").join(scored(selector, planted), on="id")
    rules = ("top", "gumbel") if selector.scale in ("log_weight", "probability") else ("top",)
    for rule in rules:
        for unit, budgets in (("rows", (1, 17, 60, len(planted.pool))), ("tokens", (40, 500, 10 * len(planted.pool)))):
            before: list[str] = []
            for budget in budgets:
                spec = Pick.model_validate({"rule": rule, f"budget_{unit}": budget})
                picked = pick(scores, spec, scale=selector.scale, seed=3)
                used = scores.filter(pl.col("id").is_in(picked["id"].to_list()))["tokens"].sum()
                assert (picked.height if unit == "rows" else used) <= budget
                assert picked["id"].to_list()[: len(before)] == before
                before = picked["id"].to_list()


def check_identity_is_declared(selector):
    assert selector.source
    assert selector.scale in ("rank", "log_weight", "probability", "threshold")
    assert find("selectors", selector.name) is selector
    with pytest.raises(ValidationError, match="no_such_option"):
        spec_of(selector, no_such_option=1)
    for name, field in selector.Spec.model_fields.items():
        assert field.description, f"option {name} says nothing"


CHECKS = [f for name, f in sorted(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", FILES)
def test_every_selector_passes_every_check(name, check):
    if reason := EXEMPT.get(check.__name__, {}).get(name):
        assert reason
        return
    check(find("selectors", name))


def test_the_suite_covered_every_selector():
    """PAPERS.md is kept by hand, so an empty or shallow glob cannot agree with it."""
    indexed = re.findall(r"`mixtura/selectors/(\w+)\.py`", (ROOT / "PAPERS.md").read_text())
    assert sorted(indexed) == FILES
    assert set(FILES) <= set(words("selectors"))
    assert len(CHECKS) >= 10, "a check was lost"
    assert {c for c in EXEMPT} <= {c.__name__ for c in CHECKS}
