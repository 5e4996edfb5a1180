"""The report's parts against hand-made answers, and its page against hostile text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import CountError
from mixtura.pipeline import wording
from mixtura.pipeline.report import (
    Exhibits,
    ShownRow,
    nearest_target,
    plots,
    project,
    render_report,
    telling_words,
    visible,
)

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and the text inside each element of class `text`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") or ""))
            if self.open[-2:-1] and self.open[-2][1] == "text" and tag == "div":
                self.texts.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if len(self.open) > 1 and self.open[-2][1] == "text" and self.open[-1][0] == "div":
            self.texts[-1] += data


@pytest.fixture(scope="module")
def hostile(made, request):
    """The made mixture with hostile texts as the rows shown."""
    texts = sys.modules[type(made).__module__].HOSTILE
    rows = [
        ShownRow(f"{i:032x}", "wikipedia", -float(i), t, i < 3, {"why": t[:80]}, nearest_text=t[:300])
        for i, t in enumerate(texts)
    ]
    turns = ShownRow(
        "ff" * 16, "tldr", 0.5, "", None, {}, ({"role": texts[0], "content": texts[1], "tool_calls": texts[3]},)
    )
    shown = {"nudge": {"best": rows, "borderline": [turns], "worst": rows[::-1]}, "uniform": {"best": rows}}
    return texts, render_report(made.summary, dataclasses.replace(made.exhibits, rows=shown))


def test_hostile_text_stays_text_and_the_page_asks_for_nothing(hostile):
    _, html = hostile
    page = Page(html)
    assert [a.get("type") for t, a in page.elements if t == "script"] == ["application/json", None]
    assert not {t for t, _ in page.elements} & {"iframe", "img", "object", "embed", "base", "form", "audio", "video"}
    assert not [n for _, a in page.elements for n in a if n.startswith("on") or n in ("src", "srcdoc", "action")]
    links = {a["href"] for _, a in page.elements if "href" in a}
    assert links
    assert all(h.startswith("#") or h == "data:," for h in links)
    assert not re.search(r"url\(|@import", html.split("<style>")[1].split("</style>")[0])
    assert not set(map(chr, [*range(9), 11, 12, *range(14, 32), 127])) & set(html)
    html.encode("utf-8")


def test_the_policy_names_the_digest_of_the_one_script(hostile):
    _, html = hostile
    script = html.rsplit("<script>", 1)[1].split("</script>")[0]
    policy = next(a["content"] for t, a in Page(html).elements if a.get("http-equiv"))
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


def test_rows_are_shown_whole_or_say_how_much_is_missing(hostile):
    texts, html = hostile
    shown = Page(html).texts
    for text in texts:
        seen = visible(text[:10_000]).replace("\r", "\n")
        assert any(s.startswith(seen) for s in shown), text[:40]
    longest = max(texts, key=len)
    assert re.search(rf"The first [\d,]+ of {len(longest):,} characters", html)
    assert len(html.encode()) < 1_500_000


def test_every_count_of_the_books_is_on_the_page(made):
    html = render_report(made.summary, made.exhibits)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    for stage in made.summary.stages:
        assert f"{stage.written:,} of {stage.read:,}" in words
        for reason, n in stage.dropped.items():
            assert f"{reason} {n:,} " in words
    with pytest.raises(CountError):
        render_report(dataclasses.replace(made.summary, splits={}), made.exhibits)


def test_the_points_behind_the_map_are_the_exhibit(made):
    html = render_report(made.summary, made.exhibits)
    data = json.loads(html.split('id="points">')[1].split("</script>")[0])
    assert sorted(p[4] for p in data) == sorted(made.exhibits.points["id"])
    drawn = html.split('<svg id="map"')[1].split("</svg>")[0]
    assert len(re.findall(r"<(?:circle|rect|path) ", drawn)) == len(data) == made.exhibits.points.height


def test_a_section_without_its_exhibit_says_so(made):
    html = render_report(made.summary, Exhibits())
    for sentence in (
        "there is no map",
        "likeness to the target was not measured",
        "No scores were kept",
        "No rows were kept",
    ):
        assert sentence in html


def test_no_picks_one_selection_no_target(maker):
    none = maker(300, budget=0, points=40)
    assert "No row was picked" in render_report(none.summary, none.exhibits)
    alone = maker(300, budget=30, selections=("uniform",), target=False)
    html = render_report(alone.summary, alone.exhibits)
    assert "there is nothing to move toward" in html
    assert "Every row has the same score, 0" in html


def test_the_same_bytes_from_another_process_with_another_hash_seed(tmp_path):
    script = tmp_path / "once.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('made', {str(Path(__file__).with_name('conftest.py'))!r})\n"
        "made = sys.modules['made'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(made)\n"
        "from mixtura.pipeline.report import render_report\n"
        "m = made.make(400, budget=60, points=120)\n"
        "sys.stdout.buffer.write(render_report(m.summary, m.exhibits).encode())\n"
    )
    pages = [
        subprocess.run(
            [sys.executable, script],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    assert pages[0] == pages[1]
    assert len(pages[0]) > 50_000


def test_likeness_against_a_double_loop_and_any_cut():
    rng = np.random.default_rng(3)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(1_100, 16)), rng.normal(size=(9, 16)))
    ]
    rows, target = (x.astype(np.float32) for x in unit)
    found = nearest_target(rows, target)
    want = [max(float(np.dot(r.astype(np.float64), t.astype(np.float64))) for t in target) for r in rows]
    np.testing.assert_allclose(found, want, atol=1e-6)  # f32 sums of 16 products below 1
    alone = np.concatenate([nearest_target(rows[i : i + 1], target) for i in range(0, 1_100, 37)])
    assert (alone == found[::37]).all()
    itself = nearest_target(target, target, same=True)
    assert [float(x) for x in itself] == pytest.approx(
        [max(float(a @ b) for j, b in enumerate(target) if j != i) for i, a in enumerate(target)], abs=1e-6
    )


def test_telling_words_are_the_planted_ones_at_their_rates():
    pool = pl.Series(["the river and the city"] * 96 + ["the dose and the city"] * 4)
    target = pl.Series(["the dose, the Dose and a cure"] * 18 + ["the river"] * 2)
    told = telling_words(pool, target, {"half": pl.Series(["dose", "city"]), "none": pl.Series([], dtype=pl.String)})
    assert told.columns == ["word", "pool", "target", "half"]
    assert set(told.rows()) == {("dose", 40.0, 900.0, 500.0), ("cure", 0.0, 900.0, 0.0)}
    assert telling_words(pool, pool, {}).height == 0


def test_the_score_plot_draws_each_group_to_one_hundred_percent():
    # 6 of 8 rows score 0, 2 score 1 and are picked: the pool has 75 % in the first bin, the picks all in the last
    scores = pl.DataFrame({"score": [0.0] * 6 + [1.0] * 2, "picked": [False] * 6 + [True] * 2})
    html = str(plots.score_plot(scores, plots.Mark("a", "a", "s0")))
    heights = {}
    for css, path in re.findall(r'<path class="area (\w+)" d="([^"]+)"', html):
        levels = [float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)H", path)]
        heights[css] = 1 - np.array(levels) / plots.TALL
    unit = heights["s0"][-1]  # the height of 100 %
    assert heights["pool"][[0, -1]] == pytest.approx(np.array([0.75, 0.25]) * unit, abs=1e-3)
    assert heights["pool"].sum() == pytest.approx(unit, abs=0.05)  # 60 bins, each rounded to 0.05 of 200 units
    assert heights["s0"].sum() == pytest.approx(unit, abs=0.05)
    assert len(re.findall(r"M[\d.]+ 200V", re.search(r'class="bars s0" d="([^"]+)"', html)[1])) == 1


def test_score_facts_count_refused_rows_above_the_lowest_pick():
    scores = pl.DataFrame({"score": [5.0, 4.0, 3.0, 2.0], "picked": [True, False, True, False]})
    facts = plots.score_facts(scores)
    assert facts["scored higher, yet not picked"] == "1 (25.0 %)"
    assert facts["lowest score picked"] == "3.00"


def test_axes_place_values_by_arithmetic():
    assert [plots.Axis(0, 4).at(x) for x in (0, 1, 4, 9)] == [0, 25, 100, 100]
    log = plots.Axis(1, 100, log=True)
    assert [log.at(x) for x in (0, 1, 10, 100)] == pytest.approx([0, 6, 53, 100])
    assert log.ticks() == [0, 1, 10, 100]
    assert plots.Axis(0, 0.5).ticks() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_an_axis_has_a_few_ticks_inside_it(low, width):
    axis = plots.Axis(low, low + width)
    if axis.high - axis.low < 1e-9 * abs(low):
        return  # below the resolution of f64: ticks cannot be told apart
    ticks = axis.ticks()
    assert len(ticks) <= 6
    assert all(axis.low - 1e-6 * width <= t <= axis.high + 1e-6 * width for t in ticks)


def test_the_map_keeps_planted_clusters_together_and_repeats():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 20)
    label = np.repeat([0, 1, 2], 40)
    vectors = (centres[label] + 0.05 * rng.normal(size=(120, 20))).astype(np.float32)
    placed = project(vectors, 5)
    assert placed.shape == (120, 2)
    assert placed.dtype == np.float32
    assert np.abs(placed).max() == 1
    assert (placed == project(vectors, 5)).all()
    far = np.linalg.norm(placed[:, None] - placed[None], axis=2) + 9 * np.eye(120)
    assert (label[far.argmin(axis=1)] == label).all()


@pytest.mark.parametrize(
    "vectors", [np.zeros((0, 4)), np.ones((3, 4)), np.ones((50, 4)), np.eye(5, 4), np.arange(12.0)[:, None]]
)
def test_a_map_of_almost_nothing_is_finite(vectors):
    placed = project(vectors.astype(np.float32), 0)
    assert placed.shape == (len(vectors), 2)
    assert np.isfinite(placed).all()


def test_a_map_refuses_more_points_than_it_can_place_in_seconds():
    with pytest.raises(ValueError, match="at most 1500 points; got 1501"):
        project(np.zeros((1501, 2), np.float32), 0)


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_share_is_never_rounded_to_none_or_all(part, whole):
    part = min(part, whole)
    said = wording.share(part, whole)
    assert (said == "0 %") == (part == 0)
    assert (said == "100 %") == (part == whole)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (12.345, "12.3"),
        (12345.6, "12,346"),
        (-1.5, "−1.50"),
        (1e-7, "1.00e-07"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_in_three_digits(x, said):
    assert wording.number(x) == said


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (10**13, "10.0 TB")]
)
def test_sizes_in_bytes(n, said):
    assert wording.bytes_of(n) == said
