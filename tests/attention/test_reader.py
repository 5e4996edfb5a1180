"""A layer read on the way against the whole attention of transformers' own eager run, over many shapes of model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from many_lms import SHAPES, WINDOW, folder, opened
from tiny_lm import TEXTS
from transformers import AutoModelForCausalLM

from mixtura.errors import InputError
from mixtura.pipeline.attention.conversation import Reading, Transcriber
from mixtura.pipeline.attention.options import FIRST, KINDS, RESPONSE, USER
from mixtura.pipeline.attention.reader import AttentionReader
from mixtura.pipeline.lm import CausalLM

CHATS = [
    [("system", "be brief"), ("user", TEXTS[0]), ("assistant", TEXTS[1][:40])],
    [("user", TEXTS[2][:30]), ("assistant", "salt"), ("user", TEXTS[3]), ("assistant", TEXTS[4][:25])],
    [("user", "a"), ("assistant", "b")],
    [("user", TEXTS[5] + TEXTS[6]), ("assistant", TEXTS[7])],
    [("user", "x y"), ("assistant", TEXTS[8]), ("user", "z"), ("tool", "court"), ("assistant", "law of it")],
]


@cache
def readings(shape: str = "llama") -> list[Reading]:
    scribe = Transcriber(opened(shape).tokenizer, 256)
    read = [scribe.read([{"role": r, "content": c} for r, c in chat]) for chat in CHATS]
    assert all(len(r.readings) == 1 and not r.unscored for r in read)
    return [r.readings[0] for r in read]


@cache
def eager(shape: str):
    return AutoModelForCausalLM.from_pretrained(folder(shape), attn_implementation="eager").eval()


@cache
def attentions(shape: str, which: int) -> list[np.ndarray]:
    """[H, n, n] of every layer, f64, one conversation alone, without padding."""
    ids = torch.from_numpy(readings(shape)[which].tokens.astype(np.int64))[None]
    with torch.no_grad():
        return [a[0].double().numpy() for a in eager(shape)(input_ids=ids, output_attentions=True).attentions]


def by_hand(matrix: np.ndarray, reading: Reading, begin: int, end: int) -> dict[str, float]:
    """The columns of one answer, from the matrix, written out as sums over keys."""
    rows = matrix[:, begin:end]
    user = rows[..., reading.kinds == USER].sum(-1)
    answer = rows[..., reading.kinds == RESPONSE].sum(-1)
    sink = rows[..., 0]
    seen = np.array([(matrix[0, y] > 0).sum() for y in range(begin, end)])
    even = np.array([((matrix[0, y] > 0) & (reading.kinds == USER)).sum() for y in range(begin, end)]) / seen
    return {
        "raw": user.max(0).mean(),
        "lift": user.max(0).mean() - even.mean(),
        "sinkless": (user / (1 - sink)).max(0).mean(),
        "share": (user / (user + answer)).max(0).mean(),
        "head": user.mean(1).max(),
        "mean": user.mean(),
        "peak": rows[..., reading.kinds == USER].max(-1).max(0).mean(),
        "even": even.mean(),
        "mass_first": sink.mean(),
    }


@pytest.mark.parametrize(
    ("shape", "way"),
    [*((shape, "auto") for shape in SHAPES), ("llama-grouped", "rows"), ("gemma2", "naive"), ("gpt2", "lse")],
)
def test_every_answer_of_every_shape_is_as_in_the_whole_matrix(shape, way):
    """To 1e-5, in batches of several lengths with padding; on the default layer and the first."""
    checked = 0
    for layer in (None, 0):
        reader = AttentionReader(opened(shape), layer=layer, way=way)
        for which, answers in enumerate(reader.accounts(readings(shape))):
            reading = readings(shape)[which]
            for answer in reading.answers:
                matrix = attentions(shape, which)[reader.layer]
                for column, value in by_hand(matrix, reading, answer.begin, answer.end).items():
                    assert answers[answer.turn][column] == pytest.approx(value, abs=1e-5), (layer, which, column)
                    checked += 1
    assert checked == 2 * 7 * 9


@pytest.mark.parametrize(("shape", "layers"), [("llama-grouped", (2, 3)), ("gemma2", (1, 3))])
def test_averaged_columns_are_the_means_of_layers_that_see_as_much(shape, layers):
    """Of Gemma 2's shape every second layer slides."""
    averaged = AttentionReader(opened(shape), layer=3, averaged=2)
    assert averaged.read_layers == layers
    low, high = (AttentionReader(opened(shape), layer=i).accounts(readings(shape)) for i in layers)
    for got, one, two in zip(averaged.accounts(readings(shape)), low, high, strict=True):
        for turn, columns in got.items():
            want = {name: (one[turn][name] + two[turn][name]) / 2 for name in columns}
            assert columns == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("shape", ["mistral-sliding", "gemma2"])
