"""Preference training against closed forms, TRL's own losses, and a preference planted in the pairs."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import InputError
from mixtura.recipe import Preference, TinyModel, Train
from mixtura.store import file_digest
from mixtura.trainer import train
from mixtura.trainer.chat import Chat
from mixtura.trainer.loop import Plan, optimizer_for
from mixtura.trainer.mixture import Pair, holds_pairs, read_pairs
from mixtura.trainer.model import load, prepare_tiny
from mixtura.trainer.pairs import encode_pairs, pack_pairs
from mixtura.trainer.preference import (
    PairLoop,
    evaluate_pairs,
    for_pairs,
    log_probabilities,
    margins,
    pair_losses,
)

from .conftest import TEXTS, WORDS

CPU = torch.device("cpu")
DPO, SIMPO = Preference(loss="dpo"), Preference(loss="simpo")
TOOLS = [{"type": "function", "function": {"name": "sit", "parameters": {"type": "object", "properties": {}}}}]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(i: int) -> Pair:
    """Answers of different lengths, some with tools, some after an earlier turn of the assistant's."""
    before = [user("run?"), says("no, sat on a mat")] if i % 3 == 0 else []
    prompt = [*before, user(TEXTS[i][:40])]
    chosen, rejected = says(" ".join(WORDS[i % 5 : i % 5 + 4])), says(" ".join(WORDS[: 2 + i % 7]) + " dog")
    return Pair(prompt, [chosen], [rejected], TOOLS if i % 2 else None)


PAIRS = [pair(i) for i in range(1, 14)]


def of(log_p, reference=None, tokens=None, spec=DPO) -> float:
    """Loss of one pair."""
    given_ = [torch.tensor(x, dtype=torch.float64) for x in (log_p, reference or [0.0, 0.0], tokens or [1.0, 1.0])]
    return float(pair_losses(spec, margins(spec, *given_)))


def test_closed_forms():
    assert of([-3.0, -7.0], [-3.0, -7.0]) == pytest.approx(math.log(2))  # policy = reference
    assert of([-3.0, -7.0], [-4.0, -6.0]) == pytest.approx(0.59814, abs=1e-5)  # gap 2, beta 0.1: log(1 + e^-0.2)
    assert of([-3.0, -7.0], [-4.0, -6.0], spec=Preference(beta=1.0)) == pytest.approx(math.log1p(math.exp(-2)))
    assert of([-6.0, -2.0], tokens=[3.0, 1.0], spec=SIMPO) == pytest.approx(0.97408, abs=1e-5)  # equal means
    assert of([-1.0, -1.2], spec=SIMPO) == pytest.approx(math.log(2))  # beta x 0.2 = gamma
    assert of([-2.0, -5.6], tokens=[2.0, 4.0], spec=SIMPO) == pytest.approx(0.47408, abs=1e-5)  # d = 0.4


@given(st.lists(st.floats(-50, 0), min_size=4, max_size=4), st.floats(-5, 5))
def test_dpo_sees_only_how_the_two_ratios_differ(values, shift):
    w, lost, rw, rl = values
    assert of([w + shift, lost + shift], [rw, rl]) == pytest.approx(of([w, lost], [rw, rl]), abs=1e-9)
    swapped = of([lost, w], [rl, rw])
    # -log s(x) - (-log s(-x)) = -x
    assert of([w, lost], [rw, rl]) - swapped == pytest.approx(-0.1 * ((w - rw) - (lost - rl)), abs=1e-9)


@pytest.fixture
def encoded(tokenizer):
    return encode_pairs(PAIRS, Chat(tokenizer), length=256)


def test_only_the_answers_are_trained_on(tokenizer, encoded):
    assert encoded.counts.facts()["skipped"] == {}
    for i, one in enumerate(PAIRS):
        for side, answer in enumerate((one.chosen, one.rejected)):
            tokens, trained = encoded[2 * i + side]
            end = [tokenizer.eos_token_id]
            answer_ids = tokenizer(answer[0]["content"], add_special_tokens=False)["input_ids"] + end
            assert tokens[trained].tolist() == answer_ids
            assert tokens[-len(answer_ids) :].tolist() == answer_ids  # nothing comes after
    assert encoded.rows.tolist() == [i for i in range(len(PAIRS)) for _ in range(2)]


