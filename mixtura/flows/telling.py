"""Who a flow tells how it goes: its own log by default, the terminal where the command line runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.logging import get_run_logger

from mixtura.stages.plan import Teller


class LogTeller:
    """One line of the flow run's log per stage."""

    def begin(self, stage: str, total: int) -> None:
        """Say that a stage begins."""
        get_run_logger().info("%s: %s pieces of work", stage, total or "some")

    def advance(self, stage: str, reused: bool) -> None:
        """Nothing: a line per shard would drown the log."""

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """Say what came of a stage."""
        get_run_logger().info("%s: %s (reused %d, computed %d)", stage, line, reused, computed)


_TELLER: ContextVar[Teller | None] = ContextVar("teller", default=None)
_WATCHER: ContextVar[Callable[[Any], None] | None] = ContextVar("watcher", default=None)


def teller() -> Teller:
    """The teller of this run."""
    return _TELLER.get() or LogTeller()


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
