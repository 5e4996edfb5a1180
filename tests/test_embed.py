"""Encoders: against scikit-learn, against sentence-transformers, and one vector per text whatever surrounds it."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.pipeline.embed import EmbedJob, embed_shard, fit_encoder, load_encoder, read_vectors, sentence
from mixtura.pipeline.embed.fitted import Features, FittedEncoder, choose_features, term_counts
from mixtura.pipeline.embed.words import grams, hash_of
from mixtura.pipeline.lengths import length_batches, length_class
from mixtura.pipeline.models import model_digest
from mixtura.recipe import Embed
from mixtura.store import Store

SPEC = Embed(dimensions=8, features=200)
TEXTS = [
    "The cat sat on the mat; the cat slept.",
    "A cat and a dog sat on the mat.",
    "Stock prices fell as interest rates rose.",
    "Interest rates rose again, and stock markets fell.",
    "道可道，非常道。名可名，非常名。",
    "非常道也，非常名也。",
    "नमस्ते दुनिया, हिन्दी में नमस्ते दुनिया",
    "İstanbul'da ΟΔΟΣ über_cool naïve 42",
    "",
    "?!",
] * 2


def spelled(text: str) -> list[str]:
    made = grams([text])
    return [made.spelled(i) for i in range(len(made.hash))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat the CAT", ["the", "cat", "the", "cat", "the cat", "cat the", "the cat"]),
        ("f(x)={};", ["f", "(", "x", ")={};", "f (", "( x", "x )={};"]),  # signs next to each other are one word
        ("3+4 = $7", ["3", "+", "4", "=", "$", "7", "3 +", "+ 4", "4 =", "= $", "$ 7"]),
        ("x_1 naïve", ["x_1", "naïve", "x_1 naïve"]),
        ("道可道", ["道", "可", "道", "道 可", "可 道"]),
        ("GPU显卡", ["gpu", "显", "卡", "gpu 显", "显 卡"]),
        ("हिन्दी", ["हिन्दी"]),  # vowel signs are marks, not letters: \w would split the word in three
        ("ひらカナ", ["ひ", "ら", "カ", "ナ", "ひ ら", "ら カ", "カ ナ"]),
        (" -- ", ["--"]),
        (" \x07 \u200b ", []),  # control and format characters are neither
        ("", []),
    ],
    ids=["english", "code", "sum", "latin", "chinese", "mixed", "hindi", "japanese", "signs", "control", "empty"],
)
def test_words_and_pairs_of_many_scripts(text, expected):
    assert spelled(text) == expected


@settings(deadline=None)  # the first call builds tables
@given(st.lists(st.text(max_size=30), max_size=12))
def test_a_text_has_the_same_grams_in_any_batch(texts):
    together = grams(texts)
    for i, text in enumerate(texts):
        assert together.hash[together.row == i].tolist() == grams([text]).hash.tolist()


@settings(deadline=None)
@given(st.text(max_size=40))
def test_what_is_spelled_hashes_back(text):
    """The vocabulary is stored as words; their hashes are computed again on loading."""
    made = grams([text])
    assert (hash_of([made.spelled(i) for i in range(len(made.hash))]) == made.hash).all()


def test_grams_of_real_words_do_not_collide():
    texts = [p.read_text("utf-8") for p in sorted(Path(json.__file__).parent.parent.glob("*.py"))[:40]]
    made = grams(texts)
    distinct = {made.spelled(i) for i in range(len(made.hash))}
    assert len(distinct) > 20_000
    assert len(np.unique(made.hash)) == len(distinct)


def test_tf_idf_and_svd_span_what_scikit_learn_finds(tmp_path):
    """Our counts, weights and directions against TfidfVectorizer and numpy's full SVD, through the cosines."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)  # 12 topics of 10 words: the 13th singular value is far below the 12th
    texts = [" ".join(f"t{i % 12}w{j}" for j in rng.integers(0, 10, 60) ** 2 // 10) for i in range(120)]
    spec = Embed(dimensions=12, features=100_000)
    encoder = load_encoder(spec, fit_encoder(spec, texts, seed=0, store=Store(tmp_path), inputs=[]))
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]+", min_df=2).fit(texts)
    assert isinstance(encoder, FittedEncoder)
    assert sorted(encoder.vocabulary) == sorted(theirs.get_feature_names_out())
    _, values, v = np.linalg.svd(theirs.transform(texts).toarray(), full_matrices=False)
    assert values[12] < 0.7 * values[11]
    queries = [" ".join(pair) for pair in itertools.pairwise(texts)]
    expected = theirs.transform(queries).toarray() @ v[:12].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    made = encoder.encode(queries)
    np.testing.assert_allclose(made @ made.T, expected @ expected.T, atol=1e-3)  # the randomised SVD's own error


def test_term_counts_are_sublinear():
    words = ["a", "b", "c", "a b"]
    hashes = hash_of(words)
    made = term_counts(grams(["a a a b", "b c", "zzz"]), Features(np.sort(hashes))).toarray()
    by_word = made[:, np.searchsorted(np.sort(hashes), hashes)]
    np.testing.assert_allclose(by_word, [[1 + np.log(3), 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, unique=True), st.lists(st.integers(0, 2**64 - 1)), st.data())
def test_features_are_found_as_a_dictionary_finds_them(hashes, others, data):
    """Neighbours that differ in their last bits share a place of the table."""
    near = [h ^ 1 for h in hashes]
    known = sorted({*hashes, *data.draw(st.lists(st.sampled_from(near)))})
    asked = [*hashes, *others, *near]
    found, column = Features(np.array(known, np.uint64)).find(np.array(asked, np.uint64))
    place = {h: i for i, h in enumerate(known)}
    assert list(zip(found.tolist(), column.tolist(), strict=True)) == [
        (i, place[h]) for i, h in enumerate(asked) if h in place
    ]


def test_the_commonest_grams_become_features():
    texts = ["alpha beta", "alpha gamma", "alpha beta delta"]
    chosen = choose_features(texts, Embed(features=2))
    assert alike(chosen, ["alpha", "beta"]) or alike(chosen, ["alpha", "alpha beta"])  # beta and the pair are in two
    assert alike(choose_features(texts, Embed(features=99)), ["alpha", "beta", "alpha beta"])  # others: one text only
    assert len(choose_features(["one two"], Embed())) == 3  # nothing occurs twice: everything counts


def alike(hashes: np.ndarray, words: list[str]) -> bool:
    return hashes.tolist() == np.sort(hash_of(words)).tolist()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> FittedEncoder:
    store = Store(tmp_path_factory.mktemp("store"))
    encoder = load_encoder(SPEC, fit_encoder(SPEC, TEXTS, seed=3, store=store, inputs=["texts"]))
    assert isinstance(encoder, FittedEncoder)
    return encoder


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(TEXTS) | st.text(max_size=60), min_size=1, max_size=20))
def test_a_fitted_vector_depends_on_its_text_alone(fitted, texts):
    together = fitted.encode(texts)
    assert (together == np.concatenate([fitted.encode([t]) for t in texts])).all()
    norms = np.linalg.norm(together, axis=1)
    assert (np.isclose(norms, 1, atol=1e-6) | (norms == 0)).all()


