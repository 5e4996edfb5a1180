"""One uninterrupted run that the end-to-end tests compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e import corpus

from mixtura.stages.publish import Published


@dataclass(frozen=True)
class Whole:
    """A base folder with corpus, recipe, store and mixture; read, never written to."""

    base: Path
    recipe: Path
    done: Published
    contents: dict[str, str]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    base = tmp_path_factory.mktemp("whole")
    recipe = corpus.build(base)
    done, _ = corpus.curate_here(recipe, shard_rows=50)
    return Whole(base, recipe, done, corpus.contents(done.folder))
