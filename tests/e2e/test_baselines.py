"""The baselines by their words in a recipe, files to mixture; a model that is lacking is told before any work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from e2e import corpus
from generators import two_topics
from tiny_lm import tiny_lm

from mixtura import recipe_file
from mixtura.cli import forecast
from mixtura.cli.terminal import console
from mixtura.errors import InputError
from mixtura.stages.plan import Settings

MODEL = {"options": {"model": "lm", "device": "cpu"}, "pick": {"budget_rows": 12}}
SELECT: list[dict[str, Any]] = [
    {"selector": "rds", **MODEL},
    {"selector": "perplexity", **MODEL},
    {"selector": "tsds", "pick": {"budget_rows": 12, "rule": "gumbel"}},
]


def build(base: Path, select: list[dict[str, Any]]) -> Path:
    planted = two_topics(pool_rows=60, wanted_rows=20)
    for name, rows in (("pool", planted.pool), ("target", planted.target)):
        lines = [json.dumps({"text": t}) + "\n" for t in rows.rows["text"]]
        (base / f"{name}.jsonl").write_text("".join(lines))
    shutil.copytree(tiny_lm(), base / "lm", dirs_exist_ok=True)
    tree = {"name": "b", "sources": {"web": {"files": "pool.jsonl"}}, "target": {"files": "target.jsonl"}}
    tree |= {"select": select, "mix": {"splits": {"validation": 0}}}
    (base / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return base / "recipe.yaml"


def test_each_is_one_word_and_neither_shards_nor_place_reach_the_bytes(tmp_path):
    made = []
    for shard_rows in (7, 50):
        base = tmp_path / f"of_{shard_rows}"
        base.mkdir()
        done, _ = corpus.curate_here(build(base, SELECT), shard_rows=shard_rows)
        made.append(corpus.contents(done.folder))
        rows = pl.concat([pl.read_parquet(f) for f in sorted((done.folder / "train").glob("*.parquet"))])
        why = {s: json.loads(w) for s, w in rows.select("selection", "why").iter_rows()}
        assert {"serves", "tokens_read"} < set(why["rds"])
        assert {"loss", "quantile"} < set(why["perplexity"])
        assert {"targets_reaching", "near_duplicates"} < set(why["tsds"])
    assert made[0] == made[1]


def test_another_model_scores_anew_and_another_option_of_pick_does_not(tmp_path):
    recipe = build(tmp_path, SELECT[:1])
    corpus.curate_here(recipe)
    again, teller = corpus.curate_here(build(tmp_path, [SELECT[0] | {"pick": {"budget_rows": 9}}]))
    assert (teller.computed["score"], teller.reused["score"]) == (0, 2)
    assert again.summary.total.rows == 9
    config = json.loads((tmp_path / "lm/config.json").read_text())
    (tmp_path / "lm/config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    _, teller = corpus.curate_here(recipe)
    assert teller.computed["score"] == 2


@pytest.mark.parametrize(
    ("model", "need"),
    [
        (None, r"select.0.options.model is needed by selector 'rds', which reads rows with a causal LM\. Name the"),
        ("./lmm", r"select.rds.options.model must be a folder that exists, or a model's name; .* Nearest: 'lm'"),
        ("nobody/nothing", r"select.rds.options.model 'nobody/nothing' must be a model folder, or a model's name that"),
        ("pickled", r"select.rds.options.model '.*/pickled' must hold its weights as safetensors; got 'pytorch_model"),
    ],
)
def test_a_model_that_is_lacking_is_told_before_any_work(tmp_path, model, need):
    options = {"options": {"model": model}} if model else {}
    recipe = build(tmp_path, [{"selector": "rds", "pick": {"budget_rows": 3}, **options}])
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"no pickle is read")
    with pytest.raises(InputError, match=need):
        corpus.curate_here(recipe)
    assert not list(tmp_path.glob(".mixtura/*/*")), "work was done before the model was looked for"


def test_check_times_a_language_model_on_a_few_rows_and_writes_nothing(tmp_path):
    recipe = build(tmp_path, SELECT[:2])
    before = sorted(p.name for p in tmp_path.iterdir())
    with console.capture() as captured:
        forecast.show(recipe_file.load(recipe), Settings(base=str(tmp_path), workers=1))
    said = " ".join(captured.get().split())
    times = re.search(
        r"with 1 workers \(ingest (\d+), clean (\d+), score by rds (\d+), score by perplexity (\d+)\)", said
    )
    assert times, said
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_check_says_which_builds_ask_a_model_and_about_how_many_rows(tmp_path):
    (tmp_path / "qa.jsonl").write_text(
        "".join(json.dumps({"prompt": f"What is {i} + 1?", "completion": f"It is {i + 1}."}) + "\n" for i in range(30))
    )
    asks = {"model": "nobody/nothing", "server": "http://127.0.0.1:9/v1", "check": "numeric"}
    tree = {
        "name": "asking",
        "sources": {"qa": {"files": "qa.jsonl"}},
        "build": [
            {"builder": "selfanswer", "name": "own", "sources": ["qa"], "options": asks},
            {"builder": "onpolicy", "name": "pairs", "sources": ["own", "qa"], "options": asks},
            {"builder": "twins", "sources": ["qa"]},
        ],
        "select": [{"selector": "uniform", "pick": {"budget_rows": 9}}],
    }
    with console.capture() as captured:
        forecast.show(recipe_file.build(tree), Settings(base=str(tmp_path), workers=1))
    said = " ".join(captured.get().split())
    assert "'own' asks a model about 30 rows: on top of that, maybe hours" in said
    assert "'pairs' asks a model about 30 rows and all that 'own' makes: on top of that, maybe hours" in said
    assert said.count("asks a model") == 2
