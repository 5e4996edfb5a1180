"""Deficiency: scripted models whose failures are known, perplexity and IFD against plain forward passes."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from families import opened
from generators import MESSAGES
from polars.testing import assert_frame_equal
from scripted import Scripted
from tiny_lm import tiny_lm

from mixtura.errors import InputError
from mixtura.generation.contract import Ask
from mixtura.pipeline.contract import Fitted, Shard
from mixtura.selectors import deficiency
from mixtura.selectors.deficiency import SELECTOR, Spec

TOOLS = json.dumps([
    {"name": n, "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}} for n in ("up", "down")
])  # fmt: skip


def call(name: str, n: int) -> str:
    return json.dumps({"name": name, "arguments": {"n": n}})


def pool(golds: list[str], *, tools: str | None = TOOLS) -> Shard:
    """Row i asks for `i`, and its gold is `golds[i]`."""
    turns = [
        [{"role": r, "content": c, "tool_calls": None} for r, c in (("user", f"go {i}"), ("assistant", g)) if c]
        for i, g in enumerate(golds)
    ]
    n = len(golds)
    return Shard(
        pl.DataFrame(
            {"id": [f"r{i:03}" for i in range(n)], "messages": turns, "tools": [tools] * n, "meta": [None] * n},
            schema={"id": pl.String, "messages": MESSAGES, "tools": pl.String, "meta": pl.String},
        )
    )


def spec_of(**options) -> Spec:
    return Spec.model_validate({"model": tiny_lm(), "device": "cpu", "samples": 4, "answer_tokens": 40} | options)


def number(ask: Ask) -> int:
    return int(ask.messages[-1]["content"].split()[1])


def mined(
    monkeypatch, script, rows: Shard, likelihood=lambda ask, answer: -1.0, **options
) -> tuple[Fitted, pl.DataFrame]:
    monkeypatch.setattr(deficiency, "open_generator", lambda spec: Scripted(script, likelihood))
    spec = spec_of(**options)
    fitted = SELECTOR.fit(spec, sample=rows, target=None, reference=None, seed=5)
    return fitted, SELECTOR.score(spec, fitted, rows)


def test_rows_are_ranked_by_their_failures(monkeypatch):
    """Row i fails i of its four samples."""
    rows = pool([call("up", i) for i in range(5)])
    _, out = mined(monkeypatch, lambda ask, s, seed: call("up", number(ask)) if s >= number(ask) else "no", rows)
    assert out["pass_rate"].to_list() == [1, 0.75, 0.5, 0.25, 0]
    assert out["score"].is_sorted()
    assert out["state"].to_list() == ["mastered", "partly", "partly", "partly", "unsolved"]
    assert out["errors"][2] == '{"no_call_when_needed": 2}'
    assert out["error"].to_list() == [None] + ["no_call_when_needed"] * 4
    assert (out["pass_low"] <= out["pass_rate"]).all()
    assert (out["pass_high"] >= out["pass_rate"]).all()


def test_wrong_golds_and_rows_without_a_question_come_last(monkeypatch):
    golds = [call("up", i) for i in range(20)]
    golds[3], golds[4] = call("sideways", 3), call("down", 4)  # not offered; offered, and wrong
    golds[7] = ""  # no answer at all

    def unlikely(ask, answer):
        return -1.0 if answer["content"] == call("up", number(ask)) else -6.0

    rows = pool(golds)
    fitted, out = mined(monkeypatch, lambda ask, s, seed: call("up", number(ask)), rows, unlikely)
    assert out["state"].to_list()[3:8] == ["suspect", "suspect", "mastered", "mastered", "uncheckable"]
    assert out["score"].to_list()[3:8:4] == [-1, -2]
    assert "hallucinated_tool" in out["reason"][3]
    assert "4 of 4 answers agree on another" in out["reason"][4]
    assert fitted.facts["sample_states"] == {"mastered": 17, "suspect": 2}
    assert fitted.facts["uncheckable"] == {"no-answer": 1}


def test_the_card_names_the_weak_tool(monkeypatch):
    rows = pool([call("up" if i % 2 else "down", i) for i in range(40)])
    fitted, out = mined(
        monkeypatch, lambda ask, s, seed: call("up", number(ask)) if number(ask) % 2 or s == 0 else "no", rows
    )
    said = SELECTOR.summary(spec_of(), out)
    assert said["states"] == {"mastered": 20, "unsolved": 20}
    assert said["errors"] == {"no_call_when_needed": 60, "wrong_tool": 20}
    assert [w.split(":")[1] for w in said["weak"]] == [" down"]
    assert fitted.facts["sample_weak"] == said["weak"]


def test_the_seed_of_the_fit_is_the_seed_of_the_samples(monkeypatch):
    rows = pool([call("up", i) for i in range(3)])
    _, out = mined(monkeypatch, lambda ask, s, seed: f"said with {seed}", rows)
    assert set(out["favourite"]) == {"said with 5"}


def test_any_cut_and_order_gives_the_same_bits():
    """A real model: rows alone, backwards, in other company."""
    rows = pool([call("up", i) for i in range(12)])
    spec = spec_of(samples=2, answer_tokens=6)
    fitted = SELECTOR.fit(spec, sample=rows, target=None, reference=None, seed=5)
    whole = SELECTOR.score(spec, fitted, rows)
    assert whole["favourite"].n_unique() > 6
    for at in ([11, 3, 7], [5], list(range(11, -1, -1))):
        part = SELECTOR.score(spec, fitted, Shard(rows.rows[at]))
        assert_frame_equal(part, whole[at], check_exact=True)


def test_perplexity_is_the_gold_s_and_ranks_within_its_stratum():
    rows = pool([call("up", i) if i % 3 else f"nothing to do {i}" for i in range(18)])
    spec = spec_of(by="perplexity")
    fitted = SELECTOR.fit(spec, sample=rows, target=None, reference=None, seed=5)
    out = SELECTOR.score(spec, fitted, rows)
    model = opened(tiny_lm())
    asks = [Ask.of(turns[:-1], TOOLS) for turns in rows.rows["messages"].to_list()]
    losses = np.array([x.loss for x in model.likelihoods(asks, [t[-1] for t in rows.rows["messages"].to_list()])])
    assert out["gold_loss"].to_numpy() == pytest.approx(losses)
    for stratum in (np.arange(18) % 3 == 0, np.arange(18) % 3 > 0):
        order = np.argsort(losses[stratum])
        assert out["score"].to_numpy()[stratum][order] == pytest.approx(np.arange(stratum.sum()) / stratum.sum())


def test_ifd_is_one_where_the_question_changes_nothing_and_its_drop_is_marked():
    rows = pool([call("up", i) for i in range(6)])
    spec = spec_of(by="ifd")
    fitted = SELECTOR.fit(spec, sample=rows, target=None, reference=None, seed=5)
    out = SELECTOR.score(spec, fitted, rows)
    model = opened(tiny_lm())
    turns = rows.rows["messages"].to_list()
    asks, golds = [Ask.of(t[:-1], TOOLS) for t in turns], [t[-1] for t in turns]
    given, alone = model.likelihoods(asks, golds), model.alone(asks, golds)
    want = np.exp([g.loss - a.loss for g, a in zip(given, alone, strict=True)])
    assert out["ifd"].to_numpy() == pytest.approx(want)
    assert out["score"].to_numpy() == pytest.approx(np.where(want < 1, want, -1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"check": "tool_cals"}, "check must be one of .*Nearest: 'tool_calls'"),
        ({"check_options": {"mode": "loose"}}, r"check_options.mode must fit the check 'tool_calls'"),
    ],
)
def test_a_mistake_in_the_options_is_a_sentence(monkeypatch, options, said):
    with pytest.raises(InputError, match=said):
        mined(monkeypatch, lambda *a: "", pool([call("up", 1)]), **options)


def test_a_pool_that_cannot_be_checked_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"needs rows that the check 'tool_calls' can check; got \{'no-tools': 2\}"):
        mined(monkeypatch, lambda *a: "", pool(["a", "b"], tools=None))
