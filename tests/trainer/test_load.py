"""A mixture is loaded as it stands by what others train with: datasets, TRL, mlcroissant, huggingface_hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest
import torch

from mixtura import recipe_file
from mixtura.stages.curate import curate
from mixtura.stages.plan import Plan, Settings

pytestmark = [
    # TRL 1.16 uses names that transformers 5.23 deprecates
    pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning"),
    # mlcroissant 1.1 uses what rdflib 7 and pandas 3.1 deprecate
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index:DeprecationWarning"),
]

TEXT, MESSAGES, PREFERENCE = "text", "messages", "preference"
CONTENT = {TEXT: {"text"}, MESSAGES: {"messages"}, PREFERENCE: {"prompt", "chosen", "rejected"}}
N, PICKED, HELDOUT = 40, 30, 5


def words(i: int, n: int = 24) -> str:
    """Text of row i: no two rows share a run of five words, so none is a near-duplicate."""
    return " ".join(f"w{(i * 131 + k * (k + i)) % 997}" for k in range(n))


def record(form: str, i: int) -> dict[str, object]:
    if form == TEXT:
        return {"text": words(i)}
    if form == MESSAGES:
        turns = [{"role": "user", "content": words(i, 8)}, {"role": "assistant", "content": words(i + 500)}]
        return {"messages": [{"role": "system", "content": "Be brief."}, *turns] if i % 3 == 0 else turns}
    return {"prompt": words(i, 8), "chosen": words(i + 500), "rejected": words(i + 700)}


def build(form: str, base: Path) -> Path:
    """A mixture of this form, by the stages themselves."""
    files = {"pool": range(N), "target": range(N, N + 10)}
    for name, numbers in files.items():
        (base / f"{name}.jsonl").write_text("".join(json.dumps(record(form, i)) + "\n" for i in numbers))
    tree = {
        "name": form,
        "sources": {"pool": {"files": "pool.jsonl", "license": "mit", "language": "en"}},
        "target": {"files": "target.jsonl", "rows": 5, "heldout_rows": HELDOUT},
        "embed": {"dimensions": 8},
        "select": [{"selector": "nearest", "pick": {"budget_rows": PICKED}}],
        "mix": {"splits": {"validation": 0.2, "test": 0.1}},
        "output": {"rows_per_file": 10},
    }
    return curate(Plan.of(recipe_file.build(tree), Settings(base=str(base), workers=1))).folder


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory) -> dict[str, Path]:
    return {form: build(form, tmp_path_factory.mktemp(form)) for form in CONTENT}


@pytest.fixture(params=CONTENT)
def form(request) -> str:
    return request.param


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`datasets.load_dataset`, with a cache of the test's own."""
    datasets = pytest.importorskip("datasets", reason="extra 'trainers' is not installed")
    return lambda folder, *config: datasets.load_dataset(str(folder), *config, cache_dir=str(tmp_path / "cache"))


def test_datasets_loads_the_folder_with_every_row_in_order(mixtures, form, load):
    found = load(mixtures[form])
    assert list(found) == ["train", "validation", "test"]
    assert sum(len(split) for split in found.values()) == PICKED
    for name, split in found.items():
        files = sorted((mixtures[form] / name).glob("*.parquet"))
        written = pl.concat([pl.read_parquet(f) for f in files])
        assert split.num_rows == written.height > 0
        assert split.column_names == written.columns
        assert split["id"][:] == written["id"].to_list()
        assert set(split.column_names) & {"text", "messages", "prompt", "chosen", "rejected"} == CONTENT[form]
        for column in CONTENT[form]:
            assert split[column][:] == written[column].to_list()
    assert len(list((mixtures[form] / "train").glob("*.parquet"))) > 1, (
        "more than one file, so that order means something"
    )


def test_datasets_loads_the_heldout_target(mixtures, form, load):
    found = load(mixtures[form], "target")
    assert list(found) == ["heldout"]
    assert found["heldout"].num_rows == HELDOUT


