"""The terminal: a progress bar while a stage works, one line when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

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
        console.print(f"[green]✓[/] [bold]{stage:<8}[/] {line}  [dim]{took:.1f} s · {_work(reused, computed)}[/]")

    def close(self) -> None:
        """Take the bar away, also after a failure."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def table(head: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; numbers to the right."""
    rows = [list(r) for r in rows]
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for i, name in enumerate(head):
        numeric = all(isinstance(r[i], int | float) or r[i] == "" for r in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(f"{c:,}" if isinstance(c, int) else f"{c:.3f}" if isinstance(c, float) else str(c) for c in row))
    console.print(grid)


def _work(reused: int, computed: int) -> str:
    if reused and computed:
        return f"reused {reused}, computed {computed}"
    return f"reused {reused}" if reused else f"computed {computed}"
