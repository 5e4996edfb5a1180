"""Unit tests: the code of an answer is run with tests, in a process of its own with limits.

OFF until the recipe says `run_code: true`, since it runs what a model wrote. The limits (time, memory, files, no child
processes, an empty folder and environment, no site packages) stop accidents and ordinary nonsense. They are no
sandbox: the process runs as you, and the network is open to it. Run it in a container, or not at all, with a model
that you do not know.

An answer passes when the tests ran to their end: the runner then writes a word, drawn anew each time, into a file that
it holds open. So an answer that exits early, or prints `passed`, does not pass; one that searches the interpreter's
frames for the word could.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mixtura import checking
from mixtura.checking import Question, Row, Uncheckable, dialogue, meta_of, text_of
from mixtura.errors import InputError
from mixtura.verdict import PASSED, Verdict, failed

FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
MAX_CODE = 1 << 18  # characters
MAX_TOLD = 4096  # bytes that are read of what the runner wrote
TOLD = "told"

# Runs in the child: limits first, then the answer, then its tests. Its output goes nowhere, its files are small.
RUNNER = r"""
import os, resource, sys
seconds, mebibytes = map(int, sys.argv[1:3])
read = sys.stdin.buffer
word, code, tests = (read.read(int(read.readline())).decode("utf-8", "surrogatepass") for _ in range(3))
told = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
size = mebibytes << 20
for what, limit in (("AS", size), ("FSIZE", 65536), ("CORE", 0), ("NOFILE", 32), ("NPROC", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
names = {"__name__": "__answer__"}
end = "answer"
try:
    exec(compile(code, "answer", "exec"), names)
    end = "tests"
    exec(compile(tests, "tests", "exec"), names)
    end = "passed"
except BaseException as e:
    end += " " + type(e).__name__
os.write(told, f"{word} {end}".encode("utf-8", "replace"))
os._exit(0)
"""


class Spec(checking.Spec):
    """Whether to run code at all, where the tests are, and the limits."""

    run_code: bool = Field(False, description="Say true to run code that a model wrote. There is no sandbox around it.")
    tests: str = Field("tests", description="Key of meta with Python tests: text or a list of texts, such as asserts.")
    seconds: int = Field(5, ge=1, le=600, description="Of CPU time; twice as many of the clock.")
    mebibytes: int = Field(1024, ge=64, le=1 << 20, description="Of address space.")


class UnitTests:
    """The answer's fenced Python blocks, or the whole answer where it has none, and then the tests."""

    name: ClassVar[str] = "unit_tests"
    Spec: type[Spec] = Spec

    def question(self, spec: Spec, row: Row) -> Question:
        """The tests stand in `meta`; the last turn is the gold."""
        if not spec.run_code:
            raise InputError(
                "check 'unit_tests'",
                "runs code that a model wrote, so it needs run_code: true",
                got=spec.run_code,
                next_step="Say so only where harm is contained, such as in a container without network",
            )
        if not hasattr(os, "killpg"):
            raise InputError("check 'unit_tests'", "needs a system with resource limits", got=sys.platform)
        prompt, gold = dialogue(row)
        tests = meta_of(row).get(spec.tests)
        tests = "\n".join(map(str, tests)) if isinstance(tests, list) else tests
        if not isinstance(tests, str) or not tests.strip():
            raise Uncheckable("no-tests", f"meta has no tests under {spec.tests!r}")
        return Question(prompt, gold, lambda answer: judged(text_of(answer), tests, spec))


def judged(answer: str, tests: str, spec: Spec) -> Verdict:
    """Run the code of an answer, and then the tests.

    Returns:
        Passed, or one failure: no_answer, timeout, crash (killed, or it ended early), answer_error:TYPE (its own code
        raised), tests_error:TYPE (a test did).
    """
    code = code_of(answer)
    if not code.strip():
        return failed("no_answer")
    if len(code) > MAX_CODE:
        return failed("answer_error:TooLong", got=len(code), want=MAX_CODE)
    word = secrets.token_hex(16)
    ended, told = _run([word, code, tests], spec)
    said, _, end = told.partition(" ")
    if said == word:
        stage, _, error = end.partition(" ")
        return failed(f"{stage}_error:{error[:60]}") if error else PASSED
    if ended is None or -ended == signal.SIGXCPU:
        return failed("timeout", want=f"{spec.seconds} s")
    return failed("crash", got=ended)


def code_of(answer: str) -> str:
    """The fenced Python blocks of an answer, joined; the whole answer where it has none."""
    blocks = FENCE.findall(answer)
    return "\n".join(blocks) if blocks else answer


def _run(texts: list[str], spec: Spec) -> tuple[int | None, str]:
    """Exit status (None: out of time) and what the runner told, of a process in its own session and empty folder."""
    parts = [t.encode("utf-8", "surrogatepass") for t in texts]
    given = b"".join(b"%d\n%b" % (len(p), p) for p in parts)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", RUNNER, str(spec.seconds), str(spec.mebibytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            child.communicate(given, timeout=2 * spec.seconds)
            ended: int | None = child.returncode
        except subprocess.TimeoutExpired:
            ended = None
        finally:
            _end(child)
        try:
            with open(Path(folder, TOLD), "rb") as file:
                told = file.read(MAX_TOLD)
        except OSError:  # removed, or replaced by a folder
            told = b""
    return ended, told.decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it left in its session, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin and not child.stdin.closed:
        with suppress(BrokenPipeError):
            child.stdin.close()


CHECK = UnitTests()
