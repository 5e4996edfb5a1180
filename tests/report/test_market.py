"""Price against distance: dots by arithmetic, a sample that no cut of the pool changes, and the page that shows it."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mixtura.pipeline.report import market, render_report
from mixtura.pipeline.report.plots import TALL, WIDE, Mark
from mixtura.stages import exhibit

MARK = Mark("nudge", "nudge", "s0")


def dots(html: str, css: str) -> list[tuple[float, float]]:
    """Places of the dots of one kind, in user units."""
    inside = re.findall(rf'<g class="dots {css}">(.*?)</g>', html)
    return [(float(x), float(y)) for g in inside for x, y in re.findall(r'd="M([\d.]+) ([\d.]+)h0"', g)]


def priced(distance: list[float], price: list[float], picked: list[bool]) -> pl.DataFrame:
    ids = [f"{i:04}" for i in range(len(price))]
    return pl.DataFrame({"id": ids, "price": price, "distance": distance, "picked": picked})


def test_dots_stand_where_arithmetic_puts_them():
    # distances 1..2 and prices -1..1, each axis with 3 % more on both sides
    drawn = market.draw(priced([1.0, 1.5, 2.0], [1.0, 0.0, -1.0], [True, False, False]), MARK)
    edge = 0.03 / 1.06
    assert dots(str(drawn["plot"]), "s0") == [(round(edge * WIDE), pytest.approx(edge * TALL, abs=0.05))]
    middle, last = dots(str(drawn["plot"]), "pool")
    assert middle == (WIDE / 2, TALL / 2)
    assert last == (round((1 - edge) * WIDE), pytest.approx((1 - edge) * TALL, abs=0.05))
    assert f'class="zero" d="M0 {TALL / 2:.1f}H{WIDE}"' in drawn["plot"]
    assert (drawn["picked"], drawn["refused"]) == (1, 2)


@pytest.mark.parametrize("n", [1, 5])
def test_rows_that_are_all_alike_are_drawn_inside(n):
    drawn = str(market.draw(priced([0.0] * n, [0.5] * n, [False] * n), MARK)["plot"])
    assert len(dots(drawn, "pool")) == n
    assert all(0 <= x <= WIDE and 0 <= y <= TALL for x, y in dots(drawn, "pool"))
    assert dots(drawn, "s0") == []


def selection(folder, parts: list[pl.DataFrame]) -> SimpleNamespace:
    """As much of `Picked` as the exhibit reads."""
    scores = []
    for i, part in enumerate(parts):
        path = folder / f"{len(parts)}-{i}.parquet"
        part.write_parquet(path)
        scores.append((None, SimpleNamespace(file=lambda _, path=path: path)))
    return SimpleNamespace(scored=SimpleNamespace(scores=scores))


def test_the_sample_is_small_and_the_same_however_the_pool_is_cut(tmp_path):
    n, rng = 9_000, np.random.default_rng(0)
    whole = priced(list(rng.random(n)), list(rng.normal(size=n)), [i % 3 == 0 for i in range(n)])
    scores = whole.drop("picked")
    cut = [scores.slice(0, 10), scores.slice(10, 5_000), scores.slice(5_010)]
    one, three = (
        exhibit._prices(selection(tmp_path, parts), whole, 7)  # pyright: ignore[reportArgumentType]
        for parts in ([scores], cut)
    )
    assert one.equals(three)
    assert dict(one["picked"].value_counts().iter_rows()) == {True: 1_000, False: 2_000}
    assert one.join(whole, on=["id", "price", "distance", "picked"]).height == one.height
    other = exhibit._prices(selection(tmp_path, [scores]), whole, 8)  # pyright: ignore[reportArgumentType]
    assert not other.equals(one)


def test_only_a_selection_with_prices_has_the_plot(made):
    html = render_report(made.summary, made.exhibits)
    assert list(made.exhibits.prices) == ["nudge"]
    assert html.count(">Price against distance</h4>") == 1
    facts = made.summary.selections[0]
    assert len(dots(html, "s0")) == facts.picked_rows
    assert len(dots(html, "pool")) == facts.pool_rows - facts.picked_rows
    assert dots(html, "s1") == []
    bare = render_report(made.summary, dataclasses.replace(made.exhibits, prices={}))
    assert "Price against distance" not in bare
