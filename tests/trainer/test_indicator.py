"""The indicator as a token: its start against the closed form, the model's other words, saving, training, TRL."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from mixtura import recipe_file
from mixtura.errors import InputError
from mixtura.recipe import Train
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings
from mixtura.trainer import train
from mixtura.trainer.chat import Chat
from mixtura.trainer.indicator import add_indicator, indicator_of
from mixtura.trainer.mixture import Row
from mixtura.trainer.model import Loaded, save, train_tokenizer

from .conftest import TEXTS, WORDS

IND = "[IND]"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "tied": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, tie_word_embeddings=True, **SMALL)),
    "untied": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, tie_word_embeddings=False, **SMALL)),
    "bias": lambda v: PhiForCausalLM(PhiConfig(vocab_size=v, bos_token_id=1, eos_token_id=2, **SMALL)),
    "gpt2": lambda v: GPT2LMHeadModel(
        GPT2Config(vocab_size=v, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
}


def loaded(kind: str, *, spare: int = 0) -> Loaded:
    """A model of random weights; its biases too, for zero is the one value that hides a fault."""
    tokenizer = train_tokenizer(TEXTS, 320)
    torch.manual_seed(3)
    model = MODELS[kind](len(tokenizer) + spare).eval()
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(tensor)
    return Loaded(model, tokenizer, torch.float32)


@pytest.mark.parametrize("spare", [0, 7])
@pytest.mark.parametrize("kind", MODELS)
def test_it_starts_as_the_mean_and_takes_next_to_nothing_from_other_words(kind, spare):
    """Hewitt 2021: the mean of V logits has a probability of at most 1 / V of what the V words share."""
    made = loaded(kind, spare=spare)
    v = len(made.tokenizer)
    ids = torch.randint(v, (4, 12))
    inside = made.model.get_input_embeddings().weight.detach()[:v].clone()
    outside = made.model.get_output_embeddings().weight.detach()[:v].clone()
    with torch.no_grad():
        before = made.model(ids).logits[..., :v].double().softmax(-1)
    token = add_indicator(made, IND)
    assert (token, len(made.tokenizer)) == (v, v + 1)
    assert made.model.get_input_embeddings().num_embeddings == max(v + 1, v + spare) == made.model.config.vocab_size
    for layer, old in ((made.model.get_input_embeddings(), inside), (made.model.get_output_embeddings(), outside)):
        assert torch.equal(layer.weight[:v], old), "what the model knows stays bit for bit"
        torch.testing.assert_close(layer.weight[token], old.double().mean(0).float())
    with torch.no_grad():
        after = made.model(ids).logits[..., : v + 1].double().softmax(-1)
    assert (after[..., token] <= 1 / (v + 1) + 1e-9).all()
    ratio = after[..., :v] / before
    assert (ratio >= v / (v + 1) - 1e-6).all()
    assert (ratio < 1).all()


def test_a_second_time_changes_nothing():
    made = loaded("untied")
    first = add_indicator(made, IND)
    weights = {n: p.clone() for n, p in made.model.state_dict().items()}
    assert add_indicator(made, IND) == first
    assert all(torch.equal(p, weights[n]) for n, p in made.model.state_dict().items())


def test_it_is_saved_with_the_model(tmp_path):
    made = loaded("tied")
    token = add_indicator(made, IND)
    save(made, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert tokenizer(f"the cat {IND}", add_special_tokens=False)["input_ids"][-1] == token
    assert tokenizer.decode([token], skip_special_tokens=True) == IND, "a reader sees it"
    assert torch.equal(model.get_input_embeddings().weight, made.model.get_input_embeddings().weight)


def test_a_word_that_the_tokenizer_reads_otherwise_is_refused():
    made = loaded("tied")
    taken = next(t for t in ("the", "at", "he", "an") if t in made.tokenizer.get_vocab())
    with pytest.raises(InputError, match=r"must read .* as one token"):
        add_indicator(made, taken)


def test_a_marked_turn_differs_by_one_token_and_an_unmarked_one_by_none():
    made = loaded("tied")
    turns = [{"role": "user", "content": "the cat sat"}, {"role": "assistant", "content": "on a mat"}]
    marked = [turns[0] | {"content": f"the cat sat {IND}"}, turns[1]]
    plain = Chat(made.tokenizer).encode(Row(messages=turns), answers_only=True)[0]
    token = add_indicator(made, IND)
    chat = Chat(made.tokenizer)
    (with_mark,) = chat.encode(Row(messages=marked), answers_only=True)
    (without,) = chat.encode(Row(messages=turns), answers_only=True)
    assert without.tokens.tolist() == plain.tokens.tolist()
    assert (with_mark.tokens == token).sum() == 1
    assert not with_mark.trained[with_mark.tokens == token].any(), "the model is not taught to say it"
    answers = [t.tokens[t.trained].tolist() for t in (with_mark, without)]
    assert answers[0] == answers[1]


def test_a_mixture_without_marks_or_summary_has_no_indicator(tmp_path):
    assert indicator_of(tmp_path) is None
    (tmp_path / "summary.json").write_text('{"marks": null}')
    assert indicator_of(tmp_path) is None
    for damaged in ("{", '{"marks": {}}', "[]", '{"marks": 3}'):
        (tmp_path / "summary.json").write_text(damaged)
        with pytest.raises(InputError, match=r"summary\.json"):
            indicator_of(tmp_path)


# --- from files to a trained model -------------------------------------------------------------------------------


@pytest.fixture
def marked(tmp_path, scripted_turns) -> Path:
    """A mixture whose answers say their own score; half of them above the threshold."""
    rows = []
    for i in range(24):
        asks, says = (" ".join(WORDS[(i * 7 + k * (k + j)) % len(WORDS)] for k in range(6)) for j in (1, 2))
        answer = {"role": "assistant", "content": f"{says} {i} 0.{9 if i % 2 else 1}"}
        rows.append({"messages": [{"role": "user", "content": f"{asks} {i}"}, answer]})
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tree = {
        "name": "marked",
        "sources": {"chat": {"files": "chat.jsonl"}},
        "clean": {"near_dedup": None},
        "select": [{"selector": "uniform", "pick": {"budget_rows": 24}}],
        "mix": {"splits": {"validation": 0.2}, "marks": {"selector": "scripted_turns", "threshold": 0.5}},
    }
    return curate(Plan.of(recipe_file.build(tree), Settings(base=str(tmp_path), workers=1))).folder


def test_our_trainer_learns_the_token(marked, tiny, tmp_path):
    spec = Train(model=str(tiny), sequence_length=64, batch_tokens=256, steps=4, learning_rate=1e-2, device="cpu")
    facts = train(marked, spec, out=tmp_path / "model", seed=1)
    token = facts["indicator"]["token"]
    assert facts["indicator"] == {"text": IND, "token": len(AutoTokenizer.from_pretrained(tiny))}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_tokens_to_ids(IND) == token
    before = AutoModelForCausalLM.from_pretrained(tiny).get_input_embeddings().weight
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "model").get_input_embeddings().weight
    assert (after[token] - before.mean(0)).abs().max() > 1e-3
    assert train(marked, spec, out=tmp_path / "model", seed=1)["reused"]
    (marked / "summary.json").unlink()
    plain = train(marked, spec, out=tmp_path / "model", seed=1)
    assert "indicator" not in plain
    assert not plain["reused"], "with one token fewer it is another run"


# TRL 1.16 uses names that transformers 5.23 deprecates
@pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
def test_trl_trains_on_marked_turns_as_the_card_says(marked, tiny, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    code = (marked / "README.md").read_text().split("## Marked answers")[1].split("```python\n")[1].split("```")[0]
    assert code.splitlines() == [
        f'tokenizer.add_tokens(["{IND}"])',
        "model.resize_token_embeddings(len(tokenizer))",
    ]
    tokenizer.add_tokens([IND])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    token = tokenizer.convert_tokens_to_ids(IND)
    before = model.get_input_embeddings().weight[token].detach().clone()
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
        report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True, bf16=False, seed=1,
    )  # fmt: skip
    data = datasets.load_dataset(str(marked), split="train", cache_dir=str(tmp_path / "cache"))
    rows = pl.concat([pl.read_parquet(f) for f in sorted((marked / "train").glob("*.parquet"))])
    assert data["marks"][:] == rows["marks"].to_list()
    trainer = trl.SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    assert sum(token in ids for ids in trainer.train_dataset["input_ids"]) == sum(
        m["marked"] for marks in rows["marks"] for m in marks
    )
    assert trainer.train().global_step == 2
    assert not torch.equal(trainer.model.get_input_embeddings().weight[token].detach(), before)
