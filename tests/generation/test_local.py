"""Sampling here: against transformers' own generate, plain forward passes, and the same asks in other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import CONFIGS, WINDOW, folder, opened
from tiny_lm import tiny_lm

from mixtura.errors import InputError
from mixtura.generation.contract import Ask, Generator, Judge, Streams
from mixtura.generation.decoding import CPU_ROWS

WORDS = ["salt", "the", "butter", "of", "flour", "and", "oven", "to", "onion", "in", "garlic", "é", "数据", "court"]
TOOLS = [{"type": "function", "function": {"name": "stir", "parameters": {"type": "object", "properties": {}}}}]


def asks(n: int, *, begun: str = "") -> list[Ask]:
    """Prompts of many lengths, some with tools in common."""
    said = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 4 + 3 * i % 31)) for i in range(1, n + 1)]
    system = {"role": "system", "content": "cook with care"}
    return [Ask([system, {"role": "user", "content": s}], TOOLS if i % 2 else None, begun) for i, s in enumerate(said)]


def prompt_ids(model, ask) -> list[int]:
    text = model.lm.tokenizer.apply_chat_template(
        ask.messages, tools=ask.tools, tokenize=False, add_generation_prompt=True
    )
    return model.lm.tokenizer(text + ask.begun, add_special_tokens=False)["input_ids"]


def forward(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(model.lm.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_likeliest_tokens_are_those_of_transformers_own_generate(family):
    """More asks than slots, of many lengths: slots are filled again while others go on."""
    model, many = opened(folder(family)), asks(CPU_ROWS + 5)
    assert min(len(prompt_ids(model, a)) for a in many) > WINDOW
    got = model.replies(many, samples=1, max_tokens=12, temperature=0, seed=0)
    for ask, (reply,) in zip(many, got, strict=True):
        ids = prompt_ids(model, ask)
        with torch.inference_mode():
            whole = model.lm.model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), max_new_tokens=12,
                do_sample=False, use_cache=True,
            )[0, len(ids) :].tolist()  # fmt: skip
        ended = whole[-1] in model.stops
        assert reply.tokens == len(whole)
        assert reply.finish == ("stop" if ended else "length")
        assert reply.text == model.lm.tokenizer.decode(whole[: len(whole) - ended])
    assert len({r.text for (r,) in got}) > 3, "a model that always says the same proves little"


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_a_sample_s_probability_is_that_of_one_plain_pass(family):
    model = opened(folder(family))
    for ask, replies in zip(
        asks(6), model.replies(asks(6), samples=2, max_tokens=9, temperature=0.8, seed=2), strict=True
    ):
        for reply in replies:
            ids = prompt_ids(model, ask)
            drawn = [model.lm.tokenizer.encode(p.text, add_special_tokens=False) for p in reply.pieces]
            if any(len(d) != 1 for d in drawn):
                continue  # characters in several tokens: their ids cannot be told from the text
            drawn = [d[0] for d in drawn] + ([model.lm.tokenizer.eos_token_id] if reply.finish == "stop" else [])
            p = forward(model, ids + drawn)
            each = [float(p[len(ids) + i - 1, t]) for i, t in enumerate(drawn)]
            assert reply.log_probability == pytest.approx(sum(each), abs=1e-4)
            assert [q.log_probability for q in reply.pieces] == pytest.approx(each[: len(reply.pieces)], abs=1e-4)


def test_company_changes_no_bit():
    model = opened(tiny_lm())
    options = {"samples": 3, "max_tokens": 10, "temperature": 1.0, "seed": 8}
    many = asks(24)
    together = model.replies(many, **options)
    assert model.replies(many[::-1], **options)[::-1] == together
    for i in (0, 5, 23):
        model._kept.clear()
        assert model.replies([many[i]], **options) == [together[i]]
    assert dict(model.stream(many, **options)) == dict(enumerate(together))


def test_a_longer_answer_begins_with_the_shorter_and_more_samples_with_the_fewer():
    model, many = opened(folder("llama")), asks(4)
    short = model.replies(many, samples=2, max_tokens=5, temperature=1.0, seed=8)
    long = model.replies(many, samples=4, max_tokens=9, temperature=1.0, seed=8)
    for a, b in zip(short, long, strict=True):
        for x, y in zip(a, b, strict=False):  # the first two
            assert y.pieces[: len(x.pieces)] == pytest.approx(x.pieces) or y.text.startswith(x.text)
    assert len({r.text for rs in long for r in rs}) > 12
    other = model.replies(many, samples=2, max_tokens=5, temperature=1.0, seed=9)
    assert other != short


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_draws_are_as_frequent_as_they_are_likely(temperature):
    """4,000 first tokens against the softmax of a plain pass: Pearson's chi-square, five standard deviations."""
    model, ask, n = opened(folder("llama")), asks(1)[0], 4000
    replies = model.replies([ask], samples=n, max_tokens=1, temperature=temperature, seed=3)[0]
    with torch.inference_mode():
        logits = model.lm.model(input_ids=torch.tensor([prompt_ids(model, ask)])).logits[0, -1].double()
    p = torch.softmax(logits / temperature, -1).numpy()
    logp = torch.log_softmax(logits, -1).numpy()
    drawn = np.array([int(np.abs(logp - r.log_probability).argmin()) for r in replies])
    expected = n * p
    common = expected >= 5
    seen = np.bincount(drawn, minlength=len(p))
    chi = ((seen - expected)[common] ** 2 / expected[common]).sum()
    freedom = common.sum()
    assert freedom > 5
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_likelihoods_are_those_of_one_plain_pass(family):
    model, many = opened(folder(family)), asks(5)
    answer = {"role": "assistant", "content": "butter the oven", "tool_calls": None}
    answers = [answer | {"content": f"butter {w} the oven"} for w in WORDS[:5]]
    got, alone = model.likelihoods(many, answers), model.alone(many, answers)
    for ask, said, one, bare in zip(many, answers, got, alone, strict=True):
        ids = prompt_ids(model, ask)
        spoken = [
            *model.lm.tokenizer.encode(said["content"], add_special_tokens=False),
            model.lm.tokenizer.eos_token_id,
        ]
        for before, found in ((ids, one), ([model.lm.start], bare)):
            p = forward(model, before + spoken)
            total = sum(float(p[len(before) + i - 1, t]) for i, t in enumerate(spoken))
            assert found.tokens == len(spoken)
            assert found.log_probability == pytest.approx(total, abs=1e-4)


