"""Picking under a budget: laws by hypothesis, and frequencies against their closed form."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.pick import pick
from mixtura.recipe import Pick

SOURCES = ("web", "books", "code")


def table(rows: list[tuple[float, str, int]]) -> pl.DataFrame:
    """Scores from (score, source, tokens); ids a00, a01, ..."""
    return pl.DataFrame(
        {
            "id": [f"a{i:02}" for i in range(len(rows))],
            "score": [r[0] for r in rows],
            "source": [r[1] for r in rows],
            "tokens": [r[2] for r in rows],
        },
        schema={"id": pl.String, "score": pl.Float64, "source": pl.String, "tokens": pl.Int32},
    )


def run(scores: pl.DataFrame, *, scale="log_weight", seed=0, **spec) -> list[str]:
    return pick(scores, Pick.model_validate(spec), scale=scale, seed=seed)["id"].to_list()


def spent(scores: pl.DataFrame, ids: list[str], unit: str, source: str | None = None) -> int:
    rows = scores.filter(pl.col("id").is_in(ids))
    rows = rows if source is None else rows.filter(pl.col("source") == source)
    return rows.height if unit == "rows" else int(rows["tokens"].sum())


# few distinct scores, so that ties are common; rows of 0 tokens included
ROWS = st.lists(
    st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 3.0]), st.sampled_from(SOURCES), st.integers(0, 9)),
    min_size=1,
    max_size=20,
)
CAP = st.one_of(
    st.builds(lambda s: {"share": s / 100}, st.integers(0, 100)),
    st.builds(lambda n: {"rows": n}, st.integers(1, 10)),
    st.builds(lambda n: {"tokens": n}, st.integers(1, 40)),
)
CAPS = st.dictionaries(st.sampled_from([*SOURCES, "*"]), CAP, max_size=3)
RULES = st.sampled_from(["top", "gumbel"])
UNITS = st.sampled_from(["rows", "tokens"])
BUDGETS = st.sets(st.integers(1, 60), min_size=2, max_size=5)


def refused(error: InputError) -> list[str]:
    """Where not even one row fits, that is said aloud; the laws below hold for it as for no row."""
    if "must have room for one row" not in str(error):
        raise error
    return []


def picks_at(scores: pl.DataFrame, unit: str, budgets: set[int], **spec) -> dict[int, list[str]]:
    """The picks at each budget that the pool can fill, smallest first."""
    have = spent(scores, scores["id"].to_list(), unit)
    found = {}
    for budget in sorted({min(b, have) for b in budgets} - {0}):
        try:
            found[budget] = run(scores, **{f"budget_{unit}": budget}, **spec)
        except InputError as e:
            found[budget] = refused(e)
    return found


@settings(deadline=None)
@given(ROWS, RULES, UNITS, CAPS, BUDGETS)
def test_no_budget_or_cap_is_exceeded_and_smaller_budgets_begin_larger_ones(rows, rule, unit, caps, budgets):
    scores = table(rows)
    before: list[str] = []
    for budget, picked in picks_at(scores, unit, budgets, rule=rule, caps=caps).items():
        assert len(set(picked)) == len(picked)
        assert spent(scores, picked, unit) <= budget
        assert picked[: len(before)] == before
        for source in SOURCES:
            cap = caps.get(source, caps.get("*", {}))
            if "share" in cap:
                assert spent(scores, picked, unit, source) <= Fraction(str(cap["share"])) * budget
            elif cap:
                (of, most), *_ = cap.items()
                assert spent(scores, picked, of, source) <= most
        before = picked


@settings(deadline=None)
@given(ROWS, RULES, UNITS, CAPS, BUDGETS, st.randoms(use_true_random=False))
def test_order_of_the_rows_changes_nothing(rows, rule, unit, caps, budgets, random):
    scores = table(rows)
    order = list(range(scores.height))
    random.shuffle(order)
    spec = {"rule": rule, "caps": caps}
    assert picks_at(scores[order], unit, budgets, **spec) == picks_at(scores, unit, budgets, **spec)


@settings(deadline=None)
@given(ROWS, UNITS, BUDGETS)
def test_top_takes_the_best_that_fit(rows, unit, budgets):
    """Brute force: sort in Python, ties by id, stop at the first row that does not fit."""
    scores = table(rows)
    order = sorted(scores.iter_rows(named=True), key=lambda r: (-r["score"], r["id"]))
    for budget, picked in picks_at(scores, unit, budgets, rule="top").items():
        want, used = [], 0
        for row in order:
            used += 1 if unit == "rows" else row["tokens"]
            if used > budget:
                break
            want.append(row["id"])
        assert picked == want


@settings(deadline=None)
@given(ROWS, UNITS, BUDGETS, st.integers(5, 100))
def test_shares_fill_the_budget_as_a_cap_of_that_size_would(rows, unit, budgets, percent):
    """At a budget the greedy pick under shares takes as many rows as one under the same caps in absolute numbers."""
    if unit == "tokens":
        rows = [(s, source, 1) for s, source, _ in rows]  # rows of one size: nothing can fail to fit
    scores = table(rows)
    shares = picks_at(scores, unit, budgets, rule="top", caps={"*": {"share": percent / 100}})
    for budget, picked in shares.items():
        most = percent * budget // 100
        want = sum(min(most, spent(scores, scores["id"].to_list(), unit, s)) for s in SOURCES)
        assert len(picked) == min(budget, want)


def test_share_cap_by_hand():
    """Four web rows are best; half of the budget is theirs.

    Budget 1: no web row (half of 1 is less than a row), so the book. Budget 2: and the first web row. Budget 3: the
    next book. Budget 4: the second web row.
    """
    scores = table([(9, "web", 1), (8, "web", 1), (7, "web", 1), (6, "web", 1), (2, "books", 1), (1, "books", 1)])
    assert run(scores, budget_rows=4, caps={"web": {"share": 0.5}}) == ["a04", "a00", "a05", "a01"]


def test_shares_are_exact_decimals():
    """0.29 of 100 rows is 29, though 29 / 0.29 is 100.00000000000001 in floats."""
    scores = table([(2, "web", 1)] * 50 + [(1, "books", 1)] * 80)
    picked = run(scores, budget_rows=100, caps={"web": {"share": 0.29}})
    assert spent(scores, picked, "rows", "web") == 29


def test_token_budget_stops_at_the_first_row_that_does_not_fit():
    scores = table([(3, "web", 4), (2, "web", 9), (1, "web", 1)])
    assert run(scores, budget_tokens=12) == ["a00"]
    assert run(scores, budget_tokens=13) == ["a00", "a01"]


def test_threshold_takes_all_above_best_first_and_none_where_none_is():
    scores = table([(0.1, "web", 1), (0.9, "web", 1), (0.5, "web", 1)])
    assert run(scores, rule="threshold", threshold=0.5) == ["a01", "a02"]
    assert run(scores, rule="threshold", threshold=0.95) == []
    assert run(scores, rule="threshold", threshold=0.0, budget_rows=1) == ["a01"]


def test_pick_table_says_why():
    scores = table([(0.1, "web", 1), (0.9, "web", 1)])
    picked = pick(scores, Pick(budget_rows=2), scale="rank", seed=0)
    assert picked.schema == {"id": pl.String, "score": pl.Float64, "key": pl.Float64, "rank": pl.Int64}
    assert picked.rows() == [("a01", 0.9, 0.9, 0), ("a00", 0.1, 0.1, 1)]


DRAWS = 20_000


@pytest.mark.parametrize("scale", ["log_weight", "probability"])
def test_gumbel_pairs_come_as_often_as_their_closed_form(scale):
    """Weights .6, .3, .1: the chance of (i, j) in order is p_i p_j / (1 - p_i); within 4 standard errors.

    Each draw is three rows with ids of their own in one large table: the noise is keyed by id.
    """
    p = np.array([0.6, 0.3, 0.1])
    score = np.tile(np.log(p) if scale == "log_weight" else p, DRAWS)
    scores = pl.DataFrame({"id": [f"{i // 3}-{i % 3}" for i in range(3 * DRAWS)], "score": score}).with_columns(
        source=pl.lit("web"), tokens=pl.lit(1)
    )
    spec = Pick(rule="gumbel", budget_rows=3 * DRAWS)
    key = pick(scores, spec, scale=scale, seed=11).sort(
        pl.col("id").str.split("-").list.eval(pl.element().cast(pl.Int32))
    )
    order = np.argsort(-key["key"].to_numpy().reshape(DRAWS, 3), axis=1)[:, :2]
    for i, j in permutations(range(3), 2):
        chance = p[i] * p[j] / (1 - p[i])
        seen = ((order[:, 0] == i) & (order[:, 1] == j)).mean()
        assert abs(seen - chance) < 4 * np.sqrt(chance * (1 - chance) / DRAWS), (i, j, seen, chance)


def test_gumbel_temperature_and_seed():
    rng = np.random.default_rng(0)
    scores = table([(float(s), "web", 1) for s in rng.normal(size=60)])
    top = run(scores, budget_rows=20)
    cold = run(scores, rule="gumbel", budget_rows=20, temperature=1e-6)
    assert cold == top  # noise of order 1 cannot swap differences of order 1e-2 / 1e-6
    shifted = scores.with_columns(pl.col("score") + 5)
    assert run(shifted, rule="gumbel", budget_rows=20) == run(scores, rule="gumbel", budget_rows=20)
    assert len({tuple(run(scores, rule="gumbel", budget_rows=20, seed=s)) for s in range(5)}) == 5


@pytest.mark.parametrize(
    ("changed", "spec", "message"),
    [
        ({}, {"budget_rows": 4}, "pick.budget_rows must be at most 3, the rows to choose from; got 4"),
        ({}, {"budget_tokens": 99}, "pick.budget_tokens must be at most 6, the tokens to choose from; got 99"),
        ({}, {"budget_tokens": 1}, "pick must have room for one row; the first has 3 tokens"),
        ({"score": pl.lit(float("nan"))}, {"budget_rows": 1}, "scores must be finite"),
        ({"id": pl.lit("same")}, {"budget_rows": 1}, "scores must have one row per id, 1; got 3"),
        ({"tokens": pl.lit(-1)}, {"budget_rows": 1}, "how many tokens"),
        (
            {},
            {"rule": "threshold", "threshold": 0, "caps": {"web": {"share": 0.5}}},
            "pick.caps.web.share needs a budget",
        ),
    ],
)
def test_what_cannot_be_done_is_said(changed, spec, message):
    scores = table([(1, "web", 1), (2, "web", 2), (3, "web", 3)]).with_columns(**changed)
    with pytest.raises(InputError, match=message):
        run(scores, **spec)


def test_gumbel_is_refused_on_ranks_and_missing_columns_are_named():
    scores = table([(1, "web", 1)])
    with pytest.raises(InputError, match=r"pick\.rule 'gumbel' needs scores that are weights; got 'rank'"):
        run(scores, scale="rank", rule="gumbel", budget_rows=1)
    with pytest.raises(InputError, match=r"got \"no \['tokens'\]\""):
        run(scores.drop("tokens"), budget_rows=1)