def test_a_window_is_kept(shape):
    """On a layer that slides, nothing beyond the window has mass; conversations are longer than it."""
    matrix = attentions(shape, 3)[0]
    assert len(matrix[0]) > 3 * WINDOW
    assert matrix[:, 40, : 40 - WINDOW + 1].sum() == 0


def test_laws_of_the_columns():
    for answers in AttentionReader(opened("qwen2")).accounts(readings()):
        for a in answers.values():
            assert a["raw"] >= a["head"] - 1e-6 >= a["mean"] - 2e-6
            assert sum(a[f"mass_{k}"] for k in KINDS) == pytest.approx(1, abs=1e-5)
            assert a["mean"] == a["mass_user"]


@pytest.mark.parametrize("shape", ["llama-grouped", "gemma2"])
def test_company_and_batches_change_no_bit(shape):
    reader = AttentionReader(opened(shape))
    whole = reader.accounts(readings(shape))
    heads = reader.strongest_heads(readings(shape), 0.2)
    losses = reader.losses(readings(shape), heads)
    for order in ([0], [3, 1, 0, 2, 4]):
        some = [readings(shape)[i] for i in order]
        assert reader.accounts(some) == [whole[i] for i in order]
        assert reader.losses(some, heads) == [losses[i] for i in order]


def test_other_batches_change_only_rounding():
    whole = AttentionReader(opened("qwen2")).accounts(readings())
    other = AttentionReader(opened("qwen2", batch_tokens=32)).accounts(readings())
    for one, two in zip(whole, other, strict=True):
        for turn, columns in one.items():
            assert two[turn] == pytest.approx(columns, abs=1e-5)


def test_a_batch_without_memory_is_halved_and_a_row_without_it_is_told(monkeypatch):
    reader = AttentionReader(opened("llama"))
    want = reader.accounts(readings()), reader.losses(readings()), reader.strongest_heads(readings(), 0.2)
    whole, inner = type(reader.lm.model).forward, type(reader.lm.model.base_model).forward
    room = {"rows": 1}

    def tight(plain):
        def forward(self, input_ids=None, **options):
            if len(input_ids) > room["rows"]:
                raise torch.OutOfMemoryError("not enough")
            return plain(self, input_ids=input_ids, **options)

        return forward

    monkeypatch.setattr(type(reader.lm.model), "forward", tight(whole))
    monkeypatch.setattr(type(reader.lm.model.base_model), "forward", tight(inner))
    for one, two in zip(reader.accounts(readings()), want[0], strict=True):
        for turn, columns in one.items():
            assert two[turn] == pytest.approx(columns, abs=1e-5)
    for one, two in zip(reader.losses(readings()), want[1], strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    assert reader.strongest_heads(readings(), 0.2) == want[2]
    room["rows"] = 0
    with pytest.raises(
        InputError, match="option max_tokens must fit the device; got 'too little memory for one row of"
    ):
        reader.accounts(readings())


def test_what_comes_later_changes_nothing():
    """A causal model: the first answers of a longer conversation have the scores that they have without the rest."""
    scribe, reader = Transcriber(opened("llama").tokenizer, 256), AttentionReader(opened("llama"))
    chat = [{"role": r, "content": c} for r, c in CHATS[1]]
    (short,), (long,) = (reader.accounts(scribe.read(c).readings) for c in (chat[:2], chat))
    assert long[1] == pytest.approx(short[1], abs=1e-5)


def test_the_run_ends_at_the_layer_and_leaves_the_model_as_it_was():
    lm = opened("llama")
    ran = []
    hooks = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(lm.model.model.layers)]
    head = lm.model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    before = lm.model.config._attn_implementation
    reader = AttentionReader(lm, layer=2)
    ran.clear()
    reader.accounts(readings())
    for hook in (*hooks, head):
        hook.remove()
    assert set(ran) == {0, 1}  # layer 2 is left in the middle
    assert lm.model.config._attn_implementation == before


@pytest.mark.parametrize("shape", ["llama", "gemma2", "gpt2"])
def test_losses_are_the_models_own(shape):
    for which, found in enumerate(AttentionReader(opened(shape)).losses(readings(shape))):
        reading = readings(shape)[which]
        ids = torch.from_numpy(reading.tokens.astype(np.int64))[None]
        with torch.no_grad():
            log_p = eager(shape)(input_ids=ids).logits[0].log_softmax(-1)
        for answer in reading.answers:
            want = -sum(float(log_p[i - 1, ids[0, i]]) for i in range(answer.begin, answer.end))
            assert found[answer.turn] == pytest.approx(want, rel=1e-4)


