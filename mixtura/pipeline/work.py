"""Run one function over many jobs, in this process or in several, with results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")

AHEAD = 4  # jobs handed out per worker before the first is back: bounds memory, keeps workers busy


def map_jobs(
    function: Callable[[J], R], jobs: Iterable[J], *, workers: int = 1, done: Callable[[R], None] | None = None
) -> list[R]:
    """`[function(j) for j in jobs]`, over processes.

    Args:
        function: a module's own function, so that it can be sent to another process.
        jobs: small and picklable: paths and specs, never tables.
        workers: processes; 1 runs here.
        done: told each result as it arrives, in any order; for progress.

    Returns:
        Results in the order of `jobs`.
    """
    results: dict[int, R] = {}
    for index, result in _serial(function, jobs) if workers <= 1 else _parallel(function, jobs, workers):
        results[index] = result
        if done is not None:
            done(result)
    return [results[i] for i in sorted(results)]


def _serial(function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[tuple[int, R]]:
    for index, job in enumerate(jobs):
        yield index, function(job)


def _parallel(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Iterator[tuple[int, R]]:
    # spawn, not fork: torch, polars and Prefect keep threads, and a forked thread's lock is never released
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        waiting: dict[Future[R], int] = {}
        queue = enumerate(jobs)
        try:
            while True:
                while len(waiting) < workers * AHEAD and (item := next(queue, None)) is not None:
                    waiting[pool.submit(function, item[1])] = item[0]
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        finally:
            for future in waiting:
                future.cancel()


def _begin(parent: int) -> None:
    """One thread per worker for every numeric library, and no life after the parent's death."""
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "POLARS_MAX_THREADS",
        "RAYON_NUM_THREADS",
    ):
        os.environ[name] = "1"
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
