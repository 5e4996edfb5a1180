"""The Berkeley leaderboard's own parser and checker as an oracle, loaded from a checkout of its repository.

    git clone https://github.com/ShishirPatil/gorilla       # v4; nothing of it is copied here

Its package pulls in the clients of every vendor, so only what judges is loaded: the module `ast_checker` with a
stand-in for the table of models, and the functions `ast_parse`, `resolve_ast_call` and `resolve_ast_by_type` out of
`model_handler/utils.py`. NOTE: its parser evaluates arithmetic of what it reads; only feed it texts of our own making.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mixtura.errors import InputError
from mixtura.toolcalls.leaderboard import Question, read_questions

CATEGORIES = (
    "simple_python", "multiple", "parallel", "parallel_multiple",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple",
)  # fmt: skip
NO_CALL = ("irrelevance", "live_irrelevance")  # there every call is wrong; they have no answers
PARSER = ("resolve_ast_call", "resolve_ast_by_type")
INNER = Path("berkeley-function-call-leaderboard")


class Case(NamedTuple):
    """A question with what the leaderboard's checker wants to know."""

    category: str
    question: Question
    truth: list[dict[str, Any]]


class Judged(NamedTuple):
    """The leaderboard's verdict: whether valid, and its own error type, `decode` where it cannot be read."""

    valid: bool
    error: str


Oracle = Callable[[Case, str], Judged]


def cases(data: Path, categories: tuple[str, ...] = CATEGORIES) -> list[Case]:
    """The public single-turn Python cases with answers: 2,351 in v4.

    Args:
        data: folder of the repository's data set, or one above it.
        categories: of the files.
    """
    folder = next(
        (p.parent for p in sorted(data.rglob("BFCL_v4_simple_python.json")) if "possible" not in str(p)), None
    )
    if folder is None:
        raise InputError("the leaderboard's data", "must hold BFCL_v4_simple_python.json", got=str(data))
    found = []
    for category in categories:
        name = f"BFCL_v4_{category}.json"
        found += [Case(category, q, list(q.truth)) for q in read_questions(folder / name)]
    return found


def load_oracle(repository: Path) -> Oracle:
    """The leaderboard's judgement of a text that answers a case.

    Raises:
        InputError: the folder is no checkout with the checker in it.
    """
    root = repository if (repository / "bfcl_eval").is_dir() else repository / INNER
    if not (root / "bfcl_eval/eval_checker/ast_eval/ast_checker.py").is_file():
        raise InputError("the leaderboard's repository", "must hold its package bfcl_eval", got=str(repository))
    checker, python = _checker(root)
    parse = _parser(root)

    def judge(case: Case, text: str) -> Judged:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = parse(text)
        except Exception:  # noqa: BLE001 - so does the leaderboard: what cannot be decoded is wrong
            return Judged(case.category in NO_CALL, "decode")
        if case.category in NO_CALL:  # its runner, `_evaluate_single_relevance_entry`: any call is wrong
            return Judged(not output or not _is_calls(output), "")
        if not _is_calls(output):
            return Judged(False, "decode")
        schemas = json.loads(json.dumps(case.question.schemas))
        found = checker(schemas, output, case.truth, python, case.category, "any")
        return Judged(found["valid"], "" if found["valid"] else found["error_type"])

    return judge


def _is_calls(output: Any) -> bool:
    """Its `is_function_calling_format_output`: a list of objects of one key whose value is an object."""
    return isinstance(output, list) and all(
        isinstance(o, dict) and len(o) == 1 and isinstance(next(iter(o.values())), dict) for o in output
    )


def _checker(root: Path) -> tuple[Callable[..., dict[str, Any]], Any]:
    sys.path.insert(0, str(root))
    try:
        models = types.ModuleType("bfcl_eval.constants.model_config")
        models.MODEL_CONFIG_MAPPING = defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=False))  # type: ignore[attr-defined]
        sys.modules[models.__name__] = models
        converters = ("java_type_converter", "js_type_converter")  # of other languages; they need tree-sitter
        for name in converters:
            module = types.ModuleType(f"bfcl_eval.eval_checker.ast_eval.type_convertor.{name}")
            setattr(module, name, None)
            sys.modules[module.__name__] = module
        module = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        return module.ast_checker, importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
    finally:
        sys.path.remove(str(root))


def _parser(root: Path) -> Callable[[str], Any]:
    """Its Python branch of `ast_parse`, with its own functions that resolve the tree."""
    source = (root / "bfcl_eval/model_handler/utils.py").read_text(encoding="utf-8")
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name in PARSER]
    names: dict[str, Any] = {"ast": ast}
    exec(compile(ast.Module(functions, []), "ast_parse", "exec"), names)

    def parse(text: str) -> Any:
        body = ast.parse(text.strip().strip("'"), mode="eval").body
        calls = [body] if isinstance(body, ast.Call) else body.elts  # type: ignore[attr-defined]
        assert all(isinstance(c, ast.Call) for c in calls)
        return [names["resolve_ast_call"](c) for c in calls]

    return parse
