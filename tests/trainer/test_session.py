import json
import math
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixtura.errors import InputError
from mixtura.recipe import TinyModel, Train
from mixtura.store import file_digest
from mixtura.trainer import prepare_tiny, train
from mixtura.trainer.model import load

from .conftest import TEXTS, write_mixture

SPEC = Train(
    model=TinyModel(layers=2, width=32, heads=2, vocabulary=320),
    sequence_length=64,
    batch_tokens=256,
    micro_batch=2,
    steps=16,
    learning_rate=1e-2,
    checkpoint_every=3,
)


QUESTION = [{"role": "user", "content": "b"}]
ANSWER = [{"role": "assistant", "content": "a"}]


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(path: Path) -> list[dict]:
    return [json.loads(x) for x in path.read_text().splitlines()]


def test_a_run_lowers_the_loss_says_so_and_transformers_loads_it(mixture, tmp_path, capfd):
    seen = []
    facts = train(mixture, SPEC, out=tmp_path / "out", seed=1, progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 17))
    for name in ("validation", "target"):
        before, after = (facts["heldout"][name][k] for k in ("before", "after"))
        assert before["loss"] == pytest.approx(math.log(320), abs=0.3)  # a fresh model guesses evenly
        assert after["loss"] < before["loss"] - 1
        assert after["bytes"] == sum(len(t) for t in (TEXTS[90:105] if name == "validation" else TEXTS[105:]))
    metrics = lines(tmp_path / "out" / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, *range(1, 17), 16]
    assert metrics[0]["heldout"]["target"] == facts["heldout"]["target"]["before"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(tmp_path / "out")
    trained = load(SPEC, str(tmp_path / "out")).model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixture", "out"]
    assert "Loading" not in capfd.readouterr().out


def test_the_saved_model_has_the_loss_that_was_written_down(mixture, tmp_path):
    """Oracle: the model library's own loss over the rows, one by one, from the files alone."""
    facts = train(mixture, SPEC, out=tmp_path / "out", seed=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    nats = tokens = 0
    for text in TEXTS[105:]:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert len(ids) <= 64
        batch = torch.tensor([ids])
        with torch.no_grad():
            nats += float(model(input_ids=batch, labels=batch).loss) * (len(ids) - 1)
        tokens += len(ids) - 1
    after = facts["heldout"]["target"]["after"]
    assert after["tokens"] == tokens
    assert after["loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_nothing_is_printed(mixture, tmp_path, capfd):
    train(mixture, SPEC.model_copy(update={"steps": 2}), out=tmp_path / "out", seed=1)
    assert capfd.readouterr() == ("", "")


def test_the_caller_s_random_numbers_and_verbosity_are_left_alone(mixture, tmp_path):
    from transformers.utils import logging

    before = torch.get_rng_state(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    train(mixture, SPEC.model_copy(update={"steps": 1}), out=tmp_path / "out", seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (logging.get_verbosity(), logging.is_progress_bar_enabled())


def test_the_same_inputs_give_the_same_bytes_and_other_seeds_do_not(mixture, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(mixture, SPEC, out=tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["model.safetensors"] != contents(tmp_path / "c")["model.safetensors"]
    assert str(tmp_path) not in (tmp_path / "a" / "training.json").read_text()


def test_a_finished_run_is_not_repeated_and_a_changed_one_replaces_it(mixture, tmp_path):
    out = tmp_path / "out"
    first = train(mixture, SPEC, out=out, seed=1)
    again = train(mixture, SPEC, out=out, seed=1, progress=lambda _: pytest.fail("nothing to do"))
    assert again["reused"]
    assert again["heldout"] == first["heldout"]
    changed = train(mixture, SPEC.model_copy(update={"steps": 2}), out=out, seed=1)
    assert (changed["reused"], changed["steps"]) == (False, 2)
    pl.DataFrame({"text": TEXTS[:80]}).write_parquet(mixture / "train" / "0.parquet")
    assert not train(mixture, SPEC.model_copy(update={"steps": 2}), out=out, seed=1)["reused"]


def test_a_damaged_output_is_made_again(mixture, tmp_path):
    out, spec = tmp_path / "out", SPEC.model_copy(update={"steps": 2})
    train(mixture, spec, out=out, seed=1)
    whole = contents(out)
    (out / "model.safetensors").write_bytes(b"rubbish")
    assert not train(mixture, spec, out=out, seed=1)["reused"]
    assert contents(out) == whole


def test_two_mixtures_can_start_from_one_model(mixture, tmp_path):
    folder = prepare_tiny(TEXTS, TinyModel(layers=1, width=32, heads=2, vocabulary=300), tmp_path / "start", seed=5)
    weights = contents(folder)
    facts = train(mixture, SPEC.model_copy(update={"model": str(folder), "steps": 2}), out=tmp_path / "out", seed=1)
    assert facts["model"] == "start"
    assert contents(folder) == weights
    tokenizers = [(f / "tokenizer.json").read_bytes() for f in (folder, tmp_path / "out")]
    assert tokenizers[0] == tokenizers[1]


def test_a_model_of_half_precision_keeps_its_type_and_the_loss_is_of_the_rounded_weights(mixture, tmp_path, tiny):
    loaded = load(Train(), str(tiny))
    half = tmp_path / "half"
    loaded.model.to(torch.bfloat16).save_pretrained(half)
    loaded.tokenizer.save_pretrained(half)
    facts = train(mixture, SPEC.model_copy(update={"model": str(half)}), out=tmp_path / "out", seed=1)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert saved.dtype == torch.bfloat16
    again = train(
        mixture, SPEC.model_copy(update={"model": str(tmp_path / "out"), "steps": 1}), out=tmp_path / "next", seed=1
    )
    assert again["heldout"]["target"]["before"]["loss"] == facts["heldout"]["target"]["after"]["loss"]


CONTEXT = multiprocessing.get_context("forkserver")  # forks a process that has imported torch and done nothing with it
CONTEXT.set_forkserver_preload(["mixtura.trainer"])


def start(mixture: Path, out: Path) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=train, args=(mixture, SPEC), kwargs={"out": out, "seed": 1})
    process.start()
    return process


def killed_when(process, condition, rng: random.Random) -> bool:
    """Kill with SIGKILL some milliseconds after the condition holds; False where the run ended before."""
    while process.is_alive() and not condition():
        time.sleep(0.001)
    time.sleep(rng.random() * 0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(write_mixture(folder / "mixture"), folder / "out")
    process.join()
    assert process.exitcode == 0
    return contents(folder / "out")


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(mixture, tmp_path, seed, uninterrupted):
    out = tmp_path / "out"
    rng = random.Random(seed)
    work = out.with_name(".out.training")
    metrics, kills = work / "metrics.jsonl", 0
    targets = sorted(rng.sample(range(18), 5))  # lines of metrics: the start, the steps, the end
    for target in targets:
        process = start(mixture, out)
        kills += killed_when(process, lambda t=target: metrics.exists() and metrics.read_bytes().count(b"\n") >= t, rng)
        if out.exists():
            assert contents(out) == uninterrupted, f"seed {seed}, kills at {targets}"
    process = start(mixture, out)
    process.join()
    assert process.exitcode == 0
    assert kills >= 3, f"seed {seed}: too few kills to mean anything"
    assert contents(out) == uninterrupted, f"seed {seed}, kills at {targets}"
    assert not work.exists()


def test_a_run_goes_on_from_its_checkpoint(mixture, tmp_path):
    class Stop(Exception):
        pass

    def stop_at_eight(p):
        if p.step == 8:
            raise Stop

    with pytest.raises(Stop):
        train(mixture, SPEC, out=tmp_path / "out", seed=1, progress=stop_at_eight)
    assert not (tmp_path / "out").exists()
    assert train(mixture, SPEC, out=tmp_path / "out", seed=1)["resumed_from"] == 6
    # an unreadable checkpoint is worth nothing, and does no harm
    with pytest.raises(Stop):
        train(mixture, SPEC, out=tmp_path / "other", seed=1, progress=stop_at_eight)
    (weights,) = (tmp_path / ".other.training").glob("checkpoints/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert train(mixture, SPEC, out=tmp_path / "other", seed=1)["resumed_from"] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_killed_last_rename_is_finished_without_training(mixture, tmp_path):
    train(mixture, SPEC, out=tmp_path / "out", seed=1)
    whole = contents(tmp_path / "out")
    (tmp_path / ".out.training").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.training" / "final")
    facts = train(mixture, SPEC, out=tmp_path / "out", seed=1, progress=lambda _: pytest.fail("nothing to do"))
    assert facts["reused"]
    assert contents(tmp_path / "out") == whole


def test_dropout_resumes_exactly_too(mixture, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from mixtura.trainer.model import train_tokenizer

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=64, resid_pdrop=0.3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    train_tokenizer(TEXTS, 320).save_pretrained(tmp_path / "gpt2")
    spec = SPEC.model_copy(update={"model": str(tmp_path / "gpt2"), "steps": 6, "checkpoint_every": 2})

    def stop(p):
        if p.step == 3:
            raise KeyboardInterrupt

    train(mixture, spec, out=tmp_path / "a", seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(mixture, spec, out=tmp_path / "b", seed=1, progress=stop)
    assert train(mixture, spec, out=tmp_path / "b", seed=1)["resumed_from"] == 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_conversations_train_on_answers(tmp_path):
    talk = [{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "mat", "tool_calls": None}]
    (tmp_path / "mixture" / "train").mkdir(parents=True)
    pl.DataFrame({"messages": [talk] * 40}).write_parquet(tmp_path / "mixture" / "train" / "0.parquet")
    facts = train(tmp_path / "mixture", SPEC.model_copy(update={"steps": 60}), out=tmp_path / "out", seed=1)
    assert facts["data"]["train"]["trained_bytes"] == 40 * len("mat")
    assert facts["heldout"] == {}
    assert lines(tmp_path / "out" / "metrics.jsonl")[-2]["loss"] < 0.1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"chosen": [ANSWER], "messages": [QUESTION]}, "preference pairs"),
        (
            {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]},
            r"preference pairs as turns \(role, content\); got 'Str",
        ),
        ({"body": ["x"]}, "must have a column text or messages; got"),
        ({"text": [""]}, "must hold text to train a tokenizer on"),
        ({"messages": [QUESTION]}, "must hold tokens to train on.*'no-answer': 1"),
        ({"messages": [[ANSWER[0] | {"tool_calls": "{"}]]}, "column 'tool_calls'.*must hold JSON"),
    ],
)
def test_a_mixture_that_cannot_be_trained_on_is_refused_in_one_sentence(tmp_path, columns, message):
    (tmp_path / "m" / "train").mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(tmp_path / "m" / "train" / "0.parquet")
    with pytest.raises(InputError, match=message):
        train(tmp_path / "m", SPEC, out=tmp_path / "out", seed=1)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_ours_are_refused_and_left_alone(mixture, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"output folder 'out' must be new, empty, or an earlier run's.*thesis\.tex"):
        train(mixture, SPEC, out=tmp_path / "out", seed=1)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"
    with pytest.raises(InputError, match=r"mixture 'nowhere' must hold train/\*\.parquet; got 'no such folder'"):
        train(tmp_path / "nowhere", SPEC, out=tmp_path / "other", seed=1)
    (mixture / "train" / "1.parquet").write_bytes(b"PAR1 no footer")
    with pytest.raises(InputError, match=r"mixture file 'train/1\.parquet' must be a readable Parquet file"):
        train(mixture, SPEC, out=tmp_path / "other", seed=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_device_that_is_not_there_is_refused(mixture, tmp_path):
    with pytest.raises(InputError, match=r"train\.device must be one of cpu.*got 'cuda'\. Set it to auto\."):
        train(mixture, SPEC.model_copy(update={"device": "cuda"}), out=tmp_path / "out", seed=1)
