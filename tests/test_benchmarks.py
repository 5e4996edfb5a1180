"""The benchmark runs, and its last line says what it promises; the exponent is right where the answer is known."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import dedup, evidence, evidence_corpus, evidence_table, pipeline, stages  # noqa: E402

PROMISED = {
    "rows_per_s",
    "ingest_mb_per_s_per_core",
    "dedup_speedup_vs_datatrove",
    "dedup_kept_jaccard",
    "cost_exponent",
    "peak_gib",
}
STAGES = ["ingest", "clean", "dedup", "embed fit", "embed", "pick", "report", "mix+write"]


@pytest.mark.parametrize(
    ("cost", "low", "high"),
    [
        (lambda n: 3e-3 * n + 7, 0.999, 1.001),  # a + b n, less a + b m: b (n - m)
        (lambda n: 2e-6 * n**2 + 7, 1.6, 1.7),  # b (n - m)(n + m): from end to end 1 + log(44/14) / log(36/6) = 1.64
        (lambda n: 2e-4 * n**1.5 + 7, 1.25, 1.35),
    ],
    ids=["linear", "quadratic", "between"],
)
def test_exponent_of_known_costs(cost, low, high):
    sizes = [4_000, 10_000, 20_000, 40_000]
    assert low <= pipeline.exponent([(n, cost(n)) for n in sizes]) <= high


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_slope_of_powers(power):
    assert pipeline.slope([(n, 3 * n**power) for n in (10, 20, 50)]) == pytest.approx(power)


def test_the_oracle_finds_planted_copies():
    """Ten different texts; three are copied with the last of 60 words changed, so 55 of 57 shingles are common."""
    words = [[f"w{i}x{j}" for j in range(60)] for i in range(10)]
    texts = [" ".join(w) for w in words] + [" ".join([*w[:-1], "other"]) for w in words[:3]]
    rows = [{"source": "a", "file": "f", "offset": i, "text": t, "id": f"{i:032x}"} for i, t in enumerate(texts)]
    kept = dedup.oracle(rows)
    assert len(kept) == 10
    assert {i % 10 for i in kept} == set(range(10))


def test_kept_jaccard():
    assert dedup.kept_jaccard([1, 2, 3], [2, 3, 4]) == 0.5  # two of four


@pytest.mark.slow
@pytest.mark.xdist_group("benchmarks")
def test_smallest_run_prints_every_stage_and_promised_figure():
    command = [sys.executable, "-m", "benchmarks.pipeline", "--rows", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) >= PROMISED
    assert figures["dedup_speedup_vs_datatrove"] is None  # left out at this size
    numbers = {k: v for k, v in figures.items() if isinstance(v, float)}
    assert set(numbers) >= PROMISED - {"dedup_speedup_vs_datatrove"}
    assert all(map(math.isfinite, numbers.values()))
    assert figures["dedup_kept_jaccard"] >= 0.98
    assert 0.05 < figures["peak_gib"] < 4
    for stage in [*STAGES, *(f"score {s}" for s in stages.SELECTORS)]:
        assert len(re.findall(rf"^{re.escape(stage)} +\d", done.stdout, re.M)) >= 3, stage  # one line per pool size


def test_every_selector_is_measured():
    files = {p.stem for p in (ROOT / "mixtura/selectors").glob("[!_]*.py")}
    assert {*stages.SELECTORS, *stages.WITH_A_MODEL} == files


def test_every_target_of_the_evidence_has_a_source_to_take_by_hand():
    assert set(evidence.BY_HAND) == set(evidence_corpus.TARGETS)
    assert set(evidence.BY_HAND.values()) <= set(evidence_corpus.POOL_ROWS)


def test_a_cell_of_another_protocol_is_run_again(tmp_path):
    out = tmp_path / "cell.json"
    asked = evidence.Protocol(range(3), ("uniform", "nudge"), 40, evidence.SMALL)
    assert not evidence._is_done(out, asked)
    out.write_text(json.dumps({"arms": {}, "protocol": asked.facts}))
    assert evidence._is_done(out, asked)
    twice = evidence.SMALL.model_copy(update={"orders": 2})
    others = {"seeds": range(1, 4), "arms": (*asked.arms, "source"), "heldout": 41, "spec": twice}
    assert not any(evidence._is_done(out, replace(asked, **{k: v})) for k, v in others.items())
    out.write_text(json.dumps({"arms": {}}))
    assert not evidence._is_done(out, asked), "of a time when cells did not say"


def test_a_folder_of_other_corpora_or_another_model_is_not_gone_on_with(tmp_path):
    evidence.claim(tmp_path / "a", evidence.SMALL)
    evidence.claim(tmp_path / "a", evidence.SMALL.model_copy(update={"orders": 3}))
    with pytest.raises(SystemExit, match="Name another folder"):
        evidence.claim(tmp_path / "a", evidence.LARGE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/reference.jsonl").write_text("")
    with pytest.raises(SystemExit, match="nothing that says"):
        evidence.claim(tmp_path / "b", evidence.SMALL)


def of_stage(bits: float, p: float, **better_than: float) -> dict[str, Any]:
    gains = {n: {"mean": g, "low": g - 0.1, "high": g + 0.1, "p": p} for n, g in better_than.items()}
    return {"bits_per_byte": bits, "better_than": gains}


def cell_of(target: str, dsir: float, p: tuple[float, float]) -> dict[str, Any]:
    """Nearest is the better rival after the warm-up; dsir, unless its bits are many, after fine-tuning."""
    gains = {"warmed": {"nearest": 0.5, "dsir": 1.0, "uniform": 3.0}, "tuned": {"nearest": 2.0, "dsir": -0.25}}
    ours = {stage: of_stage(1.0, p[i], **gains[stage]) for i, stage in enumerate(gains)}
    kept = of_stage(5.0, 1)
    facts = [{"rows": 2, "coverage": 0.25}, {"rows": 4, "coverage": 0.5}]
    arms = {
        "nudge": {**ours, "kept": kept, "facts": facts},
        "nearest": {"warmed": of_stage(1.5, 1), "tuned": of_stage(3.0, 1), "kept": kept, "facts": []},
        "dsir": {"warmed": of_stage(2.0, 1), "tuned": of_stage(dsir, 1), "kept": kept, "facts": []},
    }
    run = {"seeds": [1, 2], "orders": 1, "heldout_rows": 7}
    return {"target": target, "budget": 9, "tokens": 8, "arms": arms, **run}


def test_the_evidences_table_sets_the_rule_against_the_better_rival_and_corrects_for_all_cells():
    """By Holm 0.01, 0.02, 0.03 and 0.04 are 0.04 and thrice 0.06: of one cell alone they would be less."""
    cells = [cell_of("sums", 0.75, (0.01, 0.04)), cell_of("computing", 9.0, (0.02, 0.03))]
    said = evidence_table.render(cells).splitlines()
    assert said[2:4] == [
        "| *computing*, 8 | `nearest` | +0.500 [+0.400, +0.600]; 0.06 | `nearest` | +2.000 [+1.900, +2.100]; 0.06 "
        "| +3.000 [+2.900, +3.100] |",
        "| *sums*, 8 | `nearest` | +0.500 [+0.400, +0.600]; 0.04 | `dsir` | -0.250 [-0.350, -0.150]; 0.06 "
        "| +3.000 [+2.900, +3.100] |",
    ]
    assert said.count("| nudge | 1.0000 | +3.0000 [+2.9000, +3.1000] | 1.0000 | 5.0000 | 3 | 0.38 |  |") == 2
    alone = cells[0] | {"arms": {name: cells[0]["arms"][name] for name in ("nearest", "nudge")}}
    assert "better of the two" not in evidence_table.render([alone]), "one rival is no two"
    with pytest.raises(ValueError, match="same seeds"):
        evidence_table.render([cells[0], cells[1] | {"seeds": [3, 4]}])
