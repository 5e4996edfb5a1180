"""Multilingual: rendering by hand, the cap against a sort of hashes, and what has no single target."""

from __future__ import annotations

from collections import Counter

import numpy as np
import orjson
import pytest
from builder_cases import Case, made_row, multilingual_case, run, shard_of
from pydantic import ValidationError

from mixtura.builders.multilingual import BUILDER
from mixtura.pipeline.hashing import keys


def test_one_row_for_each_language_of_the_prompt_by_hand():
    row = made_row(0, text="Es regnet.", language="de", meta={"label": ["true"]})
    prompts = {
        "nli": {
            "inputs": {"en": "{text}\nTrue or false?", "fr": "{text}\nVrai ou faux ?"},
            "target": {"en": "{label}", "fr": "C'est {label.0}"},
        }
    }
    prompts["nli"]["target"]["fr"] = "Réponse: {language}"
    (built,) = run("multilingual", Case(shard_of([row]), {"prompts": prompts}))
    said = [[t["content"] for t in r["messages"]] for r in built.rows]
    assert said == [["Es regnet.\nTrue or false?", "true"], ["Es regnet.\nVrai ou faux ?", "Réponse: de"]]
    assert [orjson.loads(r["meta"])["prompt_language"] for r in built.rows] == ["en", "fr"]
    assert {r["language"] for r in built.rows} == {"de"}  # of the text, apart from the prompt's


def test_the_cap_takes_the_smallest_hashes_of_each_data_set_prompt_and_language():
    case = multilingual_case(90)
    (built,) = run("multilingual", case, seed=5)
    open_rows = [r for r in case.shard.rows.iter_rows(named=True) if orjson.loads(r["meta"])["label"] != "-1"]
    for source in ("news", "web"):
        for language in ("en", "de"):
            ids = np.array([r["id"] for r in open_rows if r["source"] == source])
            assert len(ids) == 30
            hashed = keys(case.shard.rows["id"].filter(case.shard.rows["id"].is_in(ids.tolist())), 5,
                          f"multilingual/{source}/rate/{language}")  # fmt: skip
            order = [i for i in case.shard.rows["id"] if i in set(ids)]
            wanted = {order[i] for i in np.argsort(hashed)[:7]}
            here = [r for r in built.rows if r["file"] == f"{source}.jsonl"]
            got = {r["parents"][0] for r in here if orjson.loads(r["meta"])["prompt_language"] == language}
            assert got == wanted


def test_hidden_labels_give_no_row_and_several_targets_none():
    rows = [
        made_row(0, text="a", meta={"y": -1}),
        made_row(1, text="b", meta={"y": [1, 2]}),
        made_row(2, text="c", meta={"y": []}),
    ]
    prompts = {"p": {"inputs": {"en": "{text}"}, "target": "{y}"}}
    (built,) = run("multilingual", Case(shard_of(rows), {"prompts": prompts, "hidden": {"y": [-1]}}))
    assert not built.rows
    assert Counter(r[1] for r in built.refused) == {"hidden-label": 1, "not-one-target": 2}


def test_a_target_that_lacks_a_language_is_refused():
    prompts = {"p": {"inputs": {"en": "x {text}", "de": "y {text}"}, "target": {"en": "z"}}}
    with pytest.raises(ValidationError, match=r"target must have every language of inputs; missing \['de'\]"):
        BUILDER.Spec.model_validate({"prompts": prompts})
