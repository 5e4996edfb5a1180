"""What a probe measured, told by card, report and terminal: no gain where the interval includes 0."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mixtura.pipeline import evidence
from mixtura.pipeline.card import render_card
from mixtura.pipeline.report import gains, render_report
from mixtura.pipeline.report.plots import Mark
from mixtura.pipeline.summary import ArmFacts, EvidenceFacts, Summary

ARMS = (
    ArmFacts("no warm-up", 2.5, 2.3, 2.0),
    ArmFacts("uniform", 2.4, 2.28, 2.01, rows=310.4, coverage=0.31),
    ArmFacts("nudge", 2.348, 2.25, 2.02, (0.052, 0.031, 0.074), (0.03, -0.002, 0.061), 290.0, 0.625),
    ArmFacts("nearest", 2.396, 2.281, 2.03, (0.004, -0.01, 0.02), (-0.001, -0.02, 0.02), 250.0, 0.5),
    ArmFacts("dsir", 2.43, 2.3, 2.05, (-0.03, -0.05, -0.01), None, 400.0, None),
)
FACTS = EvidenceFacts("tiny, 1.3 M parameters", 40_000, 3, 200, 100, ARMS)


def seen(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_verdict_beats_loses_or_shows_no_difference():
    assert evidence.verdict(FACTS) == (
        "At 40,000 tokens and over 3 seeds, "
        "picks of nudge beat uniform ones by 0.052 bits per byte (95 % interval 0.031 to 0.074); "
        "for picks of nearest no difference from uniform ones is shown (0.004, 95 % interval −0.010 to 0.020); "
        "picks of dsir are worse than uniform ones by 0.030 bits per byte (95 % interval −0.050 to −0.010)."
    )
    tuned = evidence.tuned_verdict(FACTS)
    assert tuned.startswith("After fine-tuning on 100 target rows as well, for picks of nudge no difference")
    assert "dsir" not in tuned


def test_several_orders_are_told_and_a_file_without_them_is_of_one():
    assert "equally many tokens, and its loss" in evidence.method(FACTS)
    thrice = dataclasses.replace(FACTS, orders=3)
    assert "equally many tokens, in each of 3 orders, and its loss" in evidence.method(thrice)
    before = dataclasses.asdict(FACTS)
    del before["orders"]
    assert TypeAdapter(EvidenceFacts).validate_python(before) == FACTS


def test_what_was_not_compared_is_not_judged():
    alone = dataclasses.replace(FACTS, arms=ARMS[:2])
    assert evidence.verdict(alone) == "No selection's picks were compared with uniform ones."
    assert evidence.tuned_verdict(alone) == ""
    assert gains.told(alone, {})["plots"] == {}


@pytest.mark.parametrize(
    ("x", "said"),
    [(0.0524, "0.052"), (-0.0524, "−0.052"), (0.0, "0.000"), (-0.0, "0.000"), (0.0003, "0.0003"), (-2e-6, "−2e-06")],
)
def test_bits_in_three_decimals_and_never_rounded_to_none(x, said):
    assert evidence.bits(x) == said


@given(st.tuples(*[st.floats(-1, 1)] * 3).map(sorted))
def test_an_interval_that_includes_0_is_never_called_a_gain_or_a_loss(ends):
    low, mean, high = ends
    said = evidence.verdict(dataclasses.replace(FACTS, arms=(ArmFacts("a", 2, 2, 2, (mean, low, high)),)))
    assert ("no difference" in said) == (low <= 0 <= high)
    assert ("beat" in said) == (low > 0)
    assert ("worse" in said) == (high < 0)


def test_the_card_has_a_section_and_is_otherwise_the_same(made):
    without = render_card(made.summary)
    assert "Does it help?" not in without
    card = render_card(dataclasses.replace(made.summary, evidence=FACTS))
    start, end = card.index("## Does it help?"), card.index("## What was lost, and why")
    assert card[:start] + card[end:] == without
    section = card[start:end]
    assert "nudge beat uniform ones by 0.052 bits per byte" in section
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(ARMS)
    cells = [c.strip() for c in rows[4].split("|")[1:-1]]
    assert cells == [
        "nudge",
        "2.348",
        "0.052 (0.031 to 0.074)",
        "2.250",
        "0.030 (−0.002 to 0.061)",
        "2.020",
        "290",
        "62.5 %",
    ]
    assert "3 seeds give a coarse one" in section


def test_a_name_cannot_break_out_of_card_or_page(made):
    nasty = "<script>alert(1)</script> | *a*\n# b"
    facts = dataclasses.replace(FACTS, model=nasty, arms=(dataclasses.replace(ARMS[2], name=nasty),))
    summary = dataclasses.replace(made.summary, evidence=facts)
    card, page = render_card(summary), render_report(summary, made.exhibits)
    assert "<script>" not in card.replace("\\<", "")
    assert card.count("\n## ") == render_card(made.summary).count("\n## ") + 1
    assert "<script>alert" not in page


def test_the_page_has_the_section_only_where_something_was_measured(made):
    assert "Does it help" not in render_report(made.summary, made.exhibits)
    html = render_report(dataclasses.replace(made.summary, evidence=FACTS), made.exhibits)
    section = html.split('<section id="evidence">')[1].split("</section>")[0]
    words = seen(section)
    assert evidence.verdict(FACTS) in words
    assert evidence.tuned_verdict(FACTS) in words
    for arm in ARMS:
        assert f"{arm.name} {arm.warmed:.3f} " in words
    # five intervals: three after the warm-up, two after fine-tuning, in the colours of the selections
    assert re.findall(r'class="stem (\w+)"', section) == ["s0", "many", "many", "s0", "many"]


def test_intervals_stand_where_arithmetic_puts_them():
    # ends -0.05 and 0.074: the axis has a twentieth of 0.124 more on both sides
    edge = 0.05 * 0.124
    low, width = -0.05 - edge, 0.124 + 2 * edge
    drawn = gains.told(FACTS, {"nudge": Mark("nudge", "nudge", "s0")})["plots"]["After the warm-up"]
    places = re.findall(
        r'class="stem (\w+)" style="left:([\d.]+)%;width:([\d.]+)%"></i><i class="dot \w+" style="left:([\d.]+)%', drawn
    )
    assert [p[0] for p in places] == ["s0", "many", "many"]
    for (_, *found), (mean, start, end) in zip(places, [a.gain for a in ARMS if a.gain], strict=True):
        want = [100 * (start - low) / width, 100 * (end - start) / width, 100 * (mean - low) / width]
        assert [float(x) for x in found] == pytest.approx(want, abs=0.006)
    zeros = {float(x) for x in re.findall(r'class="level" style="left:([\d.]+)%"', drawn)}
    assert list(zeros) == pytest.approx([100 * -low / width], abs=0.006)


def test_a_summary_with_evidence_survives_json(made):
    summary = dataclasses.replace(made.summary, evidence=FACTS)
    assert Summary.from_json(summary.to_json()) == summary
