"""Span masses against the whole matrix in float64, closed forms, and laws that hold for any numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.pipeline.attention import mass
from mixtura.pipeline.attention.mass import Layer, by_indicator, by_lse, by_rows, indicator, naive, peaks, uniform

SHAPES = {"grouped": (8, 2, 16, 90), "alone": (4, 4, 8, 50), "one key head": (6, 1, 32, 40)}  # H, G, d, n
WAYS = {"rows": by_rows, "indicator": by_indicator, "lse": by_lse, "naive": naive}


def made(heads: int, groups: int, width: int, n: int, seed: int = 0, **options) -> Layer:
    draw = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(h, n, width, generator=draw) for h in (heads, groups))
    return Layer(2 * q, k, width**-0.5, **options)


def problem(shape: str, seed: int = 0, **options) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed + 1)
    layer = made(*SHAPES[shape], seed=seed, **options)
    n = layer.key.shape[1]
    spans = indicator(torch.randint(0, 6, (n,), generator=draw), 6)
    return layer, spans, torch.randperm(n, generator=draw)[: n // 2].sort().values


def by_hand(layer: Layer, spans: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Head by head and row by row in float64, with a loop over the keys that a row may see."""
    heads, n = layer.query.shape[:2]
    out = torch.zeros(heads, len(rows), spans.shape[1], dtype=torch.float64)
    for h in range(heads):
        key = layer.key[h // (heads // layer.key.shape[0])].double()
        for at, row in enumerate(rows.tolist()):
            may = [j for j in range(n) if (j <= row if layer.mask is None else bool(layer.mask[0, row, j]))]
            x = key[may] @ layer.query[h, row].double() * layer.scale
            if layer.softcap:
                x = layer.softcap * torch.tanh(x / layer.softcap)
            weight = x.exp()
            total = weight.sum() + (layer.sinks[h].double().exp() if layer.sinks is not None else 0)
            out[h, at] = (weight / total) @ spans[may].double()
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_what_a_loop_gives(way, shape):
    layer, spans, rows = problem(shape)
    torch.testing.assert_close(WAYS[way](layer, spans, rows).double(), by_hand(layer, spans, rows), atol=3e-6, rtol=0)


@pytest.mark.parametrize("kind", ["window", "softcap", "sinks", "all"])
def test_rows_and_naive_know_windows_softcaps_and_sinks(kind):
    n = SHAPES["grouped"][3]
    place = torch.arange(n)
    window = ((place[:, None] >= place) & (place[:, None] - place < 20))[None]
    options = {"window": {"mask": window}, "softcap": {"softcap": 1.5}, "sinks": {"sinks": torch.linspace(-2, 2, 8)}}
    options["all"] = {k: v for one in options.values() for k, v in one.items()}
    layer, spans, rows = problem("grouped", **options[kind])
    want = by_hand(layer, spans, rows)
    for way in (by_rows, naive):
        torch.testing.assert_close(way(layer, spans, rows).double(), want, atol=3e-6, rtol=0)


def test_a_mask_of_numbers_is_the_mask_of_truths():
    place = torch.arange(SHAPES["grouped"][3])
    seen = ((place[:, None] >= place) & (place[:, None] - place < 20))[None]
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    (one, spans, rows), (two, _, _) = (problem("grouped", mask=m) for m in (seen, added))
    torch.testing.assert_close(by_rows(one, spans, rows), by_rows(two, spans, rows), atol=1e-7, rtol=0)
    torch.testing.assert_close(uniform(one, spans, rows), uniform(two, spans, rows))


@settings(max_examples=8)
@given(st.integers(1, 60), st.sampled_from([(2, 1), (2, 2), (4, 2)]), st.integers(0, 10**6))
def test_masses_over_all_kinds_sum_to_one(n, heads, seed):
    layer = made(*heads, 8, n, seed=seed)
    spans = indicator(torch.randint(0, 6, (n,), generator=torch.Generator().manual_seed(seed)), 6)
    rows = torch.arange(n)
    for way in WAYS.values():
        torch.testing.assert_close(way(layer, spans, rows).sum(-1), torch.ones(heads[0], n), atol=1e-5, rtol=0)


def test_attention_spread_evenly_is_the_uniform_baseline():
    """q = 0: every visible key weighs alike, so the mass is counted, not computed."""
    layer, spans, rows = problem("grouped")
    flat = Layer(torch.zeros_like(layer.query), layer.key, layer.scale)
    counted = torch.stack([spans[: r + 1].mean(0) for r in rows.tolist()])
    torch.testing.assert_close(uniform(flat, spans, rows), counted)
    for way in WAYS.values():
        torch.testing.assert_close(way(flat, spans, rows)[3], counted, atol=1e-6, rtol=0)


def test_two_keys_by_paper():
    """Products 0 and ln 3: shares 1/4 and 3/4, and the denominator is 4 = exp(lse): base e, not 2."""
    query, key = torch.ones(1, 2, 8), torch.zeros(1, 2, 8)
    key[0, 1] = math.log(3) / 8
    layer, spans = Layer(query, key, 1.0), torch.eye(2)
    for way in WAYS.values():
        got = way(layer, spans, torch.tensor([0, 1]))[0]
        torch.testing.assert_close(got, torch.tensor([[1.0, 0.0], [0.25, 0.75]]), atol=1e-6, rtol=0)


def test_a_row_that_sees_nothing_has_no_mass():
    mask = torch.ones(1, 5, 5, dtype=torch.bool).tril()
    mask[0, 3] = False
    layer = made(2, 2, 8, 5, mask=mask)
    got = by_rows(layer, torch.ones(5, 1), torch.arange(5))
    assert got[:, 3].tolist() == [[0.0]] * 2
    assert uniform(layer, torch.ones(5, 1), torch.arange(5))[3].tolist() == [0.0]
    torch.testing.assert_close(got[:, [0, 1, 2, 4]], torch.ones(2, 4, 1))


def test_blocks_change_nothing_but_rounding(monkeypatch):
    layer, spans, rows = problem("grouped")
    want = {name: way(layer, spans, rows) for name, way in WAYS.items()}
    monkeypatch.setattr(mass, "BLOCK", 8 * 90 * 20)  # twenty rows at a time
    for name, way in WAYS.items():
        torch.testing.assert_close(way(layer, spans, rows), want[name], atol=3e-6, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "hard"])