def test_topics_and_scripts_find_their_own(fitted):
    v = fitted.encode(TEXTS[:7])
    cosines = v @ v.T - 2 * np.eye(7, dtype=np.float32)
    assert cosines[:6].argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
    assert abs(v[0] @ v[2]) < 0.05
    assert abs(v[0] @ v[4]) < 0.05
    assert np.linalg.norm(v[6]) == pytest.approx(1)


def test_a_text_without_a_known_word_is_zero(fitted):
    assert not fitted.encode(["", "§§", "unheardof"]).any()


def test_text_beyond_max_chars_is_not_read(tmp_path):
    spec = Embed(dimensions=8, max_chars=10)
    encoder = load_encoder(spec, fit_encoder(spec, TEXTS, seed=0, store=Store(tmp_path), inputs=[]))
    a, b = encoder.encode(["The cat sat on the mat", "The cat sa"])
    assert (a == b).all()


def test_the_same_fit_gives_the_same_bytes_without_pickles(tmp_path):
    made = [fit_encoder(SPEC, TEXTS, seed=3, store=Store(tmp_path / n), inputs=["texts"]) for n in "ab"]
    assert made[0].digest == made[1].digest
    assert made[0].key == made[1].key
    assert sorted(made[0].files) == ["encoder.safetensors", "vocabulary.json"]
    other = fit_encoder(SPEC, TEXTS, seed=4, store=Store(tmp_path / "a"), inputs=["texts"])
    assert other.key != made[0].key
    again = fit_encoder(SPEC, iter(()), seed=3, store=Store(tmp_path / "a"), inputs=["texts"])  # found: nothing is read
    assert again.reused