def test_the_content_is_what_was_put_in(mixtures, load):
    """Against the records of the files, not against what was written."""
    rows = {form: [r for s in load(mixtures[form]).values() for r in s] for form in CONTENT}
    put = {form: [record(form, i) for i in range(N)] for form in CONTENT}
    assert {r["text"] for r in rows[TEXT]} < {p["text"] for p in put[TEXT]}
    said = [json.dumps(p["messages"]) for p in put[MESSAGES]]
    assert all(json.dumps(r["messages"]) in said for r in rows[MESSAGES])
    pairs = {(p["prompt"], p["chosen"], p["rejected"]) for p in put[PREFERENCE]}
    found = {tuple(r[c][0]["content"] for c in ("prompt", "chosen", "rejected")) for r in rows[PREFERENCE]}
    assert len(found) == PICKED
    assert found < pairs


@pytest.mark.slow
@pytest.mark.parametrize("form", [TEXT, MESSAGES])
def test_trl_fine_tunes_two_steps(mixtures, form, load, tiny, tmp_path):
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    settings = trl.SFTConfig(**_config(tmp_path), packing=False, max_length=64)
    data = load(mixtures[form])
    _two_steps(trl.SFTTrainer, settings, data, tiny)


@pytest.mark.slow
def test_trl_fine_tunes_two_steps_on_a_mixture_of_real_data(load, tiny, tmp_path):
    """MIXTURA_MIXTURE names the folder that `mixtura run recipes/biomedical.yaml` wrote, or any other."""
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    if not (folder := os.environ.get("MIXTURA_MIXTURE")):
        pytest.skip("MIXTURA_MIXTURE names no folder with a mixture")
    data = load(Path(folder))
    told = pl.read_parquet(Path(folder) / "ledger.parquet")["split"].value_counts()
    assert {name: split.num_rows for name, split in data.items()}.items() <= dict(told.iter_rows()).items()
    _two_steps(trl.SFTTrainer, trl.SFTConfig(**_config(tmp_path), packing=False, max_length=64), data, tiny)


@pytest.mark.slow
def test_trl_learns_preferences_two_steps(mixtures, load, tiny, tmp_path):
    trl = pytest.importorskip("trl", reason="extra 'trainers' is not installed")
    settings = trl.DPOConfig(**_config(tmp_path), max_length=64)
    _two_steps(trl.DPOTrainer, settings, load(mixtures[PREFERENCE]), tiny)


def _config(folder: Path) -> dict[str, object]:
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    small = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True, "bf16": False}
    return {"output_dir": str(folder / "out"), "seed": 1, **quiet, **small}


def _two_steps(trainer_class, settings, data, tiny: Path) -> None:
    """Train from the mixture's folder as it stands; two finite losses, and weights that moved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = trainer_class(
        model,
        args=settings,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=AutoTokenizer.from_pretrained(tiny),
    )
    done = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert done.global_step == len(losses) == 2
    assert torch.tensor(losses).isfinite().all()
    assert any(not torch.equal(p.detach(), before[n]) for n, p in trainer.model.named_parameters())


def test_croissant_is_valid_and_its_records_load(mixtures, form):
    croissant = pytest.importorskip("mlcroissant", reason="extra 'test' is not installed")
    described = croissant.Dataset(jsonld=str(mixtures[form] / "croissant.json"))
    assert not described.metadata.ctx.issues.errors, described.metadata.ctx.issues.report()
    sets = {r.id: list(described.records(record_set=r.id)) for r in described.metadata.record_sets}
    assert sum(len(rows) for rows in sets.values()) >= PICKED
    found = {row.get(f"{name}/id") for name, rows in sets.items() for row in rows}
    ids = pl.scan_parquet(str(mixtures[form] / "*/*-of-*.parquet")).select("id").collect()["id"]
    assert {v.decode() if isinstance(v, bytes) else v for v in found} >= set(ids)


def test_the_card_is_a_valid_dataset_card(mixtures, form):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(mixtures[form] / "README.md")
    assert card.data.pretty_name == form
    assert [c["config_name"] for c in card.data.configs] == ["default", "target"]
    globs = [f["path"] for c in card.data.configs for f in c["data_files"]]
    assert all(list(mixtures[form].glob(g)) for g in globs), globs
