"""A finished draft under its final name: replaced whole or not at all, and nothing else is ever overwritten."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixtura.errors import InputError
from mixtura.store import seal, sync_folder, write_synced

# what a disk without locks answers; EBADF is NFS, which locks only what is open for writing
LOCKLESS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
OTHER = "Name another folder under output, or empty this one"


def publish(draft: Path, final: Path, facts: Mapping[str, Any]) -> bool:
    """Put a finished draft under its final name; the manifest is written last, inside the draft, before the rename.

    Args:
        draft: a folder on any disk; it is copied, not moved, so that the store keeps its own.
        final: the mixture's folder; replaced whole where it holds an earlier mixture.
        facts: what the manifest says beside the digests of the files.

    Returns:
        False where the same mixture was there already and nothing was done.

    Raises:
        InputError: see `check_output`.
    """
    _check_folder(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    with alone(final.parent):
        check_output(final)
        return _publish(draft, final, facts)


def _publish(draft: Path, final: Path, facts: Mapping[str, Any]) -> bool:
    _recover(final)
    tmp = final.with_name(f".{final.name}.{os.getpid()}.new")
    shutil.rmtree(tmp, ignore_errors=True)
    shutil.copytree(draft, tmp, ignore=lambda folder, _: ["manifest.json"] if Path(folder) == draft else [])
    files = {p.relative_to(tmp).as_posix(): seal(p) for p in sorted(tmp.rglob("*")) if p.is_file()}
    manifest = json.dumps({**facts, "files": files}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if final.is_dir() and _same(final, files, manifest):
        shutil.rmtree(tmp)
        return False
    write_synced(tmp / "manifest.json", manifest)
    sync_folder(tmp)
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        os.rename(final, old)
    os.rename(tmp, final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return True


def check_output(final: Path) -> None:
    """Check that a folder may be replaced whole: also before the work, so that hours of it do not end here.

    Raises:
        InputError: it is no earlier mixture, or holds files that are not the mixture's (a model, notes).
    """
    _check_folder(final)
    thing, step = f"output folder {str(final)!r}", OTHER
    if not os.path.lexists(final):
        return
    if final.is_symlink() or not final.is_dir():
        raise InputError(thing, "must be a folder, or new", next_step="Name another folder under output")
    names = (p.relative_to(final).as_posix() for p in final.rglob("*") if not p.is_dir())
    there = {n for n in names if not n.startswith(".")}  # a file manager's .DS_Store is no one's work
    ours = _files_of(final)
    if there and not ours:
        raise InputError(thing, "must be new, empty, or an earlier mixture", next_step=step)
    if foreign := sorted(there - ours):
        step = "Move them elsewhere: the folder is replaced whole"
        raise InputError(thing, "must hold a mixture and nothing else", got=foreign[:5], next_step=step)


def _check_folder(final: Path) -> None:
    """Check that it lies where something can be written."""
    above = next(p for p in final.parents if os.path.lexists(p))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        need = "must lie in a folder that can be written"
        raise InputError(f"output folder {str(final)!r}", need, got=str(above), next_step=OTHER)


def _files_of(final: Path) -> set[str]:
    """Names of a mixture's files; empty where its manifest is not one of ours, for many things have a manifest.json."""
    try:
        manifest = json.loads((final / "manifest.json").read_text(encoding="utf-8"))
        ours = {"name", "fingerprint", "version", "files"} <= set(manifest)
        return {*manifest["files"], "manifest.json"} if ours else set()
    except (OSError, ValueError, TypeError):
        return set()


def _same(final: Path, files: Mapping[str, Any], manifest: str) -> bool:
    """Whether the folder holds these files and no others, byte for byte."""
    there = {p.relative_to(final).as_posix() for p in final.rglob("*") if p.is_file()}
    if there != {*files, "manifest.json"} or (final / "manifest.json").read_text() != manifest:
        return False
    return all(seal(final / n)["sha256"] == f["sha256"] for n, f in files.items())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One run of this machine at a time puts things into a folder, and waits while another does.

    The folder itself is locked, so that no file of a lock stays behind. Where a disk knows no locks nothing waits.

    Args:
        folder: must exist.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as e:
            if e.errno not in LOCKLESS:
                raise
        yield
    finally:
        os.close(handle)


def _recover(final: Path) -> None:
    """Clear what a killed publication left: its drafts, and the old mixture that it had set aside."""
    old = final.with_name(f".{final.name}.old")
    if old.is_dir() and not final.exists():
        os.rename(old, final)
    for leftover in final.parent.glob(f".{final.name}.*.new"):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