@pytest.mark.parametrize("texts", [["a"], ["same words"] * 9, ["one", ""], ["x y z", "p q"]])
def test_tiny_samples_fit(tmp_path, texts):
    encoder = load_encoder(SPEC, fit_encoder(SPEC, texts, seed=0, store=Store(tmp_path), inputs=[]))
    v = encoder.encode(texts)
    assert np.isfinite(v).all()
    assert np.linalg.norm(v[0]) == pytest.approx(1)


def test_a_sample_without_words_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"encoder 'fitted' must have rows with words .* got '2 rows"):
        fit_encoder(SPEC, ["", "\u200b \x07"], seed=0, store=Store(tmp_path), inputs=[])
    with pytest.raises(InputError, match="must be fitted"):
        load_encoder(SPEC)


def shard(path: Path, texts: list[str]) -> str:
    turns = [None if i % 2 else [{"role": "user", "content": t}] for i, t in enumerate(texts)]
    schema = {
        "id": pl.String,
        "text": pl.String,
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    }
    documents = [t if i % 2 else None for i, t in enumerate(texts)]
    pl.DataFrame(
        {"id": [f"r{i}" for i in range(len(texts))], "text": documents, "messages": turns}, schema=schema
    ).write_parquet(path)
    return str(path)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-7), ("f16", 5e-4)])  # f16 keeps 11 bits
def test_a_shard_becomes_vectors_in_its_order(tmp_path, fitted, dtype, tolerance):
    spec = SPEC.model_copy(update={"dtype": dtype})
    rows = shard(tmp_path / "rows.parquet", TEXTS)
    job = EmbedJob(rows, "digest", spec, fitted.folder, fitted.digest, str(tmp_path / "store"))
    made = embed_shard(job)
    ids, vectors = read_vectors(made.file("vectors.parquet"))
    assert ids == [f"r{i}" for i in range(len(TEXTS))]
    np.testing.assert_allclose(vectors, fitted.encode(TEXTS), atol=tolerance)
    assert made.facts == {"rows": 20, "dimensions": fitted.dimensions, "zero": 2, "cut": 0}
    assert embed_shard(job).reused
    list_type = pl.read_parquet_schema(made.file("vectors.parquet"))["vector"]
    assert list_type == pl.Array({"f16": pl.Float16, "f32": pl.Float32}[dtype], fitted.dimensions)


def test_an_empty_shard_gives_no_vectors(tmp_path, fitted):
    rows = shard(tmp_path / "rows.parquet", [])
    made = embed_shard(EmbedJob(rows, "none", SPEC, fitted.folder, fitted.digest, str(tmp_path)))
    ids, vectors = read_vectors(made.file("vectors.parquet"))
    assert ids == []
    assert vectors.shape == (0, fitted.dimensions)


def test_a_shard_of_many_batches_has_the_same_vectors(tmp_path, fitted, monkeypatch):
    """Batches are written as they come, and a model may be a batch behind its reader."""
    rows = shard(tmp_path / "rows.parquet", TEXTS)
    spec = SPEC.model_copy(update={"dtype": "f32"})
    stored = []
    for batch in (7, 4_096):
        monkeypatch.setattr("mixtura.pipeline.embed.BATCH_ROWS", batch)
        made = embed_shard(EmbedJob(rows, "d", spec, fitted.folder, fitted.digest, str(tmp_path / f"{batch}")))
        stored.append((read_vectors(made.file("vectors.parquet")), made.facts))
    (few, few_facts), (all_at_once, facts) = stored
    assert few[0] == all_at_once[0] == [f"r{i}" for i in range(len(TEXTS))]
    assert (few[1] == all_at_once[1]).all()
    assert few_facts == facts


# --- sentence-transformers ---


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
    rows = shard(tmp_path / "rows.parquet", TEXTS)
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
