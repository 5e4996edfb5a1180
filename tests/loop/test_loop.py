"""The loop end to end on a small pool: parts, pairs, mixtures, resumption; and its judgement of a rise."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from calls import build, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixtura import recipe_file
from mixtura.checks.tool_calls import CHECK
from mixtura.checks.tool_calls import Spec as Options
from mixtura.errors import InputError
from mixtura.generation.contract import Likelihood, Reply
from mixtura.loop.cast import cast
from mixtura.loop.finding import drawn, found_pairs
from mixtura.loop.measure import Change, Passed, kept
from mixtura.loop.mixing import rights
from mixtura.loop.pairs import searched, unjudged, verified
from mixtura.loop.session import mine
from mixtura.mining.attempts import Tried, broken, judged
from mixtura.mining.standing import Standard
from mixtura.recipe import Mine
from mixtura.search.explore import Search
from mixtura.stages.plan import Plan, Settings
from mixtura.store import file_digest
from mixtura.trainer.mixture import read_pairs


def plan_of(path: Path) -> Plan:
    return Plan.of(recipe_file.load(path), Settings(base=str(path.parent), workers=1))


def frame(n: int, seed: int = 0) -> pl.DataFrame:
    return pl.DataFrame([{"id": f"{i:032x}", **r} for i, r in enumerate(rows(n, seed))])


@pytest.fixture(scope="module")
def parts():
    return cast({"train": frame(60), "test": frame(40, 1)}, CHECK, Options(), heldout_tools=0.25)


def test_every_row_has_one_part_and_no_training_row_shows_a_held_out_tool(parts):
    assert len(parts.tools) == 1  # a quarter of four
    (tool,) = parts.tools
    assert all(tool not in i.called | i.offered for i in parts.train)
    assert all(i.called == {tool} for i in parts.heldout["tools"])
    assert all(tool not in i.called for i in parts.heldout["rows"])
    whole = len(parts.train) + sum(map(len, parts.heldout.values())) + sum(parts.left_out.values())
    assert whole == 100
    assert set(parts.left_out) == {"offers-a-held-out-tool"}
    assert {i.id for i in parts.train} <= {f"{i:032x}" for i in range(60)}


def test_the_warm_up_grows_from_easy_to_hard(parts):
    steps = parts.steps(3)
    assert [len(s) for s in steps] == [round(len(parts.train) * k / 3) for k in (1, 2, 3)]
    assert all(a == b[: len(a)] for a, b in pairwise(steps))
    orders = [i.difficulty.order for i in steps[-1]]
    assert orders == sorted(orders)
    assert orders[0][:3] == (1, 1, 2)  # a call, an argument, two tools


def test_a_row_that_cannot_be_checked_is_counted():
    table = frame(30).with_columns(tools=pl.when(pl.int_range(30) > 1).then("tools"))
    found = cast({"train": table, "test": frame(20, 2)}, CHECK, Options(), heldout_tools=0.0)
    assert found.left_out == {"no-tools": 2}
    assert found.tools == ()
    with pytest.raises(InputError, match=r"must have a checkable row in its test split.*mix\.splits\.test"):
        cast({"train": table}, CHECK, Options(), heldout_tools=0.0)


def tried(item, *answers: str, cut: int = 0) -> Tried:
    """Attempts as a model would make them; the last `cut` of them broke off."""
    ends = ["stop"] * (len(answers) - cut) + ["length"] * cut
    replies = [Reply(a, 5, -1.0 - n, end) for n, (a, end) in enumerate(zip(answers, ends, strict=True))]
    return Tried(item.question, tuple(judged(item.question, replies)), None, broken(item.question))


def answer(pair: dict, side: str) -> str:
    return pair[side][0]["content"]


def test_chosen_is_right_and_rejected_is_the_commonest_wrong_one(parts):
    item = parts.train[0]
    right = item.question.gold["content"]
    call = right.split("(")[0].strip("[")
    wrong, rare = f"[{call}(what='moon')]", f"[{call}()]"
    found = verified([item], [tried(item, rare, wrong, right, wrong)], Standard())
    (pair,) = found.pairs
    assert (answer(pair, "chosen"), answer(pair, "rejected")) == (right, wrong)
    assert pair["about"]["on_policy"]
    assert pair["about"]["error"].startswith("value_error")
    assert pair["about"]["rate"] == 0.25
    assert item.question.judge(pair["chosen"][0]).passed
    assert not item.question.judge(pair["rejected"][0]).passed
    # never solved: the row's own answer; nothing wrong, or nothing whole: no pair, and the row is counted
    (pair,) = verified([item], [tried(item, rare, rare)], Standard()).pairs
    assert answer(pair, "chosen") == right
    assert not pair["about"]["on_policy"]
    assert verified([item], [tried(item, right, right)], Standard()).without == {"mastered": 1}
    assert verified([item], [tried(item, right, wrong, cut=1)], Standard()).without == {"no-complete-wrong-answer": 1}


def test_unjudged_pairs_do_not_ask_what_is_right(parts):
    item = parts.train[0]
    right = item.question.gold["content"]
    (pair,) = unjudged([item], [tried(item, right, "something else")]).pairs
    assert (answer(pair, "chosen"), answer(pair, "rejected")) == (right, "something else")
    assert unjudged([item], [tried(item, right)]).without == {"no-other-answer": 1}


class Scripted:
    """A model that gives the same answers to everything."""

    identity: ClassVar = {"scripted": 1}

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = answers, []

    def replies(self, asks, *, samples, max_tokens, temperature, seed):
        self.asked += [a.messages[-1]["content"] for a in asks]
        return [[Reply(self.answers[s % len(self.answers)], 5, -1.0 - s, "stop") for s in range(samples)] for _ in asks]


def test_a_search_looks_only_at_rows_that_fail(parts):
    one, other = parts.train[:2]
    right = one.question.gold["content"]
    wrong = right.replace("what='", "what='very ")
    model = Scripted(right, wrong)
    done = [tried(one, right, wrong), tried(other, *[other.question.gold["content"]] * 2)]
    spec = Search(by="best_of", samples=4)
    found = searched(model, [one, other], done, Standard(), spec, seed=1)
    assert model.asked == [one.question.prompt[-1]["content"]]
    assert found.without == {"mastered": 1}
    (pair,) = found.pairs
    assert (answer(pair, "chosen"), answer(pair, "rejected")) == (right, wrong)
    assert (pair["about"]["row"], pair["about"]["rate"]) == (one.id, 0.5)
    assert pair["about"]["margin"] > 0


def test_rows_are_drawn_by_their_id(parts):
    some = [i.id for i in drawn(parts.train, 5, seed=3)]
    assert len(some) == 5
    assert some == [i.id for i in drawn(parts.train[::-1], 5, seed=3)]
    assert some != [i.id for i in drawn(parts.train, 5, seed=4)]
    assert some == [i.id for i in drawn(parts.train, None, seed=3)][:5]


def test_a_rise_is_shown_only_beyond_chance():
    before = Passed((True,) * 20 + (False,) * 20, {})
    after = Passed((True,) * 20 + (True,) * 6 + (False,) * 14, {})
    change = Change.of(before, after)
    assert (change.gained, change.lost) == (6, 0)
    assert change.p == pytest.approx(1 / 64)  # six of six by a fair coin
    assert change.rise
    assert not Change.of(before, Passed((True,) * 25 + (False,) * 15, {})).rise  # 1 / 32
    assert not Change.of(after, before).rise
    assert Change.of(before, before).p == 1.0
    assert kept(before, Passed((False,) * 5 + (True,) * 35, {})) == 0.75
    assert kept(Passed((False,) * 40, {}), before) is None


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("mined"))
    lines: list[str] = []
    return path, mine(plan_of(path), tell=lines.append), lines


def test_the_loop_makes_a_mixture_a_model_and_figures_of_every_round(mined):
    path, facts, lines = mined
    folder = Path(facts["folder"])
    assert [s["name"] for s in facts["stages"]] == ["warm-up", "round-1"]
    for name in ("warmup-1", "warmup-2", "round-1"):
        card = (folder / name / "mixture" / "README.md").read_text()
        assert "mit" in card
        assert (folder / name / "mixture" / "ledger.parquet").exists()
        assert (folder / name / "model" / "model.safetensors").exists()
    stage = facts["stages"][1]
    assert stage["pairs"] + sum(stage["without"].values()) == facts["rows"]["train"]
    tried_on = {r["about"]["row"] for r in map(json.loads, (folder / "round-1/rows.jsonl").read_text().splitlines())}
    assert len(tried_on) == stage["pairs"] > 5
    assert any("round-1" in line and "pairs" in line for line in lines)
    (tool,) = facts["heldout_tools"]
    made = "".join(p.read_text() for p in folder.glob("*/rows.jsonl"))
    assert f'"{tool}"' not in made
    assert f"[{tool}(" not in made
    assert str(path.parent) not in (folder / "mined.json").read_text()


def test_pairs_of_the_round_are_what_they_say(mined):
    """Judged again here, from the mixture's files, by the check itself."""
    _, facts, _ = mined
    pairs = list(read_pairs(sorted((Path(facts["folder"]) / "round-1/mixture/train").glob("*.parquet"))))
    assert len(pairs) > 5
    for pair in pairs:
        gold = re.search(r"(\w+) the (\w+)", pair.prompt[-1]["content"])
        assert gold is not None
        right = [{"role": "assistant", "content": f"[{gold[1]}(what='{gold[2]}')]"}]
        question = CHECK.question(Options(), {"messages": [*pair.prompt, *right], "tools": pair.tools})
        assert question.judge(pair.chosen[0]).passed
        assert not question.judge(pair.rejected[0]).passed