def test_a_begun_answer_is_continued():
    """At temperature 0, the rest of an answer follows its own beginning."""
    model = opened(folder("llama"))
    many = asks(8)
    whole = model.replies(many, samples=1, max_tokens=12, temperature=0, seed=0)
    tried = 0
    for ask, (reply,) in zip(many, whole, strict=True):
        for n in range(1, 6):
            begun = "".join(p.text for p in reply.pieces[:n])
            ids = model.lm.tokenizer(begun, add_special_tokens=False)["input_ids"]
            if len(ids) != n or not begun.isascii() or n >= reply.tokens:
                continue  # read back, it is other tokens
            short = Ask(ask.messages, ask.tools, begun)
            (rest,) = model.replies([short], samples=1, max_tokens=12 - n, temperature=0, seed=0)[0]
            assert begun + rest.text == reply.text
            tried += 1
    assert tried >= 5


def test_pieces_make_up_the_text():
    model = opened(tiny_lm())
    replies = model.replies(asks(4), samples=6, max_tokens=20, temperature=2.0, seed=1)
    flat = [r for rs in replies for r in rs]
    assert all("".join(p.text for p in r.pieces) == r.text for r in flat)
    assert any(not r.text.isascii() for r in flat)
    ids = model.lm.tokenizer.encode("数据 é🙂x", add_special_tokens=False)
    pieces = model.prompts.pieces(ids[0], ids[1:], [0.0] * len(ids))
    assert len(pieces) == len(ids) - 1
    whole = model.prompts.pieces(model.lm.tokenizer.bos_token_id, ids, [0.0] * len(ids))
    assert "".join(p.text for p in whole) == "数据 é🙂x"
    assert whole[-1].text == "x"
    assert not any("\ufffd" in p.text for p in whole)


def test_an_ask_that_cannot_be_put_costs_its_own_row():
    model = opened(tiny_lm(), max_tokens=64)
    good = Ask([{"role": "user", "content": "salt"}])
    long = Ask([{"role": "user", "content": "salt " * 100}])
    odd = Ask([{"role": "judge", "content": "salt"}])
    ok, too_long, refused = model.replies([good, long, odd], samples=2, max_tokens=500, temperature=1.0, seed=0)
    assert all(0 < r.tokens <= 64 for r in ok)
    assert {r.finish for r in too_long} == {"refused"}
    assert "leaves no room in a window of 64" in too_long[0].reason
    assert "role must be system, user, assistant or tool; got judge" in refused[0].reason
    answer = {"role": "assistant", "content": "oven"}
    assert [x is None for x in model.likelihoods([good, long, odd], [answer] * 3)] == [False, True, True]


def test_what_it_is():
    model = opened(tiny_lm())
    assert isinstance(model, Generator)
    assert isinstance(model, Judge)
    assert isinstance(model, Streams)
    assert tiny_lm() not in str(model.identity)


def test_a_model_without_a_template_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny_lm()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm())
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="must have a chat template to be asked"):
        opened(str(tmp_path))
