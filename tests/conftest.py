"""What all tests share: repeatable hypothesis, no network, folders of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path: Path):
    from mixtura.store import Store

    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def clean_env(tmp_path_factory) -> dict[str, str]:
    """Environment for commands: nothing of Prefect's but a home, which those tests share that run in its group."""
    scripts = Path(sys.executable).parent
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MIXTURA_"))}
    extra = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return env | extra | {"PATH": f"{scripts}{os.pathsep}{env.get('PATH', '')}"}


@pytest.fixture
def scripted_turns(monkeypatch):
    """The selector of `scripted_turns.py`, by the door of a user's own, in this process."""
    from mixtura import registry

    found = registry.words

    def words(kind):
        return found(kind) | ({"scripted_turns": "scripted_turns"} if kind == "selectors" else {})

    monkeypatch.setattr(registry, "words", words)
