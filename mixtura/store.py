"""Content-addressed artefacts: written under a temporary name, synced, read back, renamed; the manifest last.

An artefact is a folder `KIND/KEY[:2]/KEY/` with files and a `manifest.json`. Its key is the digest of its inputs'
contents, its spec and its code version, so nothing in the store can be stale: a changed input, option or line of code
is another key. A folder under its final name is complete; anything else lives under `tmp/`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mixtura.errors import StoreError
from mixtura.recipe.model import digest

CHUNK = 4 << 20


_PEEKING: ContextVar[bool] = ContextVar("peeking", default=False)


_HOME: ContextVar[Path | None] = ContextVar("home", default=None)


def home() -> Path | None:
    """Root of the store whose artefact is being made; None outside `Store.make`.

    What costs much and is made piece by piece, such as a model's replies, may be kept beneath it: then a run that is
    killed in the middle of an artefact loses nothing.
    """
    return _HOME.get()


class NotMade(Exception):
    """Inside `peeking`: the artefact is not there, and was not made."""


@contextmanager
def peeking() -> Iterator[None]:
    """Inside, `Store.make` only finds: what is not there raises `NotMade`."""
    token = _PEEKING.set(True)
    try:
        yield
    finally:
        _PEEKING.reset(token)


@dataclass(frozen=True)
class Artefact:
    """A finished artefact, or a handle that another process can use: small, picklable, JSON-able.

    `digest` covers the bytes of every file, not the key: a rebuild that gives the same bytes changes nothing
    downstream. `reused` says whether this run found it or made it.
    """

    kind: str
    key: str
    path: str
    digest: str
    files: dict[str, dict[str, Any]]  # name → {bytes, sha256}
    facts: dict[str, Any]  # what the maker counted; JSON
    inputs: tuple[str, ...] = ()  # digests of what it was made from
    reused: bool = True

    def file(self, name: str) -> Path:
        """Path of one file of the artefact."""
        if name not in self.files:
            raise StoreError(f"artefact {self.kind}/{self.key[:12]} has no file {name!r}; it has {sorted(self.files)}")
        return Path(self.path) / name

    def names(self, prefix: str) -> list[str]:
        """Names of files that start with `prefix`, sorted."""
        return sorted(n for n in self.files if n.startswith(prefix))


class Store:
    """A folder of artefacts.

    Args:
        root: folder, made when missing.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        try:
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"store {str(self.root)!r} must be a folder that can be written: {e.strerror}") from e

    def key(self, kind: str, *, inputs: Sequence[str], spec: Any, code: str) -> str:
        """Digest of everything that decides an artefact's bytes.

        Args:
            kind: the artefact's noun.
            inputs: digests of what it is made from, in order.
            spec: JSON value; the options that matter to it, and no others.
            code: from `code_version`.
        """
        return digest({"kind": kind, "inputs": list(inputs), "spec": spec, "code": code})

    def find(self, kind: str, key: str) -> Artefact | None:
        """The finished artefact under this key, or None. A file of the wrong size counts as missing."""
        folder = self._folder(kind, key)
        manifest: dict[str, Any] = {}
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            whole = all((folder / n).stat().st_size == f["bytes"] for n, f in manifest["files"].items())
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            if folder.exists():  # damaged from outside: set it aside, it will be made again
                shutil.rmtree(folder, ignore_errors=True)
            return None
        inputs = tuple(manifest["inputs"])
        return Artefact(kind, key, str(folder), manifest["digest"], manifest["files"], manifest["facts"], inputs)

    def make(
        self, kind: str, write: Callable[[Path], dict[str, Any]], *, inputs: Sequence[str], spec: Any, code: str
    ) -> Artefact:
        """Find the artefact, or make it.

        Args:
            kind: the artefact's noun.
            write: fills an empty folder with files and returns the facts it counted.
            inputs: see `key`.
            spec: see `key`.
            code: see `key`.

        Raises:
            StoreError: what was written does not read back.
        """
        key = self.key(kind, inputs=inputs, spec=spec, code=code)
        if found := self.find(kind, key):
            return found
        if _PEEKING.get():
            raise NotMade(kind)
        draft = self.root / "tmp" / f"{kind}-{key[:12]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        draft.mkdir(parents=True)
        token = _HOME.set(self.root)
        try:
            facts = write(draft)
            files = {str(p.relative_to(draft)): seal(p) for p in sorted(draft.rglob("*")) if p.is_file()}
            manifest = {
                "kind": kind,
                "key": key,
                "digest": digest({n: f["sha256"] for n, f in files.items()}),
                "files": files,
                "facts": facts,
                "inputs": list(inputs),
                "spec": spec,
                "code": code,
            }
            write_synced(draft / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False))
            final = self._folder(kind, key)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(draft, final)
            except OSError:  # another process finished the same artefact first
                if self.find(kind, key) is None:
                    raise
            sync_folder(final.parent)
        finally:
            _HOME.reset(token)
            shutil.rmtree(draft, ignore_errors=True)
        # what its manifest says, as a later run will find it: facts in another order would be other bytes downstream
        made = self.find(kind, key)
        if made is None:
            raise StoreError(f"artefact {kind}/{key[:12]} vanished after it was made; is something else cleaning up?")
        return replace(made, reused=False)

    def sweep(self) -> int:
        """Remove drafts that a killed process left behind; returns how many."""
        dead = [d for d in (self.root / "tmp").iterdir() if not _alive(d.name)]
        for d in dead:
            shutil.rmtree(d, ignore_errors=True)
        return len(dead)

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key


