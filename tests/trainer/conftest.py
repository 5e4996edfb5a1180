"""Small real things: a tokenizer and a tiny model made once, and mixtures written to a temporary folder."""

from pathlib import Path

import polars as pl
import pytest
import torch

from mixtura.recipe import TinyModel, Train
from mixtura.trainer.chat import Chat
from mixtura.trainer.model import load, prepare_tiny, train_tokenizer

SENTENCE = "the cat sat on a mat and saw the dog run to town while rain fell over green hills"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(3, 9 + i % 40)) for i in range(1, 120)]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([*TEXTS, "naïve 日本語 🎉"], 320)


@pytest.fixture
def chat(tokenizer):
    return Chat(tokenizer)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a model of some 40,000 weights."""
    spec = TinyModel(layers=2, width=32, heads=2, vocabulary=320)
    return prepare_tiny(TEXTS, spec, tmp_path_factory.mktemp("tiny") / "model", seed=7)


@pytest.fixture
def model(tiny):
    return load(Train(), str(tiny)).model.eval()


@pytest.fixture
def mixture(tmp_path) -> Path:
    return write_mixture(tmp_path / "mixture")


def write_mixture(folder: Path) -> Path:
    parts = {
        "train/0.parquet": TEXTS[:90],
        "validation/0.parquet": TEXTS[90:105],
        "target/heldout.parquet": TEXTS[105:],
    }
    for name, texts in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"id": [f"{i:032x}" for i in range(len(texts))], "text": texts}).write_parquet(folder / name)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, and no fight for cores between tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
