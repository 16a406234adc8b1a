"""Jobs in several processes, or on Ray: the map step of ``pvit-ext data``, and a desk for what its workers share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pvit_ext.data.generate.calls import Caller, Progress
from pvit_ext.data.generate.client import Endpoint, OpenAIClient
from pvit_ext.data.generate.desk import Address, Desk, RemoteDesk
from pvit_ext.data.generate.pipeline import Pipeline
from pvit_ext.data.generate.strategies import Job
from pvit_ext.data.map_step import map_in_order

BATCHES = 4
"""A worker gets so many jobs for each of its calls at a time: fewer would end with most of its calls waiting."""


@dataclass(frozen=True)
class CallWork:
    """Does a batch of jobs; sent to the workers once.

    Args:
        pipeline: of the run.
        endpoint: where calls go; its key is in the environment of each worker.
        concurrency: calls at a time of one worker.
        desk: of the run.
    """

    pipeline: Pipeline
    endpoint: Endpoint
    concurrency: int
    desk: Address

    def __call__(self, batch: Sequence[Job]) -> Progress:
        """What became of the jobs; their replies are in the ledger."""
        desk = RemoteDesk(self.desk)
        try:
            caller = Caller(self.pipeline, desk, OpenAIClient(self.endpoint), desk.pace, desk)
            progress = asyncio.run(caller.do(_while_running(batch, desk), self.concurrency, lambda: None))
            if progress.stopped:
                desk.ask("stop", progress.stopped)
            return progress
        finally:
            desk.close()


def call_in_workers(
    jobs: Iterable[Job], work: CallWork, desk: Desk, workers: int, backend: str, advance: Callable[[int], object]
) -> Progress:
    """Make all calls that the jobs need.

    Args:
        jobs: of the run.
        work: of each worker.
        desk: that it names, which is open.
        workers: processes.
        backend: see :func:`~pvit_ext.data.map_step.map_in_order`.
        advance: called with how many jobs are finished.
    """
    progress = Progress()
    for _, done in map_in_order(work, _batches(jobs, work.concurrency * BATCHES), workers, backend):
        progress.finished += done.finished
        progress.failed |= done.failed
        advance(done.finished)
    progress.stopped = desk.stopped
    return progress


def host_of(backend: str, workers: int) -> str:
    """The address of this machine, by which workers reach it."""
    if backend != "ray":
        return "127.0.0.1"
    from pvit_ext.data.map_ray import address

    return address(workers)


def _batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    source = iter(jobs)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _while_running(batch: Iterable[Job], desk: RemoteDesk) -> Iterator[Job]:
    """Jobs until any worker has stopped the run."""
    for job in batch:
        if desk.ask("why_stopped"):
            return
        yield job
