"""One map step for all of ``pvit-ext data``: in this process, in several, or on Ray Data; one order, the same results.

``map_in_order`` takes batches lazily and holds a few a worker at a time, so that input and output may be of any length.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Batch = Sequence[Any]
ResultT = TypeVar("ResultT")
BACKENDS = ("local", "ray")
_AHEAD = 4
"""Most batches that wait or run for each worker."""

_work: Callable[[Batch], Any] | None = None


def map_in_order(
    work: Callable[[Batch], ResultT], batches: Iterable[Batch], workers: int = 1, backend: str = "local"
) -> Iterator[tuple[Batch, ResultT]]:
    """Each batch with its result, in order.

    Args:
        work: from a batch to its result; picklable where there are several workers, and it depends on its batch alone.
        batches: taken one by one, in this process.
        workers: processes; 1 works in this one.
        backend: ``local``, or ``ray`` for Ray Data.

    Raises:
        ValueError: for no worker, or another backend.
        ChildProcessError: when a local worker dies.
    """
    if workers < 1 or backend not in BACKENDS:
        raise ValueError(f"workers is 1 or more and the backend {' or '.join(BACKENDS)}, got {workers} and {backend!r}")
    if backend == "ray":
        from pvit_ext.data.map_ray import map_on_ray

        yield from map_on_ray(work, batches, workers)
    elif workers == 1:
        for batch in batches:
            yield batch, work(batch)
    else:
        yield from _in_processes(work, batches, workers)


def _in_processes(
    work: Callable[[Batch], ResultT], batches: Iterable[Batch], workers: int
) -> Iterator[tuple[Batch, ResultT]]:
    waiting: deque[tuple[Batch, Future[ResultT]]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork would copy this process's threads and locks
    source = iter(batches)
    pool: ProcessPoolExecutor | None = None
    try:
        for batch in source:
            if pool is None:  # after the first batch: listing it may complete what the workers are sent
                pool = ProcessPoolExecutor(workers, context, _begin, (work,))
            waiting.append((batch, pool.submit(_do, batch)))
            if len(waiting) >= workers * _AHEAD:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _result(waiting: deque[tuple[Batch, Future[ResultT]]]) -> tuple[Batch, ResultT]:
    batch, future = waiting.popleft()
    try:
        return batch, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died, perhaps for want of memory; start again, it goes on where it stood"
        ) from error


def _begin(work: Callable[[Batch], Any]) -> None:
    global _work
    _work = work


def _do(batch: Batch) -> Any:
    assert _work is not None
    return _work(batch)
