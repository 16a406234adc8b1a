"""One run of ``pvit-ext data generate``: from a file of annotations and a ledger to records, a sample or a batch."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pvit_ext.data.convert.report import Report, report_of
from pvit_ext.data.generate import batch
from pvit_ext.data.generate.calls import Caller, Progress
from pvit_ext.data.generate.client import Endpoint, OpenAIClient
from pvit_ext.data.generate.desk import Desk
from pvit_ext.data.generate.estimate import Estimate, estimate
from pvit_ext.data.generate.jobs import Jobs
from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.limits import Budget, Pace, Prices
from pvit_ext.data.generate.output import Written, write_output
from pvit_ext.data.generate.page import write_page
from pvit_ext.data.generate.paths import check_paths
from pvit_ext.data.generate.pipeline import Dead, Done, Pipeline
from pvit_ext.data.generate.request import CallOptions, Request
from pvit_ext.data.generate.scene import Scene
from pvit_ext.data.generate.scene_file import SceneFile, read_captions
from pvit_ext.data.generate.strategies import STRATEGIES, Job
from pvit_ext.data.generate.workers import CallWork, call_in_workers, host_of
from pvit_ext.data.held_out import reported

_SHOWN = 5
Outcome = tuple[int, list[str]]
"""Exit status, and lines for the user."""


@dataclass(frozen=True)
class Settings:
    """What a run is to do.

    Args:
        file: of annotations.
        image_folder: that its images are in.
        out: of the records.
        call: what all calls share.
        endpoint: where they go.
        strategies: wanted.
        turns: of a dialogue, at least and at most; None: the strategies' own.
        captions: a file with more captions; None: those in ``file``.
        limit: how many images; None: all.
        max_bad: bad records that are passed over.
        ledger: None: beside ``out``.
        concurrency: calls at a time.
        requests_per_minute, tokens_per_minute: None: no limit.
        prices: of tokens.
        max_cost: of all runs of the ledger; None: no limit.
        skip_failed: write the records although some calls had no reply.
        workers: processes that make calls.
        backend: that they run on, see :func:`~pvit_ext.data.map_step.map_in_order`.
    """

    file: Path
    image_folder: str
    out: Path
    call: CallOptions
    endpoint: Endpoint = field(default_factory=Endpoint)
    strategies: Sequence[str] = STRATEGIES
    turns: tuple[int, int] | None = None
    captions: Path | None = None
    limit: int | None = None
    max_bad: int = 0
    ledger: Path | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None
    skip_failed: bool = False
    workers: int = 1
    backend: str = "local"

    def beside(self, ending: str) -> Path:
        """A file beside ``out``."""
        return self.out.with_name(self.out.name.removesuffix(".jsonl") + ending)

    def check_paths(self) -> None:
        """Refuse files that cannot be written, or that would overwrite another one.

        Raises:
            ValueError: naming the two, and what to do.
        """
        read = {"the file of annotations": self.file}
        written = {
            "--out": self.out,
            "the file of dead letters": self.beside(".dead.jsonl"),
            "the page of --sample": self.beside(".sample.html"),
            "the report": report_of(self.out),
            "--ledger": self.ledger or self.beside(".ledger.jsonl"),
        }
        check_paths(read | ({"the file of --captions": self.captions} if self.captions else {}), written)


class _Limited(Iterable[Scene]):
    """The first scenes of a file."""

    def __init__(self, scenes: SceneFile, limit: int | None) -> None:
        self.scenes, self.limit = scenes, limit

    def __iter__(self) -> Iterator[Scene]:
        return itertools.islice(self.scenes, self.limit)


class Session:
    """Holds the ledger while it is used as a context.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        settings.check_paths()
        self.settings = settings
        captions = read_captions(settings.captions) if settings.captions else None
        self.scenes = SceneFile(settings.file, settings.image_folder, settings.max_bad, captions)
        with_image = settings.call.images != "none"
        limited = _Limited(self.scenes, settings.limit)
        self.jobs = Jobs(limited, settings.strategies, settings.call.seed, with_image)
        self.pipeline = Pipeline(settings.call, settings.turns)
        self.ledger = Ledger(settings.ledger or settings.beside(".ledger.jsonl"))
        self._count: int | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ledger.__exit__(kind, error, trace)

    def remarks(self) -> list[str]:
        """What earlier runs did: replies in the ledger, calls in flight, damaged lines."""
        ledger, lines = self.ledger, []
        if ledger.calls:
            lines.append(
                f"{ledger.path}: {ledger.calls:,} replies are there ({ledger.used.input_tokens:,} tokens in, "
                f"{ledger.used.output_tokens:,} out)"
            )
        if ledger.damaged:
            lines.append(f"{ledger.path}: line {', '.join(map(str, ledger.damaged))} is not whole, and not used")
        if ledger.in_flight:
            lines.append(f"{len(ledger.in_flight)} call(s) were in flight: asked again if needed, maybe paid twice:")
            shown = list(ledger.in_flight.values())
            lines += [f"  {call.job}, sent {call.sent}, request {call.key[:16]}" for call in shown[:20]]
            lines += [f"  ... and {len(shown) - 20} more"] if len(shown) > 20 else []
        return lines

    def estimate(self) -> str:
        """What the run will take, and what it leaves out; all of the file is read, so that nothing is paid before."""
        found = self._estimate(self.jobs)
        self._count = found.jobs
        lines = [found.text(self.settings.prices)]
        for (strategy, reason), count in sorted(self.jobs.skipped.items()):
            lines.append(f"  {strategy}: {count:,} image(s) without ({reason})")
        lines += [f"  {count:,} record(s) left out: {reason}" for reason, count in self.scenes.skipped.items()]
        lines += [f"passed over: {problem}" for problem in self.scenes.problems]
        if self.settings.captions and self.settings.limit is None:  # the first images alone would tell nothing
            lines += self.scenes.remarks_of_captions(self.settings.captions)
        return "\n".join(lines)

    def generate(self) -> Outcome:
        """Make all calls and write the records."""
        progress = self._call(self.jobs, self._count)
        lines = self._spent()
        if progress.stopped or (progress.failed and not self.settings.skip_failed):
            return 1, [*lines, *self._unfinished(progress)]
        return self._write(progress, lines)

    def sample(self, count: int) -> Outcome:
        """Make a few calls and show the results as a page."""
        jobs = self.jobs.sample(count)
        progress = self._call(jobs, len(jobs))
        results = [(job, self._result(job, progress)) for job in jobs]
        path = self.settings.beside(".sample.html")
        remaining = "All: " + self._estimate(self.jobs).text(self.settings.prices)
        heading = f"{len(results)} dialogues by {self.settings.call.model}"
        write_page(path, results, heading, [remaining], self.settings.image_folder)
        good = sum(isinstance(result, Done) for _, result in results)
        lines = [*self._spent(), f"{path}: {good} of {len(results)} can be used", remaining]
        return (1, [*lines, progress.stopped]) if progress.stopped else (0, lines)

    def _result(self, job: Job, progress: Progress) -> Done | Dead:
        step = self.pipeline.advance(job, self.ledger.lookup)
        return Dead(progress.failed.get(job.name, "no reply")) if isinstance(step, Request) else step

    def batch(self, folder: Path) -> Outcome:
        """Read the results of a batch, and write the next round's requests, or the records."""
        read = batch.read_results(folder, self.ledger)
        lines = []
        if read.replies or read.refused or read.again or read.unknown:
            lines.append(
                f"{folder / batch.RESULTS}: {read.replies:,} new replies, {read.refused:,} refused, "
                f"{sum(read.again.values()):,} failed, {read.unknown:,} of other requests"
            )
            lines += [f"  {count:,} failed: {reason}" for reason, count in read.again.most_common(_SHOWN)]
        files, count = batch.write_requests(self.jobs, self.pipeline, self.ledger, folder)
        if count:
            names = ", ".join(path.name for path in files)
            lines.append(f"{folder}: {count:,} requests in {names}")
            lines.append(
                f"send them, put the files of replies and errors into {folder / batch.RESULTS}, run this again"
            )
            return 0, lines
        return self._write(Progress(), lines)

    def _estimate(self, jobs: Iterable[Job]) -> Estimate:
        return estimate(jobs, self.pipeline, self.ledger.lookup)

    def _call(self, jobs: Iterable[Job], count: int | None) -> Progress:
        from tqdm import tqdm

        settings, spent = self.settings, self.settings.prices.cost(self.ledger.used)
        spent += sum(settings.prices.cost(call.tokens) for call in self.ledger.in_flight.values())
        budget = Budget(settings.prices, settings.max_cost, spent)
        pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        bar = tqdm(total=count, desc="dialogues", unit="dialogue")
        with bar:
            if settings.workers > 1 or settings.backend != "local":
                return self._call_in_workers(jobs, pace, budget, bar.update)
            caller = Caller(self.pipeline, self.ledger, OpenAIClient(settings.endpoint), pace, budget)
            try:
                asyncio.run(caller.do(jobs, settings.concurrency, bar.update))
            except KeyboardInterrupt:
                caller.progress.stopped = "interrupted"
        return caller.progress

    def _call_in_workers(
        self, jobs: Iterable[Job], pace: Pace, budget: Budget, advance: Callable[[int], object]
    ) -> Progress:
        settings = self.settings
        each = max(1, settings.concurrency // settings.workers)
        with Desk(self.ledger, pace, budget, host_of(settings.backend, settings.workers)) as desk:
            work = CallWork(self.pipeline, settings.endpoint, each, desk.address)
            try:
                return call_in_workers(jobs, work, desk, settings.workers, settings.backend, advance)
            except KeyboardInterrupt:
                return Progress(stopped="interrupted")

    def _spent(self) -> list[str]:
        used, prices = self.ledger.used, self.settings.prices
        cost = f", cost {prices.cost(used):.4f}" if prices != Prices() else ""
        return [
            f"{self.ledger.calls:,} calls so far: {used.input_tokens:,} tokens in, {used.output_tokens:,} out{cost}"
        ]

    def _unfinished(self, progress: Progress) -> list[str]:
        lines = [f"{name}: {reason}" for name, reason in list(progress.failed.items())[:_SHOWN]]
        if len(progress.failed) > _SHOWN:
            lines.append(f"... and {len(progress.failed) - _SHOWN} more")
        why = f"stopped: {progress.stopped}" if progress.stopped else f"{len(progress.failed)} call(s) had no reply"
        skip = "" if progress.stopped else ", or write the others with --skip-failed"
        return [*lines, f"{why}; {self.settings.out} is not written. Run the same command again to go on{skip}"]

    def _write(self, progress: Progress, lines: list[str]) -> Outcome:
        dead = self.settings.beside(".dead.jsonl")
        args = self.jobs, self.pipeline, self.ledger.lookup, progress.failed, self.settings.out, dead
        written = write_output(*args)
        if not written.records:
            return 1, [*lines, f"no dialogue can be used, {self.settings.out} is not written; see {dead}"]
        return 0, [*lines, *_summary(written, self.settings.out, dead), *self._write_report(written)]

    def _write_report(self, written: Written) -> list[str]:
        """What ``data mix`` must know of the records, which the reports of their sources say; warnings of these."""
        settings = self.settings
        held_out, warnings = reported([settings.file, *([settings.captions] if settings.captions else [])])
        report = Report("generate", settings.file, remarks=warnings, held_out=held_out)
        report.counts["records"] = sum(written.records.values())
        report.write(settings.out)
        return warnings


def _summary(written: Written, out: Path, dead: Path) -> list[str]:
    by_task = ", ".join(f"{count:,} {task}" for task, count in written.records.items())
    lines = [f"{out}: {sum(written.records.values()):,} records ({by_task})"]
    if written.again:
        lines.append(f"{sum(written.again.values()):,} replies had to be asked for again")
        lines += [f"  {count:,}: {reason}" for reason, count in written.again.most_common(_SHOWN)]
    if written.dead:
        lines.append(f"{dead}: {sum(written.dead.values()):,} dialogues that cannot be used")
        lines += [f"  {count:,}: {reason}" for reason, count in written.reasons.most_common(_SHOWN)]
    return lines