def test_a_round_may_learn_the_right_answers_alone(mined):
    """The same rows and right answers as the pairs of the round, each once, and no wrong one."""
    path, facts, _ = mined
    recipe = recipe_file.load(path)
    changed = recipe.mine.model_copy(update={"learn": "answers", "learning_rate": 1e-3})
    other = recipe.model_copy(update={"name": "answers", "mine": changed})
    alone = mine(Plan.of(other, Settings(base=str(path.parent), workers=1)))
    one, two = (Path(f["folder"]) / "round-1" for f in (facts, alone))
    pairs, answers = ([json.loads(x) for x in (f / "rows.jsonl").read_text().splitlines()] for f in (one, two))
    assert [[*p["prompt"], *p["chosen"]] for p in pairs] == [a["messages"] for a in answers]
    assert not {"rejected", "chosen", "prompt"} & set().union(*answers)
    assert alone["stages"][0]["digest"] == facts["stages"][0]["digest"]
    assert alone["stages"][1]["digest"] != facts["stages"][1]["digest"]
    steps = [json.loads(x) for x in (two / "model" / "metrics.jsonl").read_text().splitlines()]
    assert max(x.get("learning_rate", 0) for x in steps) <= 1e-3


@pytest.mark.parametrize("by", ["random", "perplexity"])
def test_rows_to_compare_with_are_drawn_whatever_the_model_says(parts, by):
    """By answers alone no row is passed over for being right already, and nothing is asked of the model."""

    class Policy:
        model = Scripted()

    surprise = {i.question.prompt[-1]["content"]: n for n, i in enumerate(parts.train)}

    def likelihoods(asks, answers):
        return [Likelihood(-float(surprise[a.messages[-1]["content"]]), 1) for a in asks]

    Policy.model.likelihoods = likelihoods
    spec = Mine(by=by, learn="answers", pairs=7, share=1.0)
    found = found_pairs(Policy(), parts.train, spec, None, 3)
    want = drawn(parts.train, None, 3) if by == "random" else parts.train[::-1]
    assert [p["about"]["row"] for p in found.pairs] == [i.id for i in want[:7]]
    assert [p["chosen"] for p in found.pairs] == [[dict(i.question.gold)] for i in want[:7]]
    assert Policy.model.asked == []


