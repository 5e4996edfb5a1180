"""Mixing: weights exact, overlaps counted once, splits that never divide a group, order by hash."""

from __future__ import annotations

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.mix import joined_groups, mix, split_of
from mixtura.recipe import Mix, Splits


def ids(n: int, salt: str = "") -> list[str]:
    return [hashlib.md5(f"{salt}{i}".encode()).hexdigest() for i in range(n)]


def picks(names: list[str]) -> pl.DataFrame:
    n = len(names)
    return pl.DataFrame(
        {"id": names, "score": [float(-i) for i in range(n)], "rank": range(n)}, schema_overrides={"rank": pl.Int64}
    )


def rows(names: list[str], tokens: int | list[int] = 10, groups: list[str | None] | None = None) -> pl.DataFrame:
    size = tokens if isinstance(tokens, list) else [tokens] * len(names)
    return pl.DataFrame(
        {"id": names, "tokens": size, "split_group": groups or [None] * len(names)},
        schema={"id": pl.String, "tokens": pl.Int32, "split_group": pl.String},
    )


def test_a_row_of_two_selections_counts_once_and_belongs_to_the_first():
    a = ids(6)
    mixed = mix({"one": picks(a[:4]), "two": picks(a[2:])}, rows(a), Mix(splits=Splits(validation=0)), seed=0)
    assert mixed.height == 6
    owner = dict(mixed.select("id", "selection").iter_rows())
    assert [owner[i] for i in a] == ["one"] * 4 + ["two"] * 2


def test_weights_by_rows_are_exact_and_take_the_best():
    """90 and 30 rows at 2:1. 30 rows of `two` allow 60 of `one`; a budget of 30 gives 20 and 10."""
    one, two = ids(90, "a"), ids(30, "b")
    spec = Mix(weights={"one": 2, "two": 1}, splits=Splits(validation=0))
    full = mix({"one": picks(one), "two": picks(two)}, rows(one + two), spec, seed=0)
    assert dict(full.group_by("selection").len().iter_rows()) == {"one": 60, "two": 30}
    assert set(full.filter(pl.col("selection") == "one")["id"]) == set(one[:60])
    small = mix(
        {"one": picks(one), "two": picks(two)}, rows(one + two), spec.model_copy(update={"budget_rows": 30}), seed=0
    )
    assert dict(small.group_by("selection").len().iter_rows()) == {"one": 20, "two": 10}


def test_weights_by_tokens_count_tokens():
    """Rows of 30 and of 10 tokens, equal weights, 600 tokens: 10 of the long, 30 of the short."""
    one, two = ids(50, "a"), ids(50, "b")
    spec = Mix(weights={"one": 1, "two": 1}, unit="tokens", budget_tokens=600, splits=Splits(validation=0))
    mixed = mix({"one": picks(one), "two": picks(two)}, rows(one + two, [30] * 50 + [10] * 50), spec, seed=0)
    assert dict(mixed.group_by("selection").len().iter_rows()) == {"one": 10, "two": 30}


def test_weights_that_cannot_reach_the_budget_are_refused_with_the_largest_that_can():
    one, two = ids(10, "a"), ids(10, "b")
    spec = Mix(weights={"one": 3, "two": 1}, budget_rows=20)
    with pytest.raises(
        InputError, match=r"mix\.budget_rows must be at most 13 with these weights: selection 'one' picked 10"
    ):
        mix({"one": picks(one), "two": picks(two)}, rows(one + two), spec, seed=0)


@given(st.integers(1, 300), st.integers(0, 2**31), st.floats(0, 0.5), st.floats(0, 0.4), st.integers(1, 40))
def test_a_group_is_never_divided(n, seed, validation, test, groups):
    names = pl.Series(ids(n, str(seed)))
    group = pl.Series([f"g{i % groups}" if i % 3 else None for i in range(n)], dtype=pl.String)
    split = split_of(names, group, Splits(validation=validation, test=test), seed=seed)
    frame = pl.DataFrame({"group": group, "split": split}).drop_nulls()
    assert (frame.group_by("group").agg(pl.col("split").n_unique())["split"] == 1).all()
    if validation == 0:
        assert "validation" not in split