def test_a_row_longer_than_a_batch_has_the_same_losses():
    one, two = (AttentionReader(opened("llama", batch_tokens=b)).losses(readings()) for b in (128, 32))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_the_strongest_heads_are_those_of_the_matrices():
    reader = AttentionReader(opened("llama-grouped"))
    total = np.zeros((4, 4))
    for which, reading in enumerate(readings("llama-grouped")):
        rows = np.concatenate([np.arange(a.begin, a.end) for a in reading.answers])
        for layer, matrix in enumerate(attentions("llama-grouped", which)):
            total[layer] += matrix[:, rows][..., reading.kinds == USER].sum(-1).mean(1)
    want = sorted(np.ndindex(4, 4), key=lambda at: -total[at])
    assert reader.strongest_heads(readings("llama-grouped"), 0.25) == want[:4]


def test_barring_every_head_everywhere_is_not_having_said_it():
    """With every head barred nobody knows the user's words: the loss is that of any others of the same length."""
    reader = AttentionReader(opened("llama"))
    every = [(i, h) for i in range(4) for h in range(4)]
    reading = readings()[0]
    tokens = reading.tokens.copy()
    tokens[reading.kinds == USER] = 77
    other = Reading(tokens, reading.kinds, reading.answers)
    first, second = reader.losses([reading, other], every)
    assert first == pytest.approx(second, rel=1e-5)
    open_first, open_second = reader.losses([reading, other])
    assert abs(open_first[2] - open_second[2]) > 1e-3
    assert abs(first[2] - open_first[2]) > 1e-3


@pytest.mark.parametrize("shape", ["qwen2", "gemma2", "mistral-sliding"])
def test_barring_one_head_is_zeroing_its_mass(shape):
    """Against transformers' eager layer with that head's weights on the user's tokens set to zero and rescaled."""
    reader, model, reading = AttentionReader(opened(shape)), eager(shape), readings(shape)[3]
    attention = model.model.layers[1].self_attn
    module = __import__(type(attention).__module__, fromlist=["eager_attention_forward"])
    plain = module.eager_attention_forward
    user = torch.from_numpy(reading.kinds == USER)

    def barred(m, query, key, value, mask, **options):
        out, weights = plain(m, query, key, value, mask, **options)
        if m is not attention:
            return out, weights
        weights = weights.clone()
        weights[0, 2][~user[:, None] & user] = 0
        weights[0, 2] /= weights[0, 2].sum(-1, keepdim=True)
        full = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return (weights @ full).transpose(1, 2), weights

    ids = torch.from_numpy(reading.tokens.astype(np.int64))[None]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, "eager_attention_forward", barred)
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    (answer,) = reading.answers
    want = -sum(float(log_p[i - 1, ids[0, i]]) for i in range(answer.begin, answer.end))
    (found,), (open_loss,) = (reader.losses([reading], bars) for bars in ([(1, 2)], []))
    assert found[answer.turn] == pytest.approx(want, abs=2e-3)
    assert found[answer.turn] != pytest.approx(open_loss[answer.turn], abs=2e-2)


def test_the_default_layer_is_at_the_papers_depth_and_sees_the_whole_past():
    assert AttentionReader(opened("llama")).layer == 2  # int(4 * 15 / 22)
    gemma = AttentionReader(opened("gemma2"))
    assert gemma.layers == {0: False, 1: True, 2: False, 3: True}
    assert gemma.layer == 1
    assert AttentionReader(opened("mistral-sliding")).layer == 2  # every layer slides


def test_a_layer_that_is_not_there_is_told():
    with pytest.raises(
        InputError, match="option layer must be a layer of LlamaForCausalLM with attention: 0 to 3; got 9"
    ):
        AttentionReader(opened("llama"), layer=9)


def test_a_model_whose_attention_cannot_be_seen_is_told(tmp_path):
    """Bloom attends by code of its own, past the interface."""
    import transformers as tf
    from tiny_lm import tiny_lm

    config = tf.BloomConfig(vocab_size=304, hidden_size=16, n_layer=2, n_head=2)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tf.AutoTokenizer.from_pretrained(tiny_lm()).save_pretrained(tmp_path)
    lm = CausalLM(str(tmp_path), max_tokens=64, device="cpu", batch_tokens=64)
    with pytest.raises(
        InputError, match=r"must attend through transformers' attention interface.*got 'BloomForCausalLM'"
    ):
        AttentionReader(lm)


def test_a_way_that_does_not_fit_is_told():
    reader = AttentionReader(opened("gemma2"), way="indicator")
    with pytest.raises(
        InputError, match="option way must be auto, rows or naive where a layer has a window, a softcap"
    ):
        reader.accounts(readings("gemma2"))


def test_first_token_is_the_sink_kind():
    assert all(r.kinds[0] == FIRST and (r.kinds[1:] != FIRST).all() for r in readings())
