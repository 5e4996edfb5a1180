"""The page in Debian's Chromium: silent, offline, and alive."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest

from mixtura.pipeline.report import ShownRow, render_report
from mixtura.pipeline.summary import ArmFacts, EvidenceFacts

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: apt-get install chromium to test the report")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: install the extra 'test'")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )  # a container's root has no sandbox
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(made, tmp_path_factory):
    texts = sys.modules[type(made).__module__].HOSTILE
    rows = [ShownRow(f"{i:032x}", "tldr", float(i), t, True, {"why": t[:80]}) for i, t in enumerate(texts)]
    shown = {name: {"best": rows, "worst": rows} for name in ("nudge", "uniform")}
    path = tmp_path_factory.mktemp("report") / "report.html"
    arms = tuple(ArmFacts(n, 2.4, 2.3, 2.0, (0.02, -0.01, 0.05), rows=300, coverage=0.5) for n in ("nudge", "a" * 60))
    summary = dataclasses.replace(made.summary, evidence=EvidenceFacts("tiny", 40_000, 3, 200, 100, arms))
    path.write_text(render_report(summary, dataclasses.replace(made.exhibits, rows=shown)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page_file):
    """A function that opens the report and collects whatever it says or asks for."""
    heard: list[str] = []

    def open_at(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda m: heard.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: heard.append(f"error: {e}"))
        page.on("dialog", lambda d: heard.append(f"dialog: {d.message}"))
        page.on(
            "request", lambda r: None if r.url.startswith(("file:", "data:")) else heard.append(f"request: {r.url}")
        )
        page.goto(page_file.as_uri())
        return page

    yield open_at
    assert heard == []


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_it_fits_the_screen_and_keeps_its_title(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "med-mix · Mixtura report"


def test_it_has_a_dark_scheme(opened):
    shade = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(scheme="light").evaluate(shade), opened(scheme="dark").evaluate(shade)
    assert sum(json.loads(dark[3:].replace("(", "[").replace(")", "]"))) < 150
    assert sum(json.loads(light[3:].replace("(", "[").replace(")", "]"))) > 650


def test_the_pointer_reads_every_kind_of_row_on_the_map(opened):
    page = opened()
    points = page.evaluate("JSON.parse(document.getElementById('points').textContent)")
    kinds = {p[2]: i for i, p in enumerate(points)}
    assert len(kinds) >= 3
    for i in kinds.values():
        page.locator("#map > *").nth(i).hover(force=True)
        at = page.locator("#tip .code").inner_text()
        near = next(p for p in points if p[4] == at)
        assert abs(near[0] - points[i][0]) + abs(near[1] - points[i][1]) <= 4
        assert page.locator("#tip p").last.text_content() == near[5]


def test_a_key_hides_its_rows_and_shows_them_again(opened):
    page = opened()
    key = page.locator("#keys button").filter(has_text="Pool")
    drawn = "[...document.querySelectorAll('#map > .pool')].filter(c => c.style.display !== 'none').length"
    before = page.evaluate(drawn)
    key.click()
    assert (page.evaluate(drawn), key.get_attribute("aria-pressed")) == (0, "false")
    key.click()
    assert (page.evaluate(drawn), key.get_attribute("aria-pressed")) == (before, "true")
    assert before > 100


def test_every_dot_of_price_against_distance_is_drawn_round_inside_its_frame(opened):
    page = opened(800)
    frame = page.locator(".frame:has(.dots) .plot").bounding_box()
    path = "[...document.querySelectorAll('.dots > path')]"
    boxes = page.evaluate(
        f"{path}.map(p => {{ const b = p.getBoundingClientRect(); return [b.x + b.width / 2, b.y]; }})"
    )
    assert len(boxes) > 1_000
    assert all(frame["x"] <= x <= frame["x"] + frame["width"] for x, _ in boxes)
    assert all(frame["y"] - 4 <= y <= frame["y"] + frame["height"] for _, y in boxes)
    strokes = page.evaluate(f"[...new Set({path}.map(p => getComputedStyle(p).strokeLinecap))]")
    assert strokes == ["round"]
