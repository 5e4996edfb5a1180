"""The terminal: a progress bar while a stage works, one line when it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class TerminalTeller:
    """Tells a run on the terminal; without one (a log file, a pipe) only the lines, no bar.

    seconds: stage → seconds, for the caller's table.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reused = self.computed = 0
        self._began = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, stage: str, total: int) -> None:
        """Show a bar."""
        self._began = time.perf_counter()
        if not console.is_terminal:
            return
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30)]
        self._progress = Progress(
            *columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True, refresh_per_second=8
        )
        self._progress.start()
        self._task = self._progress.add_task(f"{stage:<8}", total=total or None)

    def advance(self, stage: str, reused: bool) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def end(self, stage: str, line: str, reused: int, computed: int) -> None:
        """Replace the bar by a line."""
        self.close()
        took = time.perf_counter() - self._began
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        self.reused += reused
        self.computed += computed
        console.print(
            f"[green]✓[/] [bold]{stage:<8}[/] {line}  [dim]{took:.1f} s · {_work(reused, computed)}[/]", soft_wrap=True
        )

    def close(self) -> None:
        """Take the bar away, also after a failure."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class TrainingBar:
    """A bar over optimiser steps, with the loss; call it with the trainer's `Progress`."""

    def __init__(self, name: str) -> None:
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn()]
        self._bar = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._bar.start()
        self._name, self._task = name, self._bar.add_task(name, total=None)
        self._began = time.perf_counter()

    def __call__(self, done: Any) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=done.step, total=done.steps, description=f"{self._name:<8} loss {done.loss:.3f}"
        )
        self._last = done

    def close(self) -> None:
        """Replace the bar by a line."""
        self._bar.stop()
        last = getattr(self, "_last", None)
        if last is not None:
            took = time.perf_counter() - self._began
            line = f"{last.steps} steps, training loss {last.loss:.3f}"
            console.print(f"[green]✓[/] [bold]{self._name:<8}[/] {line}  [dim]{took:.1f} s[/]")


def relative(path: str) -> str:
    """A path as the user would type it."""
    shown = os.path.relpath(path)
    return path if shown.startswith("..") else shown


def table(head: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; numbers to the right."""
    rows = [list(r) for r in rows]
    if title:
        console.print(f"[bold]{title}[/]", soft_wrap=True)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(head):
        numeric = all(isinstance(r[i], int | float) or str(r[i])[-1:].isdigit() or r[i] == "" for r in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(f"{c:,}" if isinstance(c, int) else f"{c:.3f}" if isinstance(c, float) else str(c) for c in row))
    console.print(grid)


def _work(reused: int, computed: int) -> str:
    if reused and computed:
        return f"reused {reused}, computed {computed}"
    return f"reused {reused}" if reused else f"computed {computed}"
