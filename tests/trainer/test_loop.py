import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mixtura.recipe import TinyModel, Train
from mixtura.trainer.chat import Chat
from mixtura.trainer.encode import Counts, Encoded, encode
from mixtura.trainer.evaluate import evaluate
from mixtura.trainer.loop import Loop, Plan, learning_rate, optimizer_for
from mixtura.trainer.mixture import Row
from mixtura.trainer.model import load, prepare_tiny
from mixtura.trainer.packing import pack

from .conftest import TEXTS

CPU = torch.device("cpu")


def test_the_schedule_rises_then_falls_as_half_a_cosine():
    rates = [learning_rate(s, 12, peak=1.0, warmup=0.25) for s in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    # 9 steps of cosine: cos(pi k/9); at k = 3 it is 1/2, so the rate is 3/4
    assert rates[6] == pytest.approx(0.75)
    assert rates[-1] == pytest.approx((1 - math.cos(math.pi / 9)) / 2)


@given(st.integers(1, 50), st.floats(0, 1))
def test_the_rate_is_never_zero_nor_above_its_peak(steps, warmup):
    rates = [learning_rate(s, steps, peak=3e-4, warmup=warmup) for s in range(steps)]
    assert all(0 < r <= 3e-4 for r in rates)
    assert max(rates) == 3e-4


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3), st.integers(0, 5))
def test_each_epoch_sees_every_sequence_once(sequences, per_step, epochs, seed):
    spec = Train(epochs=epochs, batch_tokens=512 * per_step)
    plan = Plan.of(spec, sequences, seed)
    seen = [s for step in range(plan.steps) for s in plan.step(step)]
    assert plan.per_step == per_step
    for e in range(epochs):
        assert sorted(seen[e * sequences : (e + 1) * sequences]) == list(range(sequences))
    assert len(seen) == epochs * sequences


def test_steps_override_epochs_and_orders_differ():
    plan = Plan.of(Train(steps=30, batch_tokens=1024), 20, 3)
    seen = [s for step in range(30) for s in plan.step(step)]
    assert (plan.steps, len(seen)) == (30, 60)
    assert seen[:20] != seen[20:40]
    assert seen != [s for step in range(30) for s in Plan.of(Train(steps=30, batch_tokens=1024), 20, 4).step(step)]


def run_loop(tiny, spec: Train, texts=TEXTS) -> Loop:
    loaded = load(spec, str(tiny))
    encoded = encode([Row(text=t) for t in texts], Chat(loaded.tokenizer), length=spec.sequence_length, loss="all")
    packs = pack(encoded, spec.sequence_length, seed=0)
    plan = Plan.of(spec, len(packs), 0)
    return Loop(loaded.model, optimizer_for(loaded.model, spec), encoded, packs, plan, spec, CPU)


def after(loop: Loop) -> tuple[list[dict], list[torch.Tensor]]:
    lines: list[dict] = []
    loop.run(0, lambda _, line: lines.append(line), None)
    return lines, [p.detach().clone() for p in loop.model.parameters()]


def distance(some, others) -> torch.Tensor:
    """|a - b| of every weight."""
    return torch.cat([(a - b).detach().abs().flatten() for a, b in zip(some, others, strict=True)])


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_the_micro_batch_changes_nothing_but_rounding(tiny, micro_batch):
    spec = Train(sequence_length=64, batch_tokens=512, steps=4, learning_rate=1e-3, micro_batch=8)
    lines, weights = after(run_loop(tiny, spec))
    other_lines, other = after(run_loop(tiny, spec.model_copy(update={"micro_batch": micro_batch})))
    assert [x["tokens"] for x in lines] == [x["tokens"] for x in other_lines]
    for a, b in zip(lines, other_lines, strict=True):
        # sums of some 500 float32 losses near 6, in another order
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    for a, b in zip(weights, other, strict=True):
        # Adam divides by the gradient's own size, so a rounding of a tiny gradient may move a weight by a share of
        # the rate (4 steps of 1e-3); most weights agree far closer
        torch.testing.assert_close(a, b, atol=5e-4, rtol=0)
    assert distance(weights, other).mean() < 1e-6