def test_equal_right_answers_of_several_pairs_are_learned_once():
    pair = {"prompt": [{"role": "user", "content": "q"}], "tools": None, "about": {"row": "a"}}
    made = rights([{**pair, "chosen": [{"content": c}], "rejected": [{"content": r}]} for c, r in ("xy", "xz", "yz")])
    assert [m["messages"][-1]["content"] for m in made] == ["x", "y"]
    assert made[0] == {"messages": [*pair["prompt"], {"content": "x"}], "tools": None, "about": {"row": "a"}}


@pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
def test_trl_learns_from_a_round_two_steps(mined, tmp_path):
    """The round's mixture as it stands, tools and all, in TRL's own trainer, on the loop's own model."""
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    _, facts, _ = mined
    folder = Path(facts["folder"])
    data = datasets.load_dataset(str(folder / "round-1/mixture"), cache_dir=str(tmp_path / "cache"))["train"]
    assert {"prompt", "chosen", "rejected", "tools"} <= set(data.column_names)
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "bf16": False}
    settings = trl.DPOConfig(
        str(tmp_path / "out"), **quiet, max_steps=2, per_device_train_batch_size=4, logging_steps=1, max_length=192
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "warmup-2/model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "warmup-2/model")
    trainer = trl.DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().global_step == 2
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # the first step starts from the reference: log 2, which TRL's log rounds
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3)
    assert np.isfinite(losses).all()


