import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
)

from mixtura.trainer.encode import Counts, Encoded
from mixtura.trainer.evaluate import loss_sum
from mixtura.trainer.packing import IGNORE, best_fit_decreasing, collate, keeps_documents_apart, pack

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "llama, grouped queries": LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=48, num_key_value_heads=4, head_dim=8),
    "gpt2, learned positions": GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "gemma2, sliding window": Gemma2Config(
        **SMALL, intermediate_size=48, num_key_value_heads=2, head_dim=8, sliding_window=8
    ),
}
DEAF = {
    "opt": OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32),
    "bloom": BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
}
CPU = torch.device("cpu")


def documents(*lengths: int, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    trained = np.ones(starts[-1], bool)
    trained[starts[:-1]] = False
    return Encoded(
        rng.integers(0, 61, starts[-1]).astype(np.int32), trained, starts, np.arange(len(starts) - 1), Counts()
    )


def made(config) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def logits(model, batch) -> torch.Tensor:
    return model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(lengths, st.integers(40, 70), st.integers(0, 3))
def test_every_document_is_in_exactly_one_sequence_that_has_room(lengths, capacity, seed):
    order = np.random.default_rng(seed).permutation(len(lengths))
    packs = best_fit_decreasing(np.array(lengths), capacity, order)
    assert sorted(itertools.chain(*packs)) == list(range(len(lengths)))
    assert all(0 < sum(lengths[d] for d in p) <= capacity for p in packs)


@given(lengths, st.integers(40, 70))
def test_the_fit_is_the_best_one(lengths, capacity):
    """Oracle: look at every open sequence, take the one with least room that suffices."""
    order = np.arange(len(lengths))
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [r for r in rooms if r >= length]
        if fits:
            rooms[rooms.index(min(fits))] -= length
        else:
            rooms.append(capacity - length)
    packs = best_fit_decreasing(np.array(lengths), capacity, order)
    assert sorted(capacity - sum(lengths[d] for d in p) for p in packs) == sorted(rooms)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=6))
def test_near_the_fewest_sequences(lengths):
    """Oracle: all assignments. Johnson's bound 11/9 OPT + 1 is below OPT + 2 for so few."""
    n = len(lengths)
    fewest = (
        min(
            len(set(places))
            for places in itertools.product(range(n), repeat=n)
            if all(sum(x for x, p in zip(lengths, places, strict=True) if p == q) <= 10 for q in range(n))
        )
        if n < 6
        else -(-sum(lengths) // 10)
    )
    packs = best_fit_decreasing(np.array(lengths), 10, np.arange(n))
    assert len(packs) <= 11 / 9 * fewest + (1 if n < 6 else 2)


def test_a_document_longer_than_a_sequence_is_our_mistake():
    with pytest.raises(ValueError, match=r"lengths must be in 1\.\.4; got 1\.\.5"):
        best_fit_decreasing(np.array([1, 5]), 4, np.arange(2))


def test_a_batch_worked_out_by_hand():
    encoded = Encoded(
        np.array([9, 5, 6, 9, 7], np.int32),
        np.array([0, 1, 1, 0, 1], bool),
        np.array([0, 3, 5]),
        np.arange(2),
        Counts(),
    )
    batch = collate(encoded, [[0, 1]])
    assert batch.ids.tolist() == [[9, 5, 6, 9, 7] + [0] * 11]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, *range(11)]]
    # 9→5, 5→6, then a border: 6 does not predict the next document; 9→7; padding predicts nothing
    assert batch.labels.tolist() == [[5, 6, IGNORE, 7] + [IGNORE] * 12]


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_logits_equal_those_of_the_row_alone(name):
    model, encoded = made(CONFIGS[name]), documents(30, 1, 2, 17, 25)
    packed = logits(model, collate(encoded, [[0, 1, 2, 3, 4]]))[0]
    for document, start in enumerate(encoded.starts[:-1]):
        alone = logits(model, collate(encoded, [[document]]))[0]
        n = encoded.length(document)
        # float32: sums over at most 75 terms of size 1 in another order
        torch.testing.assert_close(packed[start : start + n], alone[:n], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_restarted_positions_the_documents_mix(name):
    """Negative control: the comparison above can fail."""
    model, encoded = made(CONFIGS[name]), documents(30, 25)
    batch = collate(encoded, [[0, 1]])
    straight = model(input_ids=batch.ids, position_ids=torch.arange(64)[None], use_cache=False).logits[0]
    alone = logits(model, collate(encoded, [[1]]))[0]
    assert (straight[30:55] - alone[:25]).abs().max() > 1e-2


def test_a_document_leaves_its_neighbours_loss_and_gradient_alone():
    model, encoded = made(CONFIGS["llama, grouped queries"]), documents(20, 24)
    batch = collate(encoded, [[0, 1]])
    batch.labels[0, :20] = IGNORE  # only the second document is trained on
    results = []
    for shift in (0, 5):
        model.zero_grad()
        changed = batch.ids.clone()
        changed[0, :20] = (changed[0, :20] + shift) % 61
        loss = loss_sum(model, type(batch)(changed, batch.positions, batch.labels))
        loss.backward()
        results.append([loss.detach(), *[p.grad.clone() for p in model.model.layers.parameters()]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_probe_believes_models_that_listen(name):
    assert keeps_documents_apart(made(CONFIGS[name]), CPU)


@pytest.mark.parametrize("name", DEAF)
def test_the_probe_catches_architectures_that_mix_documents(name):
    """Real ones: their attention takes no notice of restarted positions, and nothing says so."""
    assert not keeps_documents_apart(made(DEAF[name]), CPU)


def test_the_probe_catches_a_model_that_does_not_listen():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = made(CONFIGS["llama, grouped queries"])

        def forward(self, input_ids, position_ids, use_cache):
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    assert not keeps_documents_apart(Deaf(), CPU)


def test_a_model_that_does_not_listen_gets_one_document_a_sequence():
    encoded = documents(4, 5, 6)
    assert pack(encoded, 64, seed=0, together=False) == [[0], [1], [2]]
    assert len(pack(encoded, 64, seed=0)) == 1
