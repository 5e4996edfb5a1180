"""Perplexity: against transformers' own loss, and planted rows that a trained model must find easy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generators import cut, shard, two_topics
from scipy import stats
from tiny_lm import tiny_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixtura.errors import InputError
from mixtura.selectors.perplexity import SELECTOR, Spec

HABIT = "salt the butter of flour and oven to onion in garlic"


def spec_of(folder: str | None = None, **options) -> Spec:
    return Spec.model_validate({"model": folder or tiny_lm(), "device": "cpu"} | options)


def scores(spec, rows, sample=None):
    fitted = SELECTOR.fit(spec, sample=sample or rows, target=None, reference=None, seed=0)
    return SELECTOR.score(spec, fitted, rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """The tiny model after forty steps on one sentence."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm()), AutoTokenizer.from_pretrained(tiny_lm())
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(HABIT, add_special_tokens=False)["input_ids"]]])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_low_finds_what_the_model_learned_and_high_what_it_did_not(trained):
    planted = two_topics(pool_rows=80, wanted_rows=20)
    rows = shard([*planted.pool.rows["plain"], HABIT])
    low, high = (scores(spec_of(trained, prefer=p), rows) for p in ("low", "high"))
    assert low["score"].arg_max() == high["score"].arg_min() == 80
    assert low["quantile"][80] == pytest.approx(0.5 / 81)  # the lowest of 81
    assert (low["score"] + high["score"]).to_list() == [0] * 81
    assert (low["loss"] == high["score"]).all()


def test_middle_takes_the_middle_of_the_pool_by_rank():
    """The best half are the rows of rank n/4 to 3n/4, whatever the shape of the losses."""
    rows = two_topics(pool_rows=200).pool
    out = scores(spec_of(), rows)
    best = out["score"].top_k(100).min()
    rank = stats.rankdata(out["loss"].to_numpy())
    assert set(rank[out["score"].to_numpy() >= best]) == set(range(51, 151))


def test_beyond_the_sample_the_farther_the_later():
    rows = two_topics(pool_rows=60, wanted_rows=10).pool
    loss = scores(spec_of(), rows)["loss"].to_numpy()
    order = np.argsort(loss)
    out = scores(spec_of(), rows, cut(rows, order[25:35]))
    score = out["score"].to_numpy()
    assert (np.diff(score[order[:26]]) > 0).all()
    assert (np.diff(score[order[34:]]) < 0).all()


@pytest.mark.parametrize("prefer", ["low", "middle", "high"])
def test_a_row_without_a_token_comes_last(prefer):
    rows = two_topics(pool_rows=40, wanted_rows=10).pool
    spec = spec_of(prefer=prefer)
    fitted = SELECTOR.fit(spec, sample=rows, target=None, reference=None, seed=0)
    out = SELECTOR.score(spec, fitted, shard([*rows.rows["plain"], ""]))
    assert out["score"].arg_min() == 40
    assert out.select("loss", "quantile", "tokens_judged").row(40) == (None, None, 0)


def test_a_sample_without_a_token_is_refused():
    with pytest.raises(InputError, match="selector 'perplexity' needs a sample with at least one token"):
        scores(spec_of(), shard(["", ""]))


def test_only_the_asked_rows_of_the_sample_are_read():
    rows = two_topics(pool_rows=40, wanted_rows=10).pool
    fitted = SELECTOR.fit(spec_of(sample_rows=7), sample=rows, target=None, reference=None, seed=0)
    assert fitted.facts["sample_rows"] == len(fitted.arrays["sample_loss"]) == 7