def test_pairs_that_cannot_be_learned_from_are_counted_by_reason(tokenizer):
    odd = [
        Pair([user("hi")], [says("cat")], [says("cat")]),
        Pair([user("hi")], [says("cat " * 300)], [says("cat")]),
        Pair([user("hi")], [says("cat")], [says("dog<|end|>")]),
        Pair([user("hi")], [user("cat")], [says("dog")]),
    ]
    counts = encode_pairs([*odd, *PAIRS], Chat(tokenizer), length=200).counts.facts()
    reasons = ("control-token-in-content", "equal-answers", "no-answer", "pair-beyond-sequence-length")
    assert counts["skipped"] == dict.fromkeys(reasons, 1)
    assert (counts["rows"], counts["encoded"]) == (len(PAIRS) + 4, len(PAIRS))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30), st.integers(0, 9))
def test_a_pair_is_never_split(sizes, seed):
    from mixtura.trainer.encode import Counts, flat

    pieces = [(np.zeros(n, np.int32), np.ones(n, bool)) for both in sizes for n in both]
    made = flat(pieces, [i // 2 for i in range(len(pieces))], Counts())
    packs = pack_pairs(made, 40, seed)
    assert sorted(d for p in packs for d in p) == list(range(len(pieces)))
    assert all(p[::2] == [d - 1 for d in p[1::2]] and p[0] % 2 == 0 for p in packs)
    assert all(sum(made.length(d) for d in p) <= 80 for p in packs)


def test_log_probabilities_are_those_of_each_answer_alone(model, encoded):
    """Oracle: one document at a time, through the model's logits and log_softmax."""
    packs = pack_pairs(encoded, 256, seed=1)
    assert max(map(len, packs)) >= 4, "pairs share a sequence, else nothing is shown"
    packed = log_probabilities(model, encoded, packs, together=True, micro=2, device=CPU)
    apart = log_probabilities(model, encoded, packs, together=False, micro=3, device=CPU)
    for document in range(len(encoded)):
        tokens, trained = encoded[document]
        ids = torch.from_numpy(tokens.astype(np.int64))
        with torch.no_grad():
            nats = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), -1).gather(1, ids[1:, None])[:, 0]
        alone = float(nats[torch.from_numpy(trained[1:])].sum())
        assert packed[document] == pytest.approx(alone, rel=1e-5)
        assert apart[document] == pytest.approx(alone, rel=1e-5)


def moved(tiny, by: float, seed: int):
    """The tiny model with noise on every weight: another policy."""
    model = load(Train(), str(tiny)).model
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model.eval()


def ours(model, encoded, spec: Preference, reference: np.ndarray, *, micro=16, together=True) -> tuple[dict, list]:
    """The step over all pairs: what is told, and the gradient."""
    settings_ = for_pairs(Train(sequence_length=256, batch_tokens=1 << 20, preference=spec))
    settings_ = settings_.model_copy(update={"micro_batch": micro})
    packs = pack_pairs(encoded, 256, seed=0)
    plan = Plan.of(settings_, len(packs), 0)
    parts = (model, optimizer_for(model, settings_), encoded, packs, plan, settings_, CPU)
    model.zero_grad()
    told = PairLoop(*parts, spec, reference, together)._accumulate(packs)
    gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return told, gradient


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
@pytest.mark.parametrize(("micro", "together"), [(1, True), (3, False)])
def test_the_micro_batch_and_packing_change_nothing(tiny, encoded, loss, micro, together):
    spec = Preference(loss=loss, nll=0.7, beta=1.5)
    policy, start = moved(tiny, 0.05, 1), moved(tiny, 0.0, 1)
    packs = pack_pairs(encoded, 256, seed=0)
    reference = log_probabilities(start, encoded, packs, together=True, micro=4, device=CPU)
    told, gradient = ours(policy, encoded, spec, reference)
    other, same = ours(policy, encoded, spec, reference, micro=micro, together=together)
    assert other == pytest.approx(told, rel=1e-4, abs=1e-6)
    for a, b in zip(gradient, same, strict=True):
        # sums of float32 in another order: relative to the largest entry
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(a.abs().max()) + 1e-9)


