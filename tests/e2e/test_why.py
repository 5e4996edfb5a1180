"""`mixtura why` on a mixture made by the stages: nudge's account in words, other accounts as they are."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from mixtura.cli import inspect_mixture
from mixtura.pipeline.summary import ArmFacts, EvidenceFacts
from mixtura.rows import plain_text


def rows_of(mixture: Path, selection: str) -> list[dict]:
    files = sorted(mixture.glob("*/*-of-*.parquet"))
    rows = pl.read_parquet(files, columns=["id", "selection", "score", "why"])
    return rows.filter(pl.col("selection") == selection).sort("id").to_dicts()


@pytest.fixture
def told(whole, capsys):
    """A function that returns what `why` prints of a row."""

    def tell(row: str, mixture: Path = whole.done.folder) -> str:
        inspect_mixture.why(mixture, row)
        return capsys.readouterr().out

    return tell


def test_a_pick_of_nudge_names_the_targets_it_serves_with_their_text(whole, told):
    target = pl.read_parquet(whole.done.folder / "target/chosen.parquet")
    texts = dict(zip(target["id"], plain_text(target), strict=True))
    rows = rows_of(whole.done.folder, "nudge")
    moves = set()
    for row in rows:
        why, said = json.loads(row["why"]), told(row["id"])
        assert 1 <= len(why["serves"]) <= 3
        for target_id, share in why["serves"]:
            line = next(x for x in said.splitlines() if x.endswith(target_id))
            assert line.split("“")[1].startswith(texts[target_id][:60])
            assert float(line.split("%")[0]) == pytest.approx(100 * share, abs=0.0501)  # one decimal
        words = said.replace("−", "-")
        assert float(words.split("a price of ")[1].split(",")[0]) == pytest.approx(why["price"], rel=6e-3)  # 3 digits
        assert ("the reference lacks it" in said) == (why["price"] > 0)
        assert float(words.split("a distance of ")[1].split(":")[0]) == pytest.approx(why["distance"], rel=6e-3)
        priced = row["score"] + why["penalty"]
        move = "raised" if priced > why["score_without_prices"] else "lowered"
        assert f"prices {move} its score by" in said
        assert float(words.split("serves of it, by ")[1].split(" nats")[0]) == pytest.approx(
            abs(why["phrasing"]), rel=6e-3
        )
        assert "_" not in said.split("because", 1)[1], "a column's name is not a word"
        moves.add(move)
    assert len(rows) >= 10
    assert moves == {"raised", "lowered"}, "both were seen"


def test_text_of_a_target_cannot_command_the_terminal_nor_be_markup(whole, told, tmp_path):
    mixture = shutil.copytree(whole.done.folder, tmp_path / "copy")
    row = rows_of(mixture, "nudge")[0]
    served = json.loads(row["why"])["serves"][0][0]
    nasty = "[bold red]markup[/] \x1b[2J\x07 \x9b31m " + "long " * 100
    target = pl.read_parquet(mixture / "target/chosen.parquet")
    swapped = pl.when(pl.col("id") == served).then(pl.lit(nasty)).otherwise("text").alias("text")
    target.with_columns(swapped).write_parquet(mixture / "target/chosen.parquet")
    said = told(row["id"], mixture)
    assert "[bold red]markup[/] ␛[2J␇" in said
    assert not set(said) & {"\x1b", "\x07", "\x9b"}
    assert len(max(said.splitlines(), key=len)) < 200
    shutil.rmtree(mixture / "target")
    assert f"(its text is not here)  {served}" in told(row["id"], mixture)


def test_other_accounts_stay_as_they_are(whole, told):
    rows = rows_of(whole.done.folder, "replay")
    assert len(rows) >= 10
    for row in rows[:5]:
        said = told(row["id"])
        assert "picked      by replay" in said
        assert "it serves" not in said


def test_the_report_draws_every_row_of_a_small_pool_at_its_price(whole):
    html = (whole.done.folder / "report.html").read_text(encoding="utf-8")
    nudge = next(s for s in whole.done.summary.selections if s.selector == "nudge")
    groups = dict(re.findall(r'<g class="dots (\w+)">(.*?)</g>', html))
    assert set(groups) == {"pool", "s0"}, "replay has no prices"
    assert groups["s0"].count("h0") == nudge.picked_rows
    assert groups["pool"].count("h0") == nudge.pool_rows - nudge.picked_rows


def test_show_tells_a_probe_in_one_sentence(whole, tmp_path, capsys):
    mixture = shutil.copytree(whole.done.folder, tmp_path / "copy")
    inspect_mixture.show(mixture)
    before = capsys.readouterr().out
    arm = ArmFacts("nudge", 2.3, 2.2, 2.0, (0.05, 0.03, 0.07))
    probed = dataclasses.replace(whole.done.summary, evidence=EvidenceFacts("tiny", 40_000, 3, 20, 10, (arm,)))
    (mixture / "summary.json").write_text(probed.to_json(), encoding="utf-8")
    inspect_mixture.show(mixture)
    after = capsys.readouterr().out
    assert "picks of nudge beat uniform ones by 0.050 bits per byte (95 % interval 0.030 to 0.070)." in after
    assert "bits per byte" not in before
