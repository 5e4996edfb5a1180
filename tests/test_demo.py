"""The demo in small: a few libraries, two steps; what it prints is what it did."""

from __future__ import annotations

import os
from importlib.metadata import distribution

import polars as pl
import pytest

from mixtura.cli import demo
from mixtura.cli.terminal import console

LIBRARIES = ("numpy", "scipy", "networkx", "pandas", "scikit-learn")


@pytest.mark.slow
def test_the_demo_ends_with_two_mixtures_two_models_and_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "distributions", lambda: [distribution(n) for n in LIBRARIES])
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # workers are other processes, where nothing is patched
    monkeypatch.setattr(demo, "PER_LIBRARY", 550)
    monkeypatch.setattr(demo, "BUDGET_TOKENS", 20_000)
    monkeypatch.setattr(demo, "STEPS", 2)
    with console.capture() as captured:
        demo.run(tmp_path / "demo", plain=True)
    said = captured.get()
    assert "2,200 docstrings of 4 libraries; target: scikit-learn" in said
    assert "Where the picks came from" in said
    assert "Loss on 200 held-out scikit-learn docstrings" in said
    for selector in ("nudge", "uniform"):
        mixture = tmp_path / f"demo/mixtures/docstrings-{selector}"
        rows = pl.read_parquet(sorted(mixture.glob("*/*-of-*.parquet")))
        assert 0 < rows["tokens"].sum() <= 20_000
        assert set(rows["source"]) <= {n for n in LIBRARIES if n != "scikit-learn"}
        assert (mixture / "report.html").is_file()
        assert (tmp_path / f"demo/model-{selector}/model.safetensors").is_file()
        assert str(mixture.name) in said
