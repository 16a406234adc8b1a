"""Doing jobs: their calls, several at a time, each into the ledger as it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pvit_ext.data.generate.client import CallFailed, Client, EndpointUnusable, NotTaken
from pvit_ext.data.generate.limits import CeilingReached, Pace
from pvit_ext.data.generate.pipeline import Answer, Lookup
from pvit_ext.data.generate.reply import Usage, read_body, usage_of
from pvit_ext.data.generate.request import Request
from pvit_ext.regions.image import ImageError

FAILURES_IN_A_ROW = 10
"""Calls that failed after all their tries, with no other between: the endpoint is down, and every further one waits."""


class Named(Protocol):
    """A job: something that calls are made for."""

    @property
    def name(self) -> str:
        """That no other job has."""
        ...


JobT = TypeVar("JobT", bound=Named)
JobT_contra = TypeVar("JobT_contra", bound=Named, contravariant=True)


class Plan(Protocol[JobT_contra]):
    """What says which call a job needs next; see :class:`~pvit_ext.data.generate.pipeline.Pipeline`."""

    def advance(self, job: JobT_contra, lookup: Lookup) -> object:
        """The next request of a job; anything else where it needs none."""
        ...


@dataclass
class Progress:
    """What became of the jobs of a run.

    Args:
        finished: that need no further call.
        failed: name of a job -> why its call had no reply.
        stopped: why the run ended before its jobs did.
    """

    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None


class CallLedger(Protocol):
    """A ledger, in this process or in a run's first."""

    def lookup(self, key: str) -> Answer | None:
        """The answer to a request, None if there is none yet."""

    def start(self, key: str, job: str, tokens: Usage) -> None:
        """Note that a call is about to be sent."""

    def finish(self, key: str, job: str, raw: str) -> None:
        """Keep a reply."""

    def fail(self, key: str, job: str, failure: str) -> None:
        """Keep why there will be no reply."""

    def drop(self, key: str, job: str) -> None:
        """Note that a call ended without a reply."""


class CallBudget(Protocol):
    """A budget, in this process or in a run's first."""

    def reserve(self, most: Usage) -> None:
        """Set aside what a call may cost."""

    def charge(self, most: Usage, used: Usage | None) -> None:
        """Put what a call did cost in place of what was set aside."""


class Caller(Generic[JobT]):
    """Does jobs at one endpoint.

    Args:
        plan: says what a job needs.
        ledger: of all calls.
        client: of the endpoint.
        pace: how fast.
        budget: for how much.
    """

    def __init__(self, plan: Plan[JobT], ledger: CallLedger, client: Client, pace: Pace, budget: CallBudget) -> None:
        self.plan, self.ledger, self.client, self.pace, self.budget = plan, ledger, client, pace, budget
        self.progress = Progress()
        self._in_a_row = 0
        self._waiting: dict[str, asyncio.Event] = {}

    async def do(self, jobs: Iterable[JobT], concurrency: int, advance: Callable[[], object]) -> Progress:
        """Make all calls that the jobs need, and close the client.

        Args:
            jobs: taken one by one as there is room.
            concurrency: how many are worked on at a time.
            advance: called when a job is finished.
        """
        shared = iter(jobs)
        try:
            await asyncio.gather(*(self._work(shared, advance) for _ in range(concurrency)))
        finally:
            await self.client.close()
        return self.progress

    async def _work(self, jobs: Iterable[JobT], advance: Callable[[], object]) -> None:
        for job in jobs:
            try:
                await self._finish(job)
            except CallFailed as error:
                self.progress.failed[job.name] = str(error)
                self._in_a_row += 1
                if self._in_a_row == FAILURES_IN_A_ROW:
                    self.progress.stopped = f"{self._in_a_row} calls failed in a row: {error}"
            except (EndpointUnusable, CeilingReached) as error:
                self.progress.stopped = self.progress.stopped or str(error)
            else:
                advance()
            if self.progress.stopped:
                return

    async def _finish(self, job: JobT) -> None:
        while isinstance(step := self.plan.advance(job, self.ledger.lookup), Request):
            if self.progress.stopped:
                return
            if (same := self._waiting.get(step.key)) is not None:  # two images with the same annotations
                await same.wait()
                continue
            self._waiting[step.key] = done = asyncio.Event()
            try:
                await self._call(step)
            finally:
                del self._waiting[step.key]
                done.set()
            self._in_a_row = 0
        self.progress.finished += 1

    async def _call(self, request: Request) -> None:
        most = Usage(request.input_tokens, request.options.max_tokens)
        self.budget.reserve(most)
        used: Usage | None = None
        try:
            await self.pace.wait(most)
            body = await asyncio.to_thread(request.body)  # it may have an image to encode
            self.ledger.start(request.key, request.job, most)
            raw = await self.client.complete(body, self.pace.pause)
            self.ledger.finish(request.key, request.job, raw)
            used = usage_of(read_body(raw))
            used = used if used != Usage() else most
        except (NotTaken, ImageError) as error:
            self.ledger.fail(request.key, request.job, str(error))
        except (CallFailed, EndpointUnusable):
            self.ledger.drop(request.key, request.job)
            raise
        finally:
            self.budget.charge(most, used)
