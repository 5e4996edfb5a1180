"""Publication: the folder whole or not at all, nothing else ever replaced, two runs at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixtura.errors import InputError
from mixtura.pipeline.publication import publish

FACTS = {"name": "m", "fingerprint": "f", "version": "0"}


def draft(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "manifest.json").write_text("the store's own")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_publish_replaces_the_whole_folder(tmp_path):
    final = tmp_path / "out/m"
    assert publish(draft(tmp_path / "a", train__x="1", old="2"), final, FACTS)
    assert publish(draft(tmp_path / "b", train__x="3"), final, FACTS)
    there = tree(final)
    manifest = json.loads(there.pop("manifest.json"))
    assert there == {"train/x": "3"}
    assert manifest == FACTS | {
        "files": {  # sha256sum of "3"
            "train/x": {"bytes": 1, "sha256": "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"}
        }
    }
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
    assert tree(tmp_path / "b")["manifest.json"] == "the store's own"


def test_publishing_the_same_again_touches_nothing(tmp_path):
    final = tmp_path / "m"
    publish(draft(tmp_path / "a", x="1"), final, FACTS)
    before = (final.stat().st_ino, (final / "x").stat().st_mtime_ns)
    assert not publish(tmp_path / "a", final, FACTS)
    assert (final.stat().st_ino, (final / "x").stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    "damage", [lambda m: (m / "x").write_text("2"), lambda m: (m / "x").unlink()], ids=["changed", "lost"]
)
def test_a_mixture_that_was_damaged_is_made_whole(tmp_path, damage):
    final = tmp_path / "m"
    publish(draft(tmp_path / "a", x="1"), final, FACTS)
    damage(final)
    assert publish(tmp_path / "a", final, FACTS)
    assert tree(final)["x"] == "1"


def foreign_manifest(final: Path) -> None:
    draft(final, code="1")  # a browser extension has a manifest.json too


def a_file(final: Path) -> None:
    final.write_text("mine")


def notes_beside_a_mixture(final: Path) -> None:
    publish(draft(final.with_name("earlier"), x="1"), final, FACTS)
    draft(final, model__weights="hours of work")
    (final / "manifest.json").write_text(json.dumps({**FACTS, "files": {"x": {}}}))


def a_link(final: Path) -> None:
    final.with_name("elsewhere").mkdir()
    final.symlink_to(final.with_name("elsewhere"))


def a_folder_of_files(final: Path) -> None:
    draft(final, thesis="1")
    (final / "manifest.json").unlink()


FOREIGN = [foreign_manifest, a_file, notes_beside_a_mixture, a_link, a_folder_of_files]


@pytest.mark.parametrize("occupy", FOREIGN, ids=lambda f: f.__name__)
def test_what_is_not_a_mixture_is_never_replaced(tmp_path, occupy):
    (tmp_path / "out").mkdir()
    final = tmp_path / "out/m"
    occupy(final)
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match=r"output folder '.*/m' must (be|hold) "):
        publish(draft(tmp_path / "a", x="2"), final, FACTS)
    assert tree(tmp_path / "out") == before


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "m").mkdir()
    assert publish(draft(tmp_path / "a", x="1"), tmp_path / "m", FACTS)


def test_a_crash_between_the_two_renames_is_recovered(tmp_path):
    """The old mixture was set aside and the new one had not arrived: the next publication finds it and goes on."""
    final = tmp_path / "out/m"
    publish(draft(tmp_path / "a", x="1"), final, FACTS)
    shutil.move(final, final.with_name(".m.old"))
    draft(final.with_name(".m.123.new"), x="half")
    assert not publish(tmp_path / "a", final, FACTS), "the old one is back, and it is the same"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
    shutil.copytree(final, final.with_name(".m.old"))  # and a crash after the second rename
    assert publish(draft(tmp_path / "b", x="2"), final, FACTS)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
    assert tree(final)["x"] == "2"


RUN = """
import sys
from pathlib import Path
from mixtura.pipeline.publication import publish
drafts, final = [Path(p) for p in sys.argv[2:]], Path(sys.argv[1])
for i in range(60):
    publish(drafts[i % 2], final, {"name": "m", "fingerprint": "f", "version": "0"})
"""


def test_two_runs_of_a_recipe_at_once_leave_one_of_their_mixtures_whole(tmp_path):
    final = tmp_path / "out/m"
    drafts = [draft(tmp_path / name, **{f"train__{i}": name * 50 for i in range(5)}) for name in "ab"]
    command = [sys.executable, "-c", RUN, str(final), *map(str, drafts)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [("", 0)] * 3
    there = tree(final)
    files = json.loads(there.pop("manifest.json"))["files"]
    assert set(there) == set(files) == {f"train/{i}" for i in range(5)}
    assert len(set(there.values())) == 1, "all of one draft"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m"]
