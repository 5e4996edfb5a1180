"""Who a flow tells how it goes: its own log, and the terminal where the command line runs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_logger, get_run_logger

from mixtura.errors import InputError
from mixtura.stages.plan import Teller

BETWEEN_UPDATES = 2.0  # seconds: an update is a call to the server, tens of milliseconds


class LogTeller:
    """For the Prefect UI: one line of the flow run's log per stage, and a progress bar while it works."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._total = self._done = 0
        self._shown = 0.0

    def begin(self, stage: str, total: int) -> None:
        """Show a bar where the stage has several pieces of work."""
        self._total, self._done, self._shown = total, 0, time.monotonic()
        self._bar = create_progress_artifact(0.0, description=f"{stage}: {total} shards") if total > 1 else None

    def advance(self, stage: str, reused: bool) -> None:
        """Move the bar; no line per shard, which would drown the log."""
        self._done += 1
        if self._bar is None or time.monotonic() - self._shown < BETWEEN_UPDATES:
            return
        self._shown = time.monotonic()
        update_progress_artifact(self._bar, min(100.0, 100.0 * self._done / self._total))

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """Say what came of a stage."""
        if self._bar is not None:
            update_progress_artifact(self._bar, 100.0)
            self._bar = None
        get_run_logger().info("%s: %s (reused %d, computed %d)", stage, line, reused, computed)


class Both:
    """Tells two at once: the terminal of the command, and the run's page on the server."""

    def __init__(self, *tellers: Teller) -> None:
        self._tellers = tellers

    def begin(self, stage: str, total: int) -> None:
        """Pass it on."""
        for each in self._tellers:
            each.begin(stage, total)

    def advance(self, stage: str, reused: bool) -> None:
        """Pass it on."""
        for each in self._tellers:
            each.advance(stage, reused)

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """Pass it on."""
        for each in self._tellers:
            each.end(stage, line, reused, computed)


class OneSentence(logging.Filter):
    """A mistake of the user is one sentence in the run's log too: no traceback, whichever run reports it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record in place; never drops one."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, InputError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for _run in ("flow_runs", "task_runs"):
    get_logger(_run).addFilter(OneSentence())

_TELLER: ContextVar[Teller | None] = ContextVar("teller", default=None)
_WATCHER: ContextVar[Callable[[Any], None] | None] = ContextVar("watcher", default=None)


def teller() -> Teller:
    """The teller of this run."""
    terminal = _TELLER.get()
    return Both(terminal, LogTeller()) if terminal else LogTeller()


@contextmanager
def telling(to: Teller) -> Iterator[None]:
    """Flows inside tell `to`."""
    token = _TELLER.set(to)
    try:
        yield
    finally:
        _TELLER.reset(token)


def watcher() -> Callable[[Any], None] | None:
    """Who is told of each training step; nobody by default."""
    return _WATCHER.get()


@contextmanager
def watching(to: Callable[[Any], None]) -> Iterator[None]:
    """Training inside tells `to` of each step."""
    token = _WATCHER.set(to)
    try:
        yield
    finally:
        _WATCHER.reset(token)


_SAYER: ContextVar[Callable[[str], None] | None] = ContextVar("sayer", default=None)


def saying() -> Callable[[str], None]:
    """Who is told what a loop found; nobody by default."""
    return _SAYER.get() or (lambda _: None)


@contextmanager
def told(to: Callable[[str], None]) -> Iterator[None]:
    """Loops inside tell `to` what they found."""
    token = _SAYER.set(to)
    try:
        yield
    finally:
        _SAYER.reset(token)
