"""Sentence encoders against sentence-transformers, and hostile model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from embed.texts import TEXTS, rows_file
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.embed import EmbedJob, embed_shard, load_encoder, read_vectors, sentence
from mixtura.pipeline.lengths import length_batches, length_class
from mixtura.pipeline.models import model_digest
from mixtura.recipe import Embed

SPEC = Embed(dimensions=8, features=200)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A two-layer BERT with random weights and a word-level tokenizer, saved as a sentence-transformers model."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({w for t in TEXTS for w in t.lower().split()})
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special + words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"), max_seq_length=64)
    model = SentenceTransformer(modules=[bert, Pooling(32), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture
def copy(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def model_spec(folder: Path, **options) -> Embed:
    return Embed(encoder=str(folder), device="cpu", **options)


LONG = ["the cat sat on the mat " * n for n in range(1, 30)]


def test_a_model_encodes_as_its_library_does(tiny_model):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(tiny_model), device="cpu").encode(TEXTS + LONG, normalize_embeddings=True)
    ours = load_encoder(model_spec(tiny_model)).encode(TEXTS + LONG)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # f32, summed in another order


def test_a_model_vector_depends_on_its_text_alone(tiny_model):
    """Bit for bit: alone, in any company, in any order, in slices of any size."""
    encoder = load_encoder(model_spec(tiny_model))
    texts = TEXTS + LONG
    together = encoder.encode(texts)
    assert (together == np.concatenate([encoder.encode([t]) for t in texts])).all()
    order = np.random.default_rng(0).permutation(len(texts))
    assert (encoder.encode([texts[i] for i in order]) == together[order]).all()


def test_a_stream_of_batches_gives_what_all_texts_at_once_give(tiny_model):
    """In order, and with no more than one batch read ahead of the one that is handed out."""
    encoder = load_encoder(model_spec(tiny_model))
    taken = []

    def batches():
        for i in range(0, len(LONG), 7):
            taken.append(i)
            yield LONG[i : i + 7]

    parts = []
    for part in encoder.stream(batches()):
        parts.append(part)
        assert len(taken) <= len(parts) + 1
    assert (np.concatenate(parts) == encoder.encode(LONG)).all()


@pytest.mark.parametrize(
    ("process", "gpu"), [("MainProcess", 0), ("SpawnProcess-1", 0), ("SpawnProcess-2", 1), ("SpawnProcess-4", 0)]
)
def test_workers_take_gpus_in_turns(process, gpu, monkeypatch):
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(name=process))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert sentence.own_gpu() == gpu


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(1, 2000), st.sampled_from([64, 100, 512]))
def test_batches_hold_every_row_once_within_their_tokens(lengths, batch_tokens, window):
    lengths = np.minimum(lengths, window)
    seen = []
    for rows, padded in length_batches(lengths, batch_tokens, window):
        assert len(rows) == 1 or len(rows) * padded <= batch_tokens
        assert all(lengths[r] <= padded <= window for r in rows)
        assert all(padded == length_class(int(lengths[r]), window) for r in rows)
        seen += rows
    assert sorted(seen) == list(range(len(lengths)))


def test_padding_wastes_at_most_a_fifth_of_long_rows():
    classes = [length_class(n, 10_000) for n in range(64, 4_096)]
    assert max(c / n for n, c in enumerate(classes, 64)) < 1.25
    assert len(set(classes)) <= 4 * 6 + 1  # four classes per doubling


def test_a_model_digest_follows_content_and_not_place(tiny_model, copy):
    before = model_digest(str(tiny_model))
    assert model_digest(str(copy)) == before
    (copy / "README.md").write_text("words about it")
    assert model_digest(str(copy)) == before
    pooling = next(copy.glob("*Pooling/config.json"))
    pooling.write_text(pooling.read_text() + " ")
    assert model_digest(str(copy)) != before


def test_a_shard_is_embedded_by_a_model(tmp_path, tiny_model):
    spec = model_spec(tiny_model, dtype="f32")
    encoder = load_encoder(spec)
    rows = rows_file(tmp_path / "rows.parquet", TEXTS)
    made = embed_shard(EmbedJob(rows, "rows", spec, encoder.folder, encoder.digest, str(tmp_path / "store")))
    _, vectors = read_vectors(made.file("vectors.parquet"))
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-7)
    assert made.facts["dimensions"] == 32
    manifest = (Path(made.path) / "manifest.json").read_text()
    assert str(tiny_model) not in manifest, "a machine's path must not enter an artefact"


def test_models_that_cannot_be_found(tiny_model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"must be a folder that exists.*Nearest: 'model'\."):
        load_encoder(Embed(encoder=str(tiny_model.parent / "modle")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"with modules\.json; got \[\]"):
        load_encoder(Embed(encoder=str(tmp_path / "empty")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"embed\.encoder 'no-such-model' must be a model folder, or a model's name"):
        load_encoder(Embed(encoder="no-such-model"))
    with pytest.raises(InputError, match="must be a model folder"):
        load_encoder(Embed(encoder="not a name"))


def test_a_device_that_is_absent(tiny_model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"embed\.device must be one of cpu.* got 'cuda'\. Use auto\."):
        load_encoder(Embed(encoder=str(tiny_model), device="cuda"))


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"safetensors; got 'copy/pytorch_model\.bin'"):
        load_encoder(model_spec(copy))


def test_code_that_comes_with_a_model_does_not_run(copy):
    (copy / "evil.py").write_text("raise SystemExit('ran')\nclass Evil: ...\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="must load without code of its own"):
        load_encoder(model_spec(copy))


def test_auto_map_in_a_config_does_not_run(copy):
    (copy / "evil.py").write_text("raise SystemExit('ran')\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="must load without code of its own"):
        load_encoder(model_spec(copy))


def test_a_model_file_without_some_weights_is_refused(copy):
    """Transformers fills the gap with random numbers, other ones in every process."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    gone = next(k for k in sorted(weights) if "attention" in k and k.endswith("weight"))
    save_file({k: v for k, v in weights.items() if k != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"must hold every weight .*\(1 missing\)"):
        load_encoder(model_spec(copy))


def test_a_model_in_the_older_layout_loads(copy, tiny_model):
    """Models of 2020 keep the network in a folder of its own."""
    modules = json.loads((copy / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (copy / "0_Transformer").mkdir()
    keep = {"modules.json", "config_sentence_transformers.json"}
    for file in [p for p in copy.iterdir() if p.is_file() and p.name not in keep]:
        file.rename(copy / "0_Transformer" / file.name)
    (copy / "modules.json").write_text(json.dumps(modules))
    made, expected = (load_encoder(model_spec(f)).encode(TEXTS) for f in (copy, tiny_model))
    assert (made == expected).all()


def test_a_damaged_model_file_is_refused(copy):
    with (copy / "model.safetensors").open("r+b") as f:
        f.truncate(1000)
    with pytest.raises(InputError, match="must load"):
        load_encoder(model_spec(copy))
