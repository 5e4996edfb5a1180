"""The causal LM as a reader: against transformers on one row at a time, and every model that it must refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_lm import TEXTS, tiny_lm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mixtura.errors import InputError
from mixtura.pipeline.lm import CausalLM, Spec, locate, open_model
from mixtura.pipeline.scoring import Selected

ODD = ["", "salt", "<|end|> of a text", "数据 🙂", "\x00", " \n ", "a" * 3000, "court " * 900]
ROWS = TEXTS + ODD


def reader(folder: str | Path | None = None, **options) -> CausalLM:
    return open_model(Spec(model=str(folder or tiny_lm()), device="cpu", **options))


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(tiny_lm(), tmp_path / "copy"))


def with_tokenizer(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_lm()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    """Positions that are learned, 64 of them, and another name for the inner model."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    return with_tokenizer(GPT2LMHeadModel(config), tmp_path_factory.mktemp("gpt2") / "lm")


def by_hand(folder: str | Path, text: str, window: int) -> tuple[np.ndarray, float]:
    """One row, alone, without padding: the SGPT mean of `hidden_states[-1]`, and transformers' own loss."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    ids = torch.tensor([ids[:window]])
    with torch.no_grad():
        out = model(input_ids=ids, labels=ids, output_hidden_states=True)
    states = out.hidden_states[-1][0].double().numpy()
    n = len(states)
    mean = sum(2 * (i + 1) / (n * (n + 1)) * states[i] for i in range(n))
    return np.asarray(mean / np.linalg.norm(mean)), float(out.loss)


@pytest.mark.parametrize("which", ["llama", "gpt2"])
def test_states_and_losses_are_those_of_one_row_alone(which, gpt2):
    folder, window = (tiny_lm(), 300) if which == "llama" else (gpt2, 64)
    lm = reader(folder, max_tokens=300)
    states, read = lm.pooled(ROWS)
    losses, judged = lm.losses(ROWS)
    checked = 0
    for i, text in enumerate(ROWS):
        if text:
            mean, loss = by_hand(folder, text, window)
            np.testing.assert_allclose(states[i], mean, atol=2e-6)  # f32, summed in another order
            assert losses[i] == pytest.approx(loss, rel=1e-5)
            assert judged[i] == read[i] - 1
            checked += 1
    assert checked == len(ROWS) - 1
    assert read.max() == window
    assert read[len(TEXTS)] == judged[len(TEXTS)] == 0  # the empty row
    assert not states[len(TEXTS)].any()
    assert np.isnan(losses[len(TEXTS)])


@settings(max_examples=12)
@given(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=12))
def test_a_row_does_not_feel_its_neighbours(chosen):
    """Bit for bit: in any company, any order, with copies of itself."""
    lm = reader(max_tokens=200)
    states, losses = lm.pooled(ROWS)[0], lm.losses(ROWS)[0]
    some = [ROWS[i] for i in chosen]
    np.testing.assert_array_equal(lm.pooled(some)[0], states[chosen])
    np.testing.assert_array_equal(lm.losses(some)[0], losses[chosen])


def test_every_batch_of_a_length_has_one_shape_and_one_thread():
    """The reasons for the equality above, which small models may show without them."""
    lm, seen = reader(max_tokens=200), []

    def note(_, args, kwargs):
        seen.append((*kwargs["input_ids"].shape, torch.get_num_threads()))

    before = torch.get_num_threads()
    handle = lm.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        torch.set_num_threads(2)
        for some in (ROWS, ROWS[:1], ROWS[5:9], ROWS[-2:]):
            lm.pooled(some)
            lm.losses(some)
    finally:
        torch.set_num_threads(before)
        handle.remove()
    shapes = {(rows, length) for rows, length, _ in seen}
    assert len(shapes) == len({length for _, length in shapes}) >= 5
    assert all(rows == max(1, 512 // length) for rows, length in shapes)
    assert {threads for *_, threads in seen} == {1}


def test_threads_of_the_machine_change_no_bit():
    lm, before = reader(max_tokens=200), torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append((lm.pooled(TEXTS)[0], lm.losses(TEXTS)[0]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*made, strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_rows_have_no_states_and_no_losses():
    lm = reader()
    assert lm.pooled([])[0].shape == (0, 24)
    assert [part.shape for part in lm.losses([])] == [(0,), (0,)]


def test_a_model_counts_by_its_contents_wherever_it_lies(copy):
    def key(folder, **options):
        spec = Spec(model=str(folder), **options)
        options = spec.model_dump(mode="json") | {"model": "as the recipe says"}
        return Selected("rds", options, locate(spec, str(folder), key="model")).key

    assert key(copy, device="cpu") == key(tiny_lm(), device="cpu")
    assert str(copy) not in json.dumps(key(copy))
    assert key(copy, max_tokens=5) != key(copy)
    before = key(copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert key(copy) != before


def refused(folder: Path, need: str) -> None:
    with pytest.raises(InputError, match=need) as told:
        reader(folder)
    assert str(folder) in str(told.value)
    assert "\n" not in str(told.value)


def test_pickled_weights_are_refused_unopened(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, r"must hold its weights as safetensors; got 'pytorch_model.bin'\. Name the folder of a causal LM")


def test_a_missing_weight_is_refused(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    refused(copy, r"must hold every weight of its model; got 'no model.norm.weight \(1 missing\)'")


def test_a_model_that_sees_ahead_is_refused(tmp_path):
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    refused(with_tokenizer(BertLMHeadModel(config), tmp_path / "bert"), "must be causal: no token may see what comes")


def test_an_encoder_decoder_and_code_of_its_own_are_refused(tmp_path, copy):
    need = "must be a causal LM that transformers loads without custom code, with a tokenizer"
    config = T5Config(vocab_size=300, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    refused(with_tokenizer(T5ForConditionalGeneration(config), tmp_path / "t5"), need)
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (copy / "config.json").write_text(json.dumps(own))
    (copy / "evil.py").write_text("raise SystemExit('code of a model ran')")
    refused(copy, need)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=1))
    refused(with_tokenizer(model, tmp_path / "small"), r"must embed all \d+ tokens of its tokenizer; got 100")


def test_a_model_without_hidden_states_is_told(copy, monkeypatch):
    lm = CausalLM(str(copy), max_tokens=64, device="cpu", batch_tokens=512)
    monkeypatch.setattr(lm.model.base_model, "forward", lambda **_: SimpleNamespace(logits=None))
    with pytest.raises(InputError, match="must give the hidden states of its last layer; got 'LlamaModel'"):
        lm.pooled(["salt"])


def test_a_model_that_gives_no_numbers_is_told(copy):
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][:] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    refused(copy, "must give finite logits; got 'NaN or infinity'")


def test_a_model_that_is_not_there_is_told(tmp_path):
    (tmp_path / "lm").mkdir()
    with pytest.raises(InputError, match=r"select.rds.options.model must be a folder that exists.*Nearest: 'lm'"):
        locate(Spec(model="x"), str(tmp_path / "lmm"), key="select.rds.options.model")
    with pytest.raises(InputError, match=r"select.rds.options.model 'lmm' must be a model folder, or a model's name"):
        locate(Spec(model="lmm"), "lmm", key="select.rds.options.model")
