import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.recipe import TinyModel, Train
from mixtura.trainer.model import SPECIAL, load, prepare_tiny, train_tokenizer

from .conftest import TEXTS

TOKENIZER = train_tokenizer(TEXTS, 330)


def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


@given(st.text(max_size=80))
def test_every_string_survives_the_tokenizer(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_the_tokenizer_does_not_depend_on_the_order_of_its_texts(tmp_path):
    assert train_tokenizer(TEXTS[::-1], 330).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    assert [TOKENIZER.convert_tokens_to_ids(t) for t in SPECIAL] == list(range(len(SPECIAL)))


def test_merges_are_learned_from_the_texts():
    words = " ".join(TEXTS[5].split())
    assert len(TOKENIZER(words)["input_ids"]) < 0.75 * len(words)


def test_a_tiny_model_follows_its_spec_and_seed(tmp_path):
    spec = TinyModel(layers=3, width=48, heads=4, vocabulary=300)
    first, same, other = (
        load(Train(), str(prepare_tiny(TEXTS, spec, tmp_path / n, seed=s))).model
        for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    config = first.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (3, 48, 300)
    # tied embedding, then per layer: 4 attention matrices, 3 of the MLP (8/3 of 48 = 128), 2 gains; 1 last gain
    assert sum(p.numel() for p in first.parameters()) == 300 * 48 + 3 * (4 * 48**2 + 3 * 48 * 128 + 2 * 48) + 48
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_pickled_weights_are_refused(tiny, tmp_path):
    folder = copy(tiny, tmp_path)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="must be a causal LM that transformers loads without custom code, with safe"):
        load(Train(), str(folder))


def test_code_of_a_model_s_repository_is_not_run(tiny, tmp_path):
    folder = copy(tiny, tmp_path)
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'hacked')!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    classes = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "modeling_evil.Evil")
    config |= {"model_type": "evil", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="without custom code"):
        load(Train(), str(folder))
    assert not (tmp_path / "hacked").exists()


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"train\.model '.*nothing' must be a causal LM.*Name a model's folder"):
        load(Train(), str(tmp_path / "nothing"))


def test_sequences_longer_than_the_model_s_context_are_refused(tiny):
    with pytest.raises(InputError, match=r"train\.sequence_length must be at most the model's 8192; got 10000"):
        load(Train(sequence_length=10_000), str(tiny))


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tiny, tmp_path):
    folder = copy(tiny, tmp_path)
    train_tokenizer([*TEXTS, "many other words indeed, none of them seen before"], 340).save_pretrained(folder)
    with pytest.raises(InputError, match=r"must embed all 340 tokens of its tokenizer; got 320"):
        load(Train(), str(folder))


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vocabulary must be at least 263 \(bytes, control tokens\); got 262"):
        prepare_tiny(TEXTS, TinyModel(vocabulary=262), tmp_path / "m", seed=0)
    assert list(tmp_path.iterdir()) == []
