"""Context: what a row of scores says, planted answers that copy, and every reason for no score."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from generators import MESSAGES, shard
from tiny_lm import TEXTS, tiny_lm

from mixtura.errors import InputError
from mixtura.pipeline.attention.options import GIVES
from mixtura.pipeline.contract import Shard
from mixtura.selectors.context import SELECTOR, UNSCORED, Spec

ALL = {"measures": ["attention", "gain", "barred"]}


def spec_of(**options) -> Spec:
    return Spec.model_validate({"model": tiny_lm(), "device": "cpu"} | options)


def chats(*said: list[tuple[str, str]]) -> Shard:
    turns = [[{"role": r, "content": c, "tool_calls": None} for r, c in chat] for chat in said]
    rows = shard([""] * len(said)).rows.with_columns(messages=pl.Series(turns, dtype=MESSAGES))
    return Shard(rows)


LONG = " ".join(TEXTS[:4])
POOL = chats(
    [("user", TEXTS[0]), ("assistant", TEXTS[1])],
    [("user", TEXTS[2]), ("assistant", ""), ("user", "more"), ("assistant", TEXTS[3])],
    [("assistant", TEXTS[4]), ("user", "why"), ("assistant", "salt")],
    [("user", TEXTS[5]), ("assistant", "short"), ("user", "x"), ("assistant", LONG * 3)],
    [("user", "only asked")],
    [("user", "what is <|end|>"), ("assistant", "a token")],
)


def scores(pool: Shard = POOL, **options) -> pl.DataFrame:
    spec = spec_of(**options)
    fitted = SELECTOR.fit(spec, sample=pool, target=None, reference=None, seed=0)
    return SELECTOR.score(spec, fitted, pool)


def test_an_entry_per_answer_in_every_list():
    out = scores(max_tokens=300, **ALL)
    lists = [c for c in out.columns if c not in ("id", "score")]
    assert set(lists) >= {"turns", "turn_scores", "unscored", "answer_tokens", *sum(GIVES.values(), ())}
    for column in lists:
        assert out[column].list.len().to_list() == [1, 2, 2, 2, 0, 1], column
    assert out["turns"].to_list() == [[1], [1, 3], [0, 2], [1, 3], [], [1]]
    assert out["turns"].dtype == pl.List(pl.Int32)
    assert out["turn_scores"].dtype == pl.List(pl.Float32)


def test_every_answer_without_a_score_says_why():
    out = scores(max_tokens=300)
    why = [
        [None],
        ["empty-answer", None],
        ["no-user-text", None],
        [None, "truncated"],
        [],
        ["control-token-in-content"],
    ]
    assert out["unscored"].to_list() == why
    for scored, reasons in zip(out["turn_scores"], why, strict=True):
        assert [s is None for s in scored] == [r is not None for r in reasons]


def test_a_rows_score_is_its_best_answers_and_none_is_below_all():
    out = scores(max_tokens=300)
    for score, answers in out.select("score", "turn_scores").iter_rows():
        known = [a for a in answers if a is not None]
        assert score == pytest.approx(max(known) if known else UNSCORED, abs=1e-6)
    assert out["score"][4] == out["score"][5] == UNSCORED < out["score"][:4].min()


def test_facts_count_the_sample():
    fitted = SELECTOR.fit(spec_of(max_tokens=300), sample=POOL, target=None, reference=None, seed=0)
    assert fitted.facts["sample_rows"] == 5
    assert fitted.facts["sample_answers"] == 8
    assert fitted.facts["sample_unscored"] == {
        "control-token-in-content": 1, "empty-answer": 1, "no-user-text": 1, "truncated": 1,
    }  # fmt: skip
    assert fitted.facts["layer"] == 1
    assert fitted.arrays["heads"].shape == (0, 2)  # nobody asked for barred heads


def test_the_score_is_the_column_that_the_recipe_wants():
    for column in ("raw", "lift", "sinkless", "share", "head", "mean", "peak", "gain", "barred"):
        out = scores(score=column, max_tokens=300)
        assert out["turn_scores"].to_list() == out[column].to_list()


def test_gain_is_the_loss_without_less_the_loss_with():
    """Withholding all that the user said gives the loss of the same conversation with nothing said."""
    silent = chats([("user", ""), ("assistant", TEXTS[1])])
    spec = spec_of(score="gain", withheld="user")
    fitted = SELECTOR.fit(spec, sample=POOL, target=None, reference=None, seed=0)
    said = SELECTOR.score(spec, fitted, POOL)
    (row,) = said[:1].select("gain", "loss").rows()
    from mixtura.pipeline.attention.conversation import Transcriber
    from mixtura.pipeline.attention.reader import AttentionReader
    from mixtura.pipeline.lm import open_model

    lm = open_model(spec)
    turns = silent.rows["messages"][0].to_list()
    (reading,) = Transcriber(lm.tokenizer, lm.window).read(turns, needs_user=False).readings
    (lost,) = AttentionReader(lm).losses([reading])
    assert row[0][0] == pytest.approx(lost[1] / len(reading.answers[0]) - row[1][0], abs=1e-5)


def test_nothing_to_withhold_gains_nothing():
    out = scores(score="gain", withheld="passage")  # every message is short: it is all instruction
    assert np.allclose(out["gain"][0], 0, atol=1e-6)


def test_a_preference_pair_is_its_prompt_and_the_chosen_answer():
    whole = scores()
    split = POOL.rows.with_columns(
        chosen=pl.when(pl.col("id") == "row00000").then(pl.col("messages").list.slice(1)).otherwise(None),
        messages=pl.when(pl.col("id") == "row00000")
        .then(pl.col("messages").list.head(1))
        .otherwise(pl.col("messages")),
    )
    assert scores(Shard(split)).equals(whole)


def test_a_pool_without_an_answer_is_refused():
    with pytest.raises(
        InputError, match="selector 'context' needs conversations with an answer in its sample; got 'none'"
    ):
        scores(chats([("user", "hello")]))


def test_a_pool_whose_answers_cannot_be_read_is_told_why():
    with pytest.raises(
        InputError, match="needs an answer in its sample that it can score; got 'control-token-in-content"
    ):
        scores(POOL.__class__(POOL.rows[5:]))


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(
        InputError, match="option layer must be a layer of LlamaForCausalLM with attention: 0 to 1; got 5"
    ):
        scores(layer=5)


def test_marks_may_be_made_by_every_score_that_is_measured_and_by_no_other_column():
    assert SELECTOR.turn_columns(Spec(model="m", score="gain")) == (
        "turn_scores", "raw", "lift", "sinkless", "share", "head", "mean", "peak", "gain",
    )  # fmt: skip
    assert SELECTOR.turn_columns(Spec(model="m", score="gain", measures=("gain",))) == ("turn_scores", "gain")
