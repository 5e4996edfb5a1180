"""The card and the Croissant description: valid by their own libraries, honest about counts, safe against free text."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from mixtura.errors import CountError
from mixtura.pipeline.card import code, front_matter, hub_license, md, render_card, size_category
from mixtura.pipeline.croissant import render_croissant
from mixtura.pipeline.mixture import ABOUT, CONTENT
from mixtura.pipeline.summary import Summary
from mixtura.store import seal

FORMS = ("text", "messages", "preference")


def write_mixture(folder, form):
    """Two training files and one validation file of three rows each, in the schema that the mixture writes."""
    schema = pa.schema([pa.field("id", pa.string()), *CONTENT[form], *ABOUT])
    turns = [{"role": "user", "content": "hi"}]
    for name in ("train/train-0.parquet", "train/train-1.parquet", "validation/validation-0.parquet"):
        rows = [
            {
                f.name: turns if pa.types.is_list(f.type) else f"{name} {i}" if pa.types.is_string(f.type) else i
                for f in schema
            }
            for i in range(3)
        ]
        (folder / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / name)
    return {p.relative_to(folder).as_posix(): seal(p) for p in sorted(folder.rglob("*.parquet"))}


def test_the_hub_library_reads_the_front_matter_back(made):
    card = DatasetCard(render_card(made.summary))
    assert card.data.to_dict() == front_matter(made.summary)
    assert card.data.license == ["cc-by-4.0", "mit", "unknown"]
    assert card.data.language == ["en", "zh"]
    assert card.data.size_categories == ["n<1K"]
    assert [c["config_name"] for c in card.data.configs] == ["default", "target"]


def test_datasets_loads_the_splits_that_the_card_names(made, tmp_path):
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    write_mixture(tmp_path, "text")
    (tmp_path / "target").mkdir()
    pq.write_table(pa.table({"text": ["kept aside"]}), tmp_path / "target/heldout.parquet")
    (tmp_path / "README.md").write_text(render_card(made.summary), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        mixture = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
        target = datasets.load_dataset(str(tmp_path), "target", cache_dir=str(tmp_path / "cache"))
    assert {k: len(v) for k, v in mixture.items()} == {"train": 6, "validation": 3}
    assert target["heldout"]["text"][:] == ["kept aside"]


def test_every_count_of_the_books_is_in_the_card(made):
    card = render_card(made.summary)
    for stage in made.summary.stages:
        lost = sum(stage.dropped.values())
        assert f"| {stage.stage} | {stage.read:,} | {lost:,} | {stage.quarantined:,} | {stage.written:,} |" in card
        for reason, n in stage.dropped.items():
            assert re.search(rf"\| {stage.stage} \| {reason} \| {n:,} \|", card)
    for source in made.summary.sources:
        assert f"| {source.name} | {source.pool_rows:,} | {source.picked_rows:,} |" in card


def test_a_summary_survives_json_and_unbalanced_books_do_not_pass(made):
    s = made.summary
    assert Summary.from_json(s.to_json()) == s
    stages = (dataclasses.replace(s.stages[0], written=s.stages[0].written - 1), *s.stages[1:])
    with pytest.raises(CountError, match="stage ingest: read must be 2999; got 3000"):
        render_card(dataclasses.replace(s, stages=stages))
    with pytest.raises(CountError, match="sources: picked rows"):
        dataclasses.replace(s, splits={}, stages=()).check()


def test_free_text_cannot_break_out_of_its_place(made):
    nasty = "x | y\n## Heading <script>alert(1)</script> `tick` [a](b)"
    sources = (dataclasses.replace(made.summary.sources[0], revision=nasty), *made.summary.sources[1:])
    card = render_card(dataclasses.replace(made.summary, sources=sources, recipe_yaml="a: '```\n# not a heading'\n"))
    assert card.count("\n## ") == 7
    assert "<script>" not in re.sub(r"\\<", "", card)
    row = next(line for line in card.splitlines() if line.startswith("| medquad | CC BY 4.0"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 10  # nine columns
    assert yaml.safe_load(re.search(r"^(`{4,})yaml\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)[2])


@given(st.text())
def test_escaped_text_is_one_line_with_every_sign_escaped(text):
    assert "\n" not in md(text)
    assert not re.search(r"(?<!\\)[|<>`*_\[\]]", md(text).replace("\\\\", ""))
    assert "\n" not in code(text)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("CC BY 4.0", "cc-by-4.0"),
        ("Apache-2.0", "apache-2.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("", "unknown"),
        ("Own", "other"),
    ],
)
def test_licences_in_the_words_of_the_hub(name, word):
    assert hub_license(name) == word


@pytest.mark.parametrize(
    ("rows", "word"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**9 - 1, "100M<n<1B"), (10**9, "n>1B")]
)
def test_size_categories_at_their_edges(rows, word):
    assert size_category(rows) == word


@pytest.mark.parametrize("form", FORMS)
def test_croissant_is_valid_and_its_records_load(made, tmp_path, form):
    croissant = pytest.importorskip("mlcroissant", reason="extra 'test' is not installed")
    files = write_mixture(tmp_path, form)
    summary = dataclasses.replace(made.summary, form=form)
    text = render_croissant(summary, files)
    assert text == render_croissant(summary, dict(reversed(files.items())))
    (tmp_path / "croissant.json").write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        dataset = croissant.Dataset(jsonld=tmp_path / "croissant.json")
        records = {split: list(dataset.records(split)) for split in ("train", "validation")}
    assert dataset.metadata.ctx.issues.errors == set()
    assert {k: len(v) for k, v in records.items()} == {"train": 6, "validation": 3}
    assert {r["train/id"].decode() for r in records["train"]} == {
        f"train/train-{k}.parquet {i}" for k in (0, 1) for i in range(3)
    }
    described = {d["@id"] for d in json.loads(text)["distribution"] if d["@type"] == "cr:FileObject"}
    assert described == set(files)


def test_a_mixture_without_rows_or_target_has_a_card(maker):
    card = DatasetCard(render_card(maker(300, budget=0, target=False, points=20).summary))
    assert card.data.configs == []
    assert "No target steered this mixture" in card.text


def test_where_a_model_is_weak_stands_in_the_card(made):
    summary = made.summary
    facts = {"states": {"mastered": 7, "suspect": 2}, "errors": {"wrong_tool": 5}, "weak": ["tool: a_b: 10% pass", "x"]}
    selection = dataclasses.replace(summary.selections[0], facts=facts)
    card = render_card(dataclasses.replace(summary, selections=(selection, *summary.selections[1:])))
    assert "- states: 7 mastered, 2 suspect\n- errors: 5 wrong\\_tool\n" in card
    assert "- where the model is weaker than elsewhere:\n  - tool: a\\_b: 10% pass\n  - x" in card
