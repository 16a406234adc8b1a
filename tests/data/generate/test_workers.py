"""Calls by several workers: the same records, the same limits, and nothing paid twice when a worker is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.generate import session as sessions
from pvit_ext.data.generate.client import Endpoint
from pvit_ext.data.generate.desk import Desk, RemoteDesk
from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.limits import Budget, CeilingReached, Pace, Prices
from pvit_ext.data.generate.pipeline import Pipeline
from pvit_ext.data.generate.reply import Usage
from pvit_ext.data.generate.request import CallOptions
from pvit_ext.data.generate.session import Session, Settings
from pvit_ext.data.generate.workers import CallWork
from tests.data.generate.llm_server import LlmServer, Reply, good_reply
from tests.data.generate.samples import scene, write_scenes

WITH_TWO = {"workers": 2, "concurrency": 4}


def write_many(folder: Path, count: int) -> None:
    write_scenes(folder, *(scene(f"s{n}", captions=[f"A brown dog number {n}."]) for n in range(count)))


def settings(folder: Path, url: str, out: str = "out", **changed: Any) -> Settings:
    call = CallOptions("m", max_tokens_name="max_tokens")
    given = {"strategies": ("relationship", "general"), **changed}
    return Settings(folder / "scenes.jsonl", str(folder), folder / f"{out}.jsonl", call, Endpoint(url), **given)


def generate(given: Settings) -> tuple[int, list[str]]:
    with Session(given) as session:
        return session.generate()


def desk(folder: Path, prices: Prices | None = None, ceiling: float | None = None, rate: float | None = None) -> Desk:
    return Desk(Ledger(folder / "ledger.jsonl"), Pace(rate, None), Budget(prices or Prices(), ceiling))


def test_what_a_worker_notes_is_in_the_ledger_at_once(tmp_path: Path) -> None:
    with desk(tmp_path) as one:
        remote = RemoteDesk(one.address)
        remote.start("a", "job", Usage(1, 2))
        assert '"start"' in (tmp_path / "ledger.jsonl").read_text()
        remote.finish("a", "job", "{}")
        remote.fail("b", "job", "too long")
        assert remote.lookup("a").raw == "{}"  # type: ignore[union-attr]
        assert remote.lookup("b").failure == "too long"  # type: ignore[union-attr]
        assert remote.lookup("c") is None
        remote.close()


@pytest.mark.slow
def test_limits_hold_for_all_workers_together(tmp_path: Path) -> None:
    with desk(tmp_path, Prices(1e6, 0), ceiling=5, rate=60) as one:
        first, second = RemoteDesk(one.address), RemoteDesk(one.address)
        first.reserve(Usage(3, 0))
        with pytest.raises(CeilingReached, match=r"--max-cost 5 is reached"):
            second.reserve(Usage(3, 0))
        first.charge(Usage(3, 0), Usage(1, 0))
        second.reserve(Usage(3, 0))
        for _ in range(30):
            assert first.pace.take(Usage()) == second.pace.take(Usage()) == 0
        assert second.pace.take(Usage()) > 0.5
        first.pace.pause(0.2)
        assert 0 < second.pace.paused() <= 0.2
        start = time.monotonic()
        asyncio.run(second.pace.wait(Usage()))
        assert time.monotonic() - start > 0.2
        first.ask("stop", "no credit")
        assert (second.ask("why_stopped"), one.stopped) == ("no credit", "no credit")


def test_who_does_not_know_the_key_is_not_served(tmp_path: Path) -> None:
    with desk(tmp_path) as one:
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client((one.address.host, one.address.port), authkey=b"guess")
        RemoteDesk(one.address).ask("why_stopped")


def test_a_batch_of_jobs_is_done_and_a_stopped_run_does_no_more(tmp_path: Path) -> None:
    write_many(tmp_path, 2)
    with LlmServer() as server, Session(settings(tmp_path, server.url)) as session:
        jobs = list(session.jobs)
        with Desk(session.ledger, Pace(None, None), Budget(Prices(), None)) as one:
            work = CallWork(session.pipeline, Endpoint(server.url), 2, one.address)
            assert work(jobs[:1]).finished == 1
            one._stop("no credit")
            assert work(jobs[1:]).finished == 0
        assert len(server.bodies) == session.pipeline.calls_of(jobs[0])


@pytest.mark.slow
def test_workers_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    write_many(tmp_path, 12)
    with LlmServer() as server:
        assert generate(settings(tmp_path, server.url, "one"))[0] == 0
        calls = len(server.bodies)
        assert generate(settings(tmp_path, server.url, "two", **WITH_TWO))[0] == 0
        assert len(server.bodies) == 2 * calls
        assert server.most <= 8  # the first run's
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert (tmp_path / "one.dead.jsonl").read_bytes() == (tmp_path / "two.dead.jsonl").read_bytes()


@pytest.mark.slow
def test_an_endpoint_that_refuses_stops_all_workers(tmp_path: Path) -> None:
    write_many(tmp_path, 40)
    with LlmServer(lambda body, _: Reply(status=401)) as server:
        status, lines = generate(settings(tmp_path, server.url, **WITH_TWO))
        assert status == 1
        assert "status 401" in lines[-1]
        assert len(server.bodies) <= 4
    assert not (tmp_path / "out.jsonl").exists()


class DyingPipeline(Pipeline):
    """Its process is killed at its fifth call, once."""

    once: Path
    calls = 0

    def advance(self, job: Any, lookup: Any) -> Any:
        self.calls += 1
        if threading.current_thread() is threading.main_thread() and self.calls == 5 and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().advance(job, lookup)


def generate_dying(folder: Path, given: Settings) -> tuple[int, list[str]]:
    with Session(given) as session:
        session.pipeline = dying = DyingPipeline(given.call)
        dying.once = folder / "killed"
        return session.generate()


@pytest.mark.slow
def test_after_a_worker_was_killed_the_same_command_goes_on_and_repeats_no_completed_call(tmp_path: Path) -> None:
    write_many(tmp_path, 12)
    with LlmServer() as server:
        with pytest.raises(ChildProcessError, match=r"a worker process died.*start again"):
            generate_dying(tmp_path, settings(tmp_path, server.url, **WITH_TWO))
        assert not (tmp_path / "out.jsonl").exists()
        kept = Ledger(tmp_path / "out.ledger.jsonl")
        assert kept.calls > 0
        in_flight = len(kept.in_flight)
        kept.__exit__(None, None, None)
        assert generate(settings(tmp_path, server.url, **WITH_TWO))[0] == 0
        repeated = sum(count - 1 for count in server.answered.values())
        assert repeated <= in_flight
        before = len(server.bodies)
        assert generate(settings(tmp_path, server.url, "one"))[0] == 0
        assert len(server.bodies) > before
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.slow
def test_ray_writes_the_same_bytes_also_when_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    write_many(tmp_path, 24)
    given = {"backend": "ray", "workers": 2, "concurrency": 2}
    with LlmServer(lambda body, _: Reply(good_reply(body), wait=0.01)) as server:
        assert generate(settings(tmp_path, server.url, "one"))[0] == 0
        calls = len(server.bodies)
        try:
            assert generate_dying(tmp_path, settings(tmp_path, server.url, "two", **given))[0] == 0
        finally:
            ray.shutdown()
        assert (tmp_path / "killed").exists()
        assert calls <= len(server.bodies) - calls <= calls + 2  # those in flight
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_workers_are_named_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line hands them on."""
    from pvit_ext import cli
    from tests.data.generate.samples import command

    seen: list[Settings] = []

    def keep(given: Settings) -> Any:
        seen.append(given)
        raise ValueError("enough")

    monkeypatch.setattr(sessions, "Session", keep)
    assert cli.main(command(tmp_path, "http://x", "--workers", "3", "--backend", "ray")) == 2
    assert (seen[0].workers, seen[0].backend) == (3, "ray")