def test_one_step_is_adamw_on_the_mean_over_all_tokens_of_all_rows(tiny):
    """Oracle: rows one by one, unpacked, through torch's own AdamW and clipping."""
    spec = Train(
        sequence_length=64, batch_tokens=64 * 6, steps=1, learning_rate=1e-2, micro_batch=2, clip=0.5, warmup=0
    )
    loop = run_loop(tiny, spec, TEXTS[:25])
    rows = [loop.encoded[d] for i in loop.plan.step(0) for d in loop.packs[i]]
    oracle = copy.deepcopy(loop.model)
    _, weights = after(loop)
    losses = []
    for tokens, _ in rows:
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        logits = oracle(input_ids=ids, use_cache=False).logits[0, :-1]
        losses.append(F.cross_entropy(logits, ids[0, 1:], reduction="none"))
    torch.cat(losses).mean().backward()
    torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.5)
    groups = [
        {"params": [p for p in oracle.parameters() if p.ndim == n], "weight_decay": d} for n, d in ((2, 0.01), (1, 0.0))
    ]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)).step()
    difference = distance(weights, oracle.parameters())
    moved = distance(weights, load(spec, str(tiny)).model.parameters())
    assert moved.mean() > 1e-3  # the first Adam step moves each weight by about the rate
    assert difference.mean() < 1e-3 * moved.mean()


def test_a_planted_chain_is_learned_to_its_entropy(tmp_path):
    """Each token is followed by one of two, with chances 0.8 and 0.2: 0.5004 nats is the least loss there is."""
    rng = np.random.default_rng(0)
    tiny = prepare_tiny(["ab"], TinyModel(layers=1, width=32, heads=2, vocabulary=263), tmp_path / "m", seed=0)
    spec = Train(
        sequence_length=64, batch_tokens=2048, micro_batch=32, steps=120, learning_rate=2e-2, weight_decay=0, warmup=0.1
    )

    def chain(rows: int) -> Encoded:
        tokens = np.zeros((rows, 64), np.int32)
        tokens[:, 0] = rng.integers(0, 16, rows)
        for t in range(1, 64):
            tokens[:, t] = (tokens[:, t - 1] * 5 + np.where(rng.random(rows) < 0.8, 3, 11)) % 16
        trained = np.ones((rows, 64), bool)
        trained[:, 0] = False
        counts = Counts(rows, rows, 0, tokens.size, int(trained.sum()), rows * 63)
        return Encoded(tokens.ravel(), trained.ravel(), np.arange(rows + 1) * 64, np.arange(rows), counts)

    loaded, data, heldout = load(spec, str(tiny)), chain(1200), chain(200)
    packs = [[d] for d in range(1200)]
    loop = Loop(loaded.model, optimizer_for(loaded.model, spec), data, packs, Plan.of(spec, 1200, 0), spec, CPU)
    loop.run(0, lambda *_: None, None)
    measured = evaluate(loaded.model, heldout, [[d] for d in range(200)], micro_batch=50, device=CPU)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    # 12,600 held-out tokens: standard error ln(4) * 0.4 / sqrt(12600) = 0.005
    assert entropy - 0.015 < measured.loss < entropy + 0.03
    assert measured.bits_per_byte == pytest.approx(measured.loss / math.log(2))  # here a token is a byte


def test_held_out_loss_does_not_depend_on_packing_or_batch(tiny):
    loop = run_loop(tiny, Train(sequence_length=64))
    packed = evaluate(loop.model, loop.encoded, loop.packs, micro_batch=8, device=CPU)
    alone = evaluate(loop.model, loop.encoded, [[d] for d in range(len(loop.encoded))], micro_batch=1, device=CPU)
    assert packed.loss == pytest.approx(alone.loss, rel=1e-6)
    assert (packed.tokens, packed.bytes) == (alone.tokens, alone.bytes)
    assert packed.bytes == sum(len(t.encode()) for t in TEXTS)


def test_decay_spares_gains(tiny):
    model = load(Train(), str(tiny)).model
    groups = optimizer_for(model, Train(weight_decay=0.3)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
