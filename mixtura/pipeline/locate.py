"""From the words of a recipe to files, and the rule of which files a recipe may name.

A recipe reads inside its own folder, inside folders that a declared environment variable names, inside the operator's
extra roots, and at the URLs of known stores. Everything else, however written (absolute path, `..`, `file://`, a
symbolic link), is refused before anything is opened: recipes travel, and one from elsewhere must not read your home.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mixtura.errors import InputError, nearest
from mixtura.pipeline.reading import reader_for
from mixtura.recipe import Source

VARIABLE = re.compile(r"\$\{([^}]*)\}")
MAGIC = re.compile(r"[*?\[]")
ABOUT = re.compile(
    r"(readme|licen[sc]e|notice|citation|changelog|contributing|source)(\.(md|txt|rst))?$", re.IGNORECASE
)
# One store, one protocol. Chains (`zip://…::file:///…`) and local aliases would lead around the rule.
PROTOCOLS = ("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "http", "https", "ftp", "sftp")


@dataclass(frozen=True)
class Where:
    """What a recipe may reach.

    base: the recipe's folder.
    env: values of the declared environment variables that are set, and no others.
    roots: further folders that the operator allows.
    """

    base: Path
    env: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True)
class File:
    """A file to read.

    name: as the recipe names it (`${DATA}/a.jsonl` unexpanded, or relative to the recipe, with `/`): goes into rows,
        so that output does not depend on the machine.
    url: where it is here: an absolute path or a URL.
    bytes: size as stored.
    """

    name: str
    url: str
    bytes: int


@dataclass(frozen=True)
class Found:
    """What a source's patterns lead to: files to read, and names that no reader knows."""

    files: list[File]
    ignored: list[str]


def locate(source: str, spec: Source, where: Where) -> list[File]:
    """The files of a source, sorted by name; see `survey`."""
    return survey(source, spec, where).files


def survey(source: str, spec: Source, where: Where) -> Found:
    """Resolve every pattern of a source.

    A path that is named outright must be readable. A folder (searched recursively) or a glob takes the files whose
    endings a reader knows, and lists the others as ignored; with `format` it takes every file that is not hidden.
    A folder's README, LICENSE and the like are about the data, not data.

    Raises:
        InputError: a path outside what the recipe may reach, an unknown variable, no match, or no reader.
    """
    key = f"sources.{source}.files"
    files: dict[str, File] = {}
    ignored: set[str] = set()
    for pattern in spec.files:
        found = _Pattern(pattern, key, where)
        matches = list(found.remote() if found.protocol else found.local())
        for file, outright in matches:
            if not outright and found.is_folder and ABOUT.match(PurePosixPath(file.name).name):
                ignored.add(file.name)
            elif spec.format or reader_for(file.name):
                files[file.name] = file
            elif outright:
                raise InputError(
                    f"{key} {file.name!r}", "must have an ending that a reader knows", next_step=_unknown(file.name)
                )
            else:
                ignored.add(file.name)
        if not matches:
            raise InputError(key, "must match at least one file", got=pattern, next_step=found.advice())
    if not files:
        raise InputError(
            key,
            "must match at least one file that a reader knows",
            got=sorted(ignored)[:5],
            next_step="Set format to the reader's word",
        )
    return Found([files[n] for n in sorted(files)], sorted(ignored - set(files)))


def resolve_output(folder: str, where: Where) -> Path:
    """The absolute path of a folder to write, which must lie inside the recipe's folder or the operator's roots.

    Raises:
        InputError: it lies elsewhere.
    """
    path = _Pattern(folder, "output.folder", where).path
    if path is None:
        raise InputError("output.folder", "must be a local folder", got=folder)
    _inside("output.folder", folder, path, [where.base, *where.roots])
    return path