def test_peaks_are_the_largest_entries_of_the_matrix(kind, monkeypatch):
    """Mass on single keys, each a span of its own, is the whole matrix."""
    n = SHAPES["grouped"][3]
    place = torch.arange(n)
    window = (place[:, None] - place < 9) & (place <= place[:, None])
    layer, _, rows = problem("grouped", **({"mask": window[None], "softcap": 2.0} if kind == "hard" else {}))
    among = torch.arange(n) % 3 == 1
    matrix = naive(layer, torch.eye(n), rows)
    monkeypatch.setattr(mass, "BLOCK", 8 * n * 20)
    torch.testing.assert_close(peaks(layer, among, rows), matrix[..., among].amax(-1), atol=1e-6, rtol=0)
    assert peaks(layer, torch.zeros(n, dtype=torch.bool), rows).abs().max() == 0


def test_barred_keys_are_as_if_they_were_not_there():
    layer, spans, rows = problem("grouped")
    barred = torch.zeros(90, dtype=torch.bool)
    barred[10:40] = True
    kept = torch.nonzero(~barred)[:, 0]
    late = rows[rows >= 40]
    without = Layer(layer.query[:, kept], layer.key[:, kept], layer.scale)
    want = by_rows(without, spans[kept], late - 30)
    torch.testing.assert_close(by_rows(layer, spans, late, barred), want, atol=1e-6, rtol=0)


def test_bfloat16_stays_within_what_is_stated():
    layer, spans, rows = problem("grouped")
    want = naive(layer, spans, rows)
    low = Layer(layer.query.bfloat16(), layer.key.bfloat16(), layer.scale)
    exact = naive(low, spans, rows)  # of the same rounded queries and keys, in float32
    assert float((by_rows(low, spans, rows) - exact).abs().max()) < 1e-6
    assert float((by_lse(low, spans, rows) - exact).abs().max()) < 1e-2
    assert float((by_indicator(low, spans, rows) - exact).abs().max()) < 1e-2
    assert 1e-4 < float((exact - want).abs().max()) < 5e-2  # what the rounding of queries and keys costs
