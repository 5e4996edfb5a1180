"""A YAML file as plain values: safe, no key twice, and no bomb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mixtura.errors import InputError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # after aliases are expanded: a YAML bomb grows here, not in the file
MAX_DEPTH = 40


def read_tree(path: str | Path, noun: str) -> dict[str, Any]:
    """The mapping in a YAML file that a person wrote.

    Args:
        path: the file.
        noun: what it is, for errors.

    Raises:
        InputError: it is missing, too large, no YAML, a YAML bomb, or no mapping.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{noun} {str(path)!r}", f"must be at most {MAX_BYTES:,} bytes", got=size)
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        step = "Give the path of a YAML file; recipes/ has some to start from"
        raise InputError(f"{noun} {str(path)!r}", "must be a readable file", got=e.strerror, next_step=step) from None
    except UnicodeDecodeError as e:
        raise InputError(f"{noun} {str(path)!r}", "must be UTF-8 text", got=str(e)) from None
    return parse_tree(text, str(path), noun)


def parse_tree(text: str, name: str, noun: str) -> dict[str, Any]:
    """The mapping in YAML text; see `read_tree`."""
    thing = f"{noun} {name!r}"
    try:
        tree = yaml.load(text, Loader=_Loader)  # a SafeLoader that also refuses duplicate keys
        _weigh(tree)
    except yaml.YAMLError as e:
        raise InputError(thing, f"must be valid YAML: {_fault(e)}") from None
    except ValueError as e:  # a date that no calendar has, an integer of thousands of digits
        raise InputError(thing, f"must hold values that YAML can read: {e}") from None
    except (RecursionError, _Bomb) as e:
        got = str(e) if isinstance(e, _Bomb) else "endless nesting"
        raise InputError(thing, "must not expand its aliases without end", got=got) from None
    if not isinstance(tree, dict):
        raise InputError(thing, "must be a mapping of keys", got=type(tree).__name__)
    return tree


def _fault(error: yaml.YAMLError) -> str:
    """The problem and its place, without the parser's own picture of the text."""
    mark = getattr(error, "problem_mark", None)
    at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or str(error).splitlines()[0]}{at}"


class _Bomb(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """Safe, and a key given twice is an error rather than the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode) and k.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _weigh(tree: Any) -> int:
    """Count nodes as if every alias were written out, without writing them out."""
    weights: dict[int, int] = {}

    def weigh(node: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise _Bomb(f"more than {MAX_DEPTH} levels")
        if not isinstance(node, dict | list):
            return 1
        if id(node) not in weights:
            weights[id(node)] = 1 + sum(weigh(child, depth + 1) for child in _children(node))
        if weights[id(node)] > MAX_NODES:
            raise _Bomb(f"more than {MAX_NODES:,} values")
        return weights[id(node)]

    return weigh(tree, 0)


def _children(node: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    return iter(node.values() if isinstance(node, dict) else node)
