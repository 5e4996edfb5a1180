"""Packed encoders: every architecture gives its library's vectors, packed or not, and bits that no neighbour moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mixtura.pipeline.embed.packed import tiles
from mixtura.pipeline.embed.sentence import SentenceEncoder
from mixtura.pipeline.lengths import length_class

WORDS = [*"abcdefgh", "cat", "dog", "far", "away", "from", "two", "small", "birds"]
SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # padding is 1, as RoBERTa has it
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "pad_token_id": 1,
    "vocab_size": len(SPECIAL) + len(WORDS),
}
KEYS: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
ENDS = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
# name → class of transformers, options beside SIZES, pooling, can it be packed
KINDS: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "bert, mean": ("Bert", {}, "mean", True),
    "bert, cls": ("Bert", {}, "cls", True),
    "bert, max": ("Bert", {}, "max", True),
    "bert, weighted mean": ("Bert", {}, "weightedmean", True),
    "roberta: positions from 2 on": ("Roberta", {}, "mean", True),
    "xlm-roberta": ("XLMRoberta", {}, "mean", True),
    "qwen3: causal, grouped heads": ("Qwen3", KEYS, "lasttoken", True),
    "mpnet: relative positions": ("MPNet", {}, "mean", False),
    "modernbert: windows": ("ModernBert", {"local_attention": 16, **ENDS}, "mean", False),
    "gemma3: windows": (
        "Gemma3Text",
        {"sliding_window": 16, "use_bidirectional_attention": True, **KEYS},
        "mean",
        False,
    ),
}
TEXTS = ["", "dog", "far unknown words", *(" ".join((WORDS * 5)[i : i + 3 * i]) for i in range(1, 21))]


def saved(folder: Path, kind: str, options: dict[str, Any], pooling: Any) -> Path:
    """A sentence-transformers model of two layers with random weights, reading at most 64 tokens."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("unk_token", "pad_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    side = "left" if pooling == "lasttoken" else "right"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, padding_side=side, **names
    ).save_pretrained(folder / "network")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder / "network")
    network = Transformer(str(folder / "network"), max_seq_length=64)
    modules = [network, Pooling(SIZES["hidden_size"], pooling_mode=pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.mark.parametrize("name", KINDS)
def test_an_architecture_gives_what_its_library_gives(name, tmp_path):
    from sentence_transformers import SentenceTransformer

    kind, options, pooling, packs = KINDS[name]
    folder = str(saved(tmp_path, kind, options, pooling))
    encoder = SentenceEncoder(folder, "digest", max_chars=8_000, device="cpu", batch_tokens=512)
    assert (encoder.packed is not None) == packs
    together = encoder.encode(TEXTS)
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(together, theirs, atol=1e-6)  # f32, summed in another order
    order = np.random.default_rng(0).permutation(len(TEXTS))
    assert (encoder.encode([TEXTS[i] for i in order]) == together[order]).all()
    assert (encoder.encode(TEXTS[-1:]) == together[-1:]).all()


@example([8, 8], 1, 64)  # two that fit the class of one that is too long
@given(st.lists(st.integers(1, 600), max_size=80), st.integers(1, 700), st.sampled_from([64, 100, 512]))
def test_tiles_hold_every_row_once(lengths, tokens, window):
    lengths = [min(n, window) for n in lengths]
    seen = []
    for tile in tiles(lengths, tokens, window):
        assert tile.lengths == [lengths[r] for r in tile.rows] == sorted(tile.lengths, reverse=True)
        assert 0 < sum(tile.lengths) <= tile.size
        assert tile.size == tokens or (len(tile.rows) == 1 and tile.size == length_class(tile.lengths[0], window))
        seen += tile.rows
    assert sorted(seen) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 128), min_size=1, max_size=300))
def test_tiles_but_the_last_are_nearly_full(lengths):
    """No row of a later tile would have fitted into an earlier one."""
    made = list(tiles(lengths, 512, 512))
    for i, tile in enumerate(made[:-1]):
        free = tile.size - sum(tile.lengths)
        assert free < min(min(later.lengths) for later in made[i + 1 :])
    assert sum(Counter(len(t.rows) for t in made).values()) == len(made)
