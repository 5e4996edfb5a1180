"""Run one function over many jobs, in this process or in several, with results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

from mixtura.errors import MixturaError

J = TypeVar("J")
R = TypeVar("R")

AHEAD = 4  # jobs handed out per worker before the first is back: bounds memory, keeps workers busy
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")


class Workers:
    """Processes that live as long as a run: started at the first jobs that need them, closed with it.

    Args:
        count: processes; with 1, jobs run here.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
            self._pool = None

    def map(self, function: Callable[[J], R], jobs: Sequence[J], *, done: Callable[[R], None] | None = None) -> list[R]:
        """`[function(j) for j in jobs]`.

        Args:
            function: a module's own function, so that it can be sent to another process.
            jobs: small and picklable: paths and specs, never tables.
            done: told each result as it arrives, in any order; for progress.

        Returns:
            Results in the order of `jobs`.

        Raises:
            MixturaError: a worker was killed from outside; and whatever `function` raises.
        """
        results: dict[int, R] = {}
        alone = self.count <= 1 or len(jobs) <= 1
        for index, result in _here(function, jobs) if alone else self._there(function, jobs):
            results[index] = result
            if done is not None:
                done(result)
        return [results[i] for i in range(len(jobs))]

    def _there(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R]]:
        pool = self._started()
        waiting: dict[Future[R], int] = {}
        queue = iter(enumerate(jobs))
        try:
            while True:
                while len(waiting) < self.count * AHEAD and (item := next(queue, None)) is not None:
                    waiting[pool.submit(function, item[1])] = item[0]
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as e:
            self._pool = None
            step = "Run it again with fewer --workers or --shard-rows: what is done is reused"
            raise MixturaError(f"A worker process was killed, most often for want of memory. {step}.") from e
        finally:
            for future in waiting:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn, not fork: torch, polars and Prefect keep threads, and a forked thread's lock is never released
            context: Any = multiprocessing.get_context("spawn")
            with _one_thread():
                self._pool = ProcessPoolExecutor(
                    self.count, context, initializer=die_with_parent, initargs=(os.getpid(),)
                )
                for _ in range(self.count):  # start all of them while the environment says one thread
                    self._pool.submit(os.getpid)
        return self._pool


class _one_thread:
    """Inside, a process that starts sees one thread for every numeric library, from its first import on."""

    def __enter__(self) -> None:
        self._was = {n: os.environ.get(n) for n in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._was.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _here(function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R]]:
    for index, job in enumerate(jobs):
        yield index, function(job)


def die_with_parent(parent: int) -> None:
    """No life after the parent's death: a killed run must not leave workers that write on."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