def seal(path: Path) -> dict[str, Any]:
    """Sync a file to disk, read it back whole, and return its size and SHA-256.

    Raises:
        StoreError: a Parquet file does not open after writing.
    """
    with path.open("rb+") as f:
        os.fsync(f.fileno())
    if path.suffix == ".parquet":
        try:
            pq.read_metadata(path)
        except (OSError, ValueError) as e:
            raise StoreError(f"{path.name} does not read back after writing: {e}. Check the disk.") from e
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            h.update(chunk)
    return h.hexdigest()


def write_synced(path: Path, text: str) -> None:
    """Write a small file whole: temporary name, sync, rename."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    with tmp.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(tmp, path)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@cache
def code_version(module: str, libraries: tuple[str, ...] = ()) -> str:
    """Digest of a module's source, of all that it imports of Mixtura and of its own package, and of named libraries.

    Read from source by `ast`, nothing is imported: a helper that changes changes the key of all that use it, in a
    user's plug-in too. Of libraries, the version counts.
    """
    seen: dict[str, str] = {}
    _collect(module, seen)
    return digest({"modules": seen, "libraries": {n: _version(n) for n in libraries}})


def _collect(module: str, seen: dict[str, str]) -> None:
    spec = find_spec(module) if module not in seen else None
    if spec is None or spec.origin is None or not spec.has_location:
        return
    source = Path(spec.origin).read_bytes()
    seen[module] = hashlib.sha256(source).hexdigest()
    if spec.origin.endswith(".py"):
        for name in sorted(_imports(source, spec.parent or "", module.partition(".")[0])):
            _collect(name, seen)


@cache
def _imports(source: bytes, parent: str, top: str) -> frozenset[str]:
    """Modules of Mixtura and of the package `top` that a file in the package `parent` imports; parsed once."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = resolve_name("." * node.level + (node.module or ""), parent) if node.level else node.module or ""
            found.update([name, *(f"{name}.{a.name}" for a in node.names)])
    return frozenset(n for n in found if n.partition(".")[0] in ("mixtura", top) and n != "mixtura" and _is_module(n))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # `from module import name`: its parent is no package
        return False


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _alive(draft: str) -> bool:
    try:
        os.kill(int(draft.split("-")[-2]), 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