class _Pattern:
    """One pattern of a recipe with its variables filled in.

    protocol: of a URL; None for local paths.
    is_folder: whatever it leads to beyond itself is a folder's content, not a glob's match.
    anchor, prefix: the part that differs between machines, and the text that stands for it in names.
    """

    def __init__(self, text: str, key: str, where: Where) -> None:
        self.text, self.key, self.where = text, key, where
        self.path: Path | None = None
        expanded = VARIABLE.sub(self._value, text)
        if "\0" in expanded:
            raise InputError(key, "must not hold a NUL character", got=text)
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(::|://)", expanded)
        self.protocol = scheme[1].lower() if scheme else None
        if self.protocol in ("file", "local") and scheme and scheme[2] == "://":
            self.protocol, expanded = None, expanded[scheme.end() :]
        elif self.protocol and (self.protocol not in PROTOCOLS or "::" in expanded):
            raise InputError(key, f"must be a path or a plain URL of {', '.join(PROTOCOLS)}", got=text)
        if ".." in re.split(r"[/\\]", VARIABLE.sub("", text)):
            raise InputError(key, "must not climb with '..'", got=text, next_step=_REACH)
        self.expanded = expanded
        first = VARIABLE.match(text)
        self.prefix = first[0] if first else ""
        self.anchor = where.env[first[1]].rstrip("/") if first else ""
        self.is_folder = not MAGIC.search(text)
        if not self.protocol:
            self.path = Path(os.path.normpath(where.base / expanded))

    def _value(self, match: re.Match[str]) -> str:
        if match[1] not in self.where.env:
            raise InputError(
                self.key,
                "must use only environment variables that the recipe's env declares and that are set",
                got=match[0],
                next_step=f"Add {match[1]} to env and set it",
            )
        return self.where.env[match[1]]

    def name(self, found: str) -> str:
        """The machine-independent name of a path or URL that this pattern led to."""
        if self.prefix and found.startswith(self.anchor + "/"):
            found = self.prefix + found[len(self.anchor) :]
        elif not self.protocol and not os.path.isabs(self.expanded):
            found = os.path.relpath(found, self.where.base).replace(os.sep, "/")
        return os.fsencode(found).decode("utf-8", "backslashreplace")

    def local(self) -> Iterator[tuple[File, bool]]:
        """Regular files, each with whether the recipe names it outright."""
        assert self.path is not None
        allowed = [self.where.base, *self.where.roots]
        allowed += [Path(v) for v in self.where.env.values() if os.path.isabs(v)]
        if MAGIC.search(self.text):
            # the literal start of the pattern must be allowed before any folder is listed
            literal = os.path.dirname(MAGIC.split(str(self.path))[0])
            _inside(self.key, self.text, Path(literal), allowed)
            parts = self.path.relative_to(literal).parts
            found = [(p, False) for p in _glob(Path(literal), parts)]
        else:
            _inside(self.key, self.text, self.path, allowed)
            found = [(self.path, True)]
        known: dict[Path, Path] = {}
        for path, outright in found:
            for file in _walk(path) if path.is_dir() else [path]:
                _inside(self.key, self.name(str(file)), file, allowed, known)
                if file.is_file():
                    yield File(self.name(str(file)), str(file), file.stat().st_size), outright and file == path
                elif outright and file.exists():
                    raise InputError(f"{self.key} {self.text!r}", "must be a regular file or a folder")

    def remote(self) -> Iterator[tuple[File, bool]]:
        """The same for URLs, through fsspec."""
        import fsspec

        try:
            fs, path = fsspec.core.url_to_fs(self.expanded)
            if MAGIC.search(self.text):
                found = fs.glob(path, detail=True)
            elif (info := fs.info(path))["type"] == "directory":
                found = fs.find(path, detail=True)
            else:
                yield File(self.name(self.expanded), self.expanded, int(info.get("size") or 0)), True
                return
        except FileNotFoundError:
            return
        except (ImportError, OSError, ValueError) as e:
            raise InputError(f"{self.key} {self.text!r}", f"must be readable: {e}") from e
        for inner, info in found.items():
            if info["type"] == "file" and not _hidden(inner.removeprefix(path)):
                url = fs.unstrip_protocol(inner)
                yield File(self.name(url), url, int(info.get("size") or 0)), False

    def advice(self) -> str:
        """The nearest existing name beside a missing path."""
        if self.path is None or not self.path.parent.is_dir():
            return "Check the path"
        return nearest(self.path.name, os.listdir(self.path.parent)) or "Check the path"


_REACH = "Move the file into the recipe's folder, or name its folder by an environment variable that env declares"


def _inside(key: str, shown: str, path: Path, allowed: Sequence[Path], known: dict[Path, Path] | None = None) -> None:
    """Refuse a path that leads out of the allowed folders; `known` remembers folders resolved before."""
    known = {} if known is None else known
    for folder in (path.parent, *allowed):  # thousands of files share a folder, and resolving asks the disk each time
        if folder not in known:
            known[folder] = folder.resolve()
    real = path.resolve() if path.is_symlink() or path.name == ".." else known[path.parent] / path.name
    if not any(real.is_relative_to(known[a]) for a in allowed):
        where = "the recipe's folder" + (" or a declared folder" if key.startswith("sources") else "")
        linked = ", where a symbolic link leads out of it" if path.absolute() != real else ""
        raise InputError(key, f"must lie inside {where}{linked}", got=shown, next_step=_REACH)


def _glob(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Paths that match, sorted; `**` is any depth and follows no symbolic link, so no link can make a loop."""
    if not parts:
        yield folder
        return
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _glob(folder, rest or ("*",))
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _glob(Path(entry.path), parts)
    elif MAGIC.search(head):
        for entry in _entries(folder):
            shown = head.startswith(".") or not entry.name.startswith(".")
            if shown and fnmatch.fnmatchcase(entry.name, head) and (not rest or entry.is_dir()):
                yield from _glob(Path(entry.path), rest)
    elif (folder / head).exists():
        yield from _glob(folder / head, rest)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, sorted; links to folders are not followed but returned."""
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except NotADirectoryError:
        return []
    except PermissionError as e:
        raise InputError(f"folder {folder.name!r}", "must be readable", got=e.strerror) from e


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _unknown(name: str) -> str:
    if name.endswith((".pkl", ".pickle", ".pt", ".bin")):
        return "A pickle can run code and is never opened: export it as JSONL or Parquet"
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")):
        return "Unpack the archive and name the files in it"
    return "Set format to the reader's word"


def model_path(name: str, where: Where) -> str:
    """A model's name as it is, or the absolute path of its folder, which must be within the recipe's reach.

    Raises:
        InputError: a folder elsewhere, or an undeclared variable.
    """
    looks_local = name.startswith((".", "/", "~", "${")) or (where.base / name).is_dir()
    if not looks_local:
        return name
    path = _Pattern(name, "model", where).path
    if path is None:
        raise InputError("model", "must be a name or a local folder", got=name)
    _inside("model", name, path, [where.base, *where.roots, *(Path(v) for v in where.env.values() if os.path.isabs(v))])
    return str(path)


def file_path(name: str, where: Where, *, key: str) -> Path:
    """The absolute path of one file that an option names, which must be within the recipe's reach.

    Args:
        name: as the recipe says it.
        where: what the recipe may reach.
        key: the option's path in the recipe, for the message.

    Raises:
        InputError: a URL, a file elsewhere, an undeclared variable, or no such file.
    """
    found = _Pattern(name, key, where)
    if found.path is None:
        raise InputError(key, "must be a local file", got=name)
    reach = [where.base, *where.roots, *(Path(v) for v in where.env.values() if os.path.isabs(v))]
    _inside(key, name, found.path, reach)
    if not found.path.is_file():
        raise InputError(key, "must name a file", got=name, next_step=found.advice())
    return found.path