@pytest.fixture
def columns() -> dict[str, list]:
    """The pairs as a preference mixture holds them: tools as JSON."""
    return {
        "prompt": [p.prompt for p in PAIRS],
        "chosen": [p.chosen for p in PAIRS],
        "rejected": [p.rejected for p in PAIRS],
        "tools": [json.dumps(p.tools) if p.tools else None for p in PAIRS],
    }


QUIET = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "bf16": False, "seed": 1}


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
@pytest.mark.parametrize("nll", [0.0, 0.4])
def test_dpo_is_trl_s_own_loss_and_gradient(tiny, encoded, columns, tmp_path, tokenizer, nll):
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    weights = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]} if nll else {}
    trainer = trl.DPOTrainer(
        moved(tiny, 0.05, 1),
        ref_model=moved(tiny, 0.05, 2),
        args=trl.DPOConfig(
            str(tmp_path), **QUIET, beta=0.3, max_length=256, per_device_train_batch_size=len(PAIRS), **weights
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    packs = pack_pairs(encoded, 256, seed=0)
    reference = log_probabilities(moved(tiny, 0.05, 2), encoded, packs, together=True, micro=4, device=CPU)
    told, gradient = ours(moved(tiny, 0.05, 1), encoded, Preference(loss="dpo", beta=0.3, nll=nll), reference)
    assert told["loss"] == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert abs(told["loss"] - math.log(2)) > 1e-2  # the policies do differ
    compare([p.grad for p in trainer.model.parameters() if p.grad is not None], gradient)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::trl.experimental.TRLExperimentalWarning")
@pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
@pytest.mark.parametrize("nll", [0.0, 0.4])
def test_simpo_is_trl_s_own_loss_and_gradient(tiny, columns, tmp_path, tokenizer, nll):
    pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    del columns["tools"]  # this trainer's template does not see them
    encoded = encode_pairs([Pair(p.prompt, p.chosen, p.rejected) for p in PAIRS], Chat(tokenizer), length=256)
    simpo = {"loss_type": "simpo", "cpo_alpha": nll, "simpo_gamma": 0.5, "beta": 2.5}
    trainer = CPOTrainer(
        moved(tiny, 0.05, 1),
        args=CPOConfig(str(tmp_path), **QUIET, **simpo, max_length=256, per_device_train_batch_size=len(PAIRS)),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    (batch,) = trainer.get_train_dataloader()
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    told, gradient = ours(
        moved(tiny, 0.05, 1), encoded, Preference(loss="simpo", nll=nll), np.zeros(len(encoded), np.float32)
    )
    assert told["loss"] == pytest.approx(float(theirs.detach()), rel=1e-5)
    compare([p.grad for p in trainer.model.parameters() if p.grad is not None], gradient)


def compare(theirs, gradient) -> None:
    assert len(theirs) == len(gradient) > 10
    for a, b in zip(theirs, gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()) + 1e-9)


def write_pairs(folder, pairs: list[Pair], validation: list[Pair]):
    for name, some in (("train", pairs), ("validation", validation)):
        (folder / name).mkdir(parents=True)
        frame = pl.DataFrame(
            {
                "prompt": [p.prompt for p in some],
                "chosen": [p.chosen for p in some],
                "rejected": [p.rejected for p in some],
                "tools": pl.Series([json.dumps(p.tools) if p.tools else None for p in some], dtype=pl.String),
            }
        )
        frame.write_parquet(folder / name / "0.parquet")
    return folder


def planted(n: int, seed: int) -> list[Pair]:
    """The chosen answer says that the animal sat, the rejected one that it ran; all else is drawn alike for both."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        asked, animal, place = (" ".join(rng.choice(WORDS, k)) for k in (6, 1, 2))
        answers = ([says(f"the {animal} {verb} {place}")] for verb in ("sat", "ran"))
        pairs.append(Pair([user(asked)], *answers))
    return pairs


SPEC = Train(
    model=TinyModel(layers=2, width=32, heads=2, vocabulary=300),
    sequence_length=96,
    batch_tokens=1536,
    epochs=3,
    checkpoint_every=3,
    preference=Preference(learning_rate=5e-3),
)


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_a_planted_preference_is_learned_and_holds_on_rows_not_seen(tmp_path, loss):
    mixture = write_pairs(tmp_path / "m", planted(120, 0), planted(60, 1))
    spec = SPEC.model_copy(update={"preference": Preference(loss=loss, learning_rate=5e-3)})
    facts = train(mixture, spec, out=tmp_path / "out", seed=2)
    before, after = (facts["heldout"]["validation"][k] for k in ("before", "after"))
    if loss == "dpo":
        assert before["loss"] == pytest.approx(math.log(2), abs=1e-12)  # policy = reference, to the bit
        assert (before["accuracy"], before["margin"]) == (0.5, 0.0)
    # 60 pairs by chance alone: 0.5 with standard error 0.065
    assert after["accuracy"] > 0.95
    assert after["loss"] < before["loss"] - 0.2
    assert facts["data"]["train"]["encoded"] == 120
    # the saved model, read by itself, has the loss that was written down
    start = prepare_tiny(texts_of(mixture), spec.model, tmp_path / "start", seed=2)
    models = [load(spec, str(f)) for f in (tmp_path / "out", start)]
    held = encode_pairs(read_pairs(sorted(mixture.glob("validation/*"))), Chat(models[0].tokenizer), length=96)
    packs = pack_pairs(held, 96, seed=5)
    log_p, reference = (log_probabilities(m.model, held, packs, together=True, micro=3, device=CPU) for m in models)
    again = evaluate_pairs(spec.preference, held, log_p, reference)
    assert again.loss == pytest.approx(after["loss"], rel=1e-4)
    assert again.accuracy == after["accuracy"]


def texts_of(mixture):
    from mixtura.trainer.mixture import texts

    return texts(sorted(mixture.glob("train/*.parquet")))


def test_a_run_on_pairs_killed_and_resumed_ends_in_the_same_bytes(tmp_path):
    mixture = write_pairs(tmp_path / "m", planted(60, 0), planted(8, 1))

    def stop(p):
        if p.step == 5:
            raise KeyboardInterrupt

    assert train(mixture, SPEC, out=tmp_path / "a", seed=1)["steps"] > 5
    with pytest.raises(KeyboardInterrupt):
        train(mixture, SPEC, out=tmp_path / "b", seed=1, progress=stop)
    assert (tmp_path / ".b.training" / "reference.safetensors").exists()
    assert train(mixture, SPEC, out=tmp_path / "b", seed=1)["resumed_from"] == 3
    one, other = ({p.name: file_digest(p) for p in sorted((tmp_path / n).iterdir())} for n in "ab")
    assert one == other
    assert {"model.safetensors", "training.json", "metrics.jsonl"} <= set(one)
    another = SPEC.model_copy(update={"preference": SPEC.preference.model_copy(update={"beta": 0.2})})
    assert not train(mixture, another, out=tmp_path / "b", seed=1)["reused"]


def test_the_rate_of_pairs_is_their_own(tmp_path):
    mixture = write_pairs(tmp_path / "m", planted(30, 0), [])
    spec = SPEC.model_copy(update={"learning_rate": 1.0, "warmup": 0.0, "steps": 2})
    train(mixture, spec, out=tmp_path / "out", seed=1)
    lines = [json.loads(x) for x in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [x for x in lines if "loss" in x]
    assert steps[0]["learning_rate"] == 5e-3
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["pairs"] > 4
    assert steps[0]["accuracy"] == 0.5


def test_mixed_files_and_half_pairs_are_one_sentence(tmp_path):
    folder = write_pairs(tmp_path / "m", planted(4, 0), [])
    files = sorted(folder.glob("train/*"))
    assert holds_pairs(files)
    frame = pl.read_parquet(files[0])
    frame.with_columns(rejected=pl.when(pl.int_range(4) > 0).then("rejected")).write_parquet(files[0])
    with pytest.raises(InputError, match="pairs in every row or in none; got '3 pairs in 4 rows'"):
        holds_pairs(files)
    frame.drop("chosen", "rejected").rename({"prompt": "messages"}).write_parquet(files[0])
    assert not holds_pairs(files)
