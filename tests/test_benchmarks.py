"""The benchmark runs, and its last line says what it promises; the exponent is right where the answer is known."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import dedup, evidence, evidence_corpus, pipeline, stages  # noqa: E402

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
    arms = {name: {} for name in (*evidence.ARMS, "source", evidence.BASE)}
    assert not evidence._is_done(out, range(3), 1)
    out.write_text(json.dumps({"seeds": [0, 1, 2], "arms": arms}))
    assert evidence._is_done(out, range(3), 1)
    assert not evidence._is_done(out, range(1, 4), 1)
    assert not evidence._is_done(out, range(3), 2)
    out.write_text(json.dumps({"seeds": [0, 1, 2], "arms": {k: {} for k in arms if k != "source"}}))
    assert not evidence._is_done(out, range(3), 1)