def test_run_again_nothing_is_done_twice_and_a_broken_run_ends_in_the_same_bytes(mined, tmp_path):
    path, facts, _ = mined
    folder = Path(facts["folder"])
    whole = contents(folder)
    mine(plan_of(path), watch=lambda _: pytest.fail("nothing to train"))
    assert contents(folder) == whole

    class Killed(BaseException):
        pass

    other, steps = build(tmp_path / "other"), []

    def kill(done) -> None:
        steps.append(done)
        if len(steps) in (3, 30, 60):
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            mine(plan_of(other), watch=kill)
    again = mine(plan_of(other))
    assert contents(Path(again["folder"])) == whole


def test_the_report_is_whole_and_asks_nothing_of_a_network(mined):
    _, facts, _ = mined
    page = (Path(facts["folder"]) / "report.html").read_text()

    class Tags(HTMLParser):
        seen: list[str]

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)
            assert not any(k in ("src", "href") and not (v or "").startswith(("data:", "#")) for k, v in attrs)

    tags = Tags()
    tags.seen = []
    tags.feed(page)
    assert tags.seen.count("svg") == 1
    assert page.count('class="curve') == 2
    for stage in facts["stages"]:
        assert stage["name"] in page
        assert f"{100 * stage['measured']['rows']['rate']:.1f} %" in page
    assert np.isclose(facts["warmup"][-1]["rows"], facts["rows"]["train"])


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"mine": {"check": "tol_calls"}}, "Nearest: 'tool_calls'"),
        ({"mine": {"options": {"mod": "strict"}}}, "mine.options.mod is not a key here"),
        ({"mine": {"search": {"by": "forest"}}}, r"mine\.search\.by must be"),
        ({"mine": {"warmup": 0}}, r"train\.model must be a trained model where mine\.warmup is 0"),
        ({"mix": {"splits": {"test": 0.0}}}, r"Set mix\.splits\.test"),
        ({"output": {"form": "text"}}, "must hold conversations to mine"),
    ],
)
def test_what_cannot_be_mined_is_one_sentence(tmp_path, tree, said):
    import yaml

    path = build(tmp_path, 40)
    whole = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(whole | {k: {**whole[k], **v} for k, v in tree.items()}))
    with pytest.raises(InputError, match=said):
        mine(plan_of(path))