def test_shares_come_out_within_four_standard_errors():
    n, share = 20_000, 0.1
    names = pl.Series(ids(n))
    split = split_of(names, pl.Series([None] * n, dtype=pl.String), Splits(validation=share, test=share), seed=3)
    error = 4 * (n * share * (1 - share)) ** 0.5
    for name in ("validation", "test"):
        assert abs(split.count(name) - n * share) < error


def test_a_growing_mixture_moves_no_row():
    names = ids(2_000)
    none = pl.Series([None] * 2_000, dtype=pl.String)
    spec = Splits(validation=0.05, test=0.05)
    whole = split_of(pl.Series(names), none, spec, seed=1)
    part = split_of(pl.Series(names[:1_500]), none[:1_500], spec, seed=1)
    assert whole[:1_500] == part


def test_a_small_mixture_still_gets_its_splits():
    names = pl.Series(ids(8))
    split = split_of(names, pl.Series([None] * 8, dtype=pl.String), Splits(validation=0.001, test=0.001), seed=0)
    assert (split.count("validation"), split.count("test")) == (1, 1)


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
def test_the_order_of_what_came_in_changes_nothing(random, seed):
    a = ids(60)
    shuffled = rows(a, [i + 1 for i in range(60)]).sample(fraction=1, shuffle=True, seed=random.randint(0, 9999))
    straight = mix({"x": picks(a)}, rows(a, [i + 1 for i in range(60)]), Mix(), seed=seed)
    assert straight.equals(mix({"x": picks(a).reverse()}, shuffled, Mix(), seed=seed))


def test_seeds_differ():
    a = ids(50)
    one, two = (mix({"x": picks(a)}, rows(a), Mix(), seed=s)["id"].to_list() for s in (1, 2))
    assert one != two
    assert sorted(one) == sorted(two)


def test_a_group_with_a_row_for_evaluation_is_tested_on_whole():
    ids = [f"r{i}" for i in range(40)]
    picks = {"s": pl.DataFrame({"id": ids, "score": [0.0] * 40, "rank": range(40)})}
    groups = [f"g{i // 2}" if i < 20 else None for i in range(40)]
    rows = pl.DataFrame(
        {"id": ids, "tokens": [1] * 40, "split_group": groups, "evaluate_only": [i in (3, 30) for i in range(40)]}
    )
    mixed = mix(picks, rows, Mix(splits=Splits(validation=0.2)), seed=1)
    split = dict(mixed.select("id", "split").iter_rows())
    assert {i for i in ids if split[i] == "test"} == {"r2", "r3", "r30"}
    without = mix(picks, rows.drop("evaluate_only"), Mix(splits=Splits(validation=0.2)), seed=1)
    rest = dict(without.select("id", "split").iter_rows())
    assert all(split[i] == rest[i] for i in ids if split[i] != "test")


@given(st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6))), max_size=25))
def test_rows_that_ask_the_same_are_of_one_group(pairs):
    """Against a plain closure: join until nothing changes."""
    rows = pl.DataFrame(
        {"id": [f"r{i}" for i in range(len(pairs))], "split_group": [f"g{g}" if g < 5 else None for g, _ in pairs],
         "asked": [a for _, a in pairs]},
        schema={"id": pl.String, "split_group": pl.String, "asked": pl.UInt64},
    )  # fmt: skip
    want = [g or i for i, g in rows.select("id", "split_group").iter_rows()]
    asked = rows["asked"].to_list()
    names = list(want)
    for _ in pairs:
        for i in range(len(pairs)):
            for j in range(len(pairs)):
                if names[i] == names[j] or (asked[i] is not None and asked[i] == asked[j]):
                    want[i] = want[j] = min(want[i], want[j])
    assert joined_groups(rows).to_list() == want
