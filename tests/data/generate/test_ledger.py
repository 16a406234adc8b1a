"""The ledger: nothing is paid twice and nothing is lost, whenever a run is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.reply import Usage
from tests.data.generate.conftest import Run
from tests.data.generate.llm_server import LlmServer, Reply
from tests.data.generate.samples import command, lines_of, scene, write_scenes

ONE = ("--strategy", "attribute")
GOOD = {"turns": [{"question": "What is [R1] like?", "answer": "It is brown."}]}
RAW = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def ended(path: Path) -> int:
    return path.read_text().count('"call": "end"') if path.exists() else 0


@pytest.mark.slow
def test_after_kill_9_no_completed_call_is_repeated_and_none_is_lost(tmp_path: Path) -> None:
    write_scenes(tmp_path, *(scene(f"s{k}", captions=["A brown dog.", f"Scene {k}"]) for k in range(12)))
    release = threading.Event()
    count = threading.Semaphore(5)

    def reply(body: dict[str, Any], _: int) -> Reply:
        if not release.is_set() and not count.acquire(blocking=False):
            release.wait(30)
        return Reply(GOOD)

    with LlmServer(reply) as server:
        words = [sys.executable, "-m", "pvit_ext.cli", *command(tmp_path, server.url, *ONE, "--concurrency", "3")]
        ledger = tmp_path / "out.ledger.jsonl"
        first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 30
        while (ended(ledger) < 5 or len(server.keys) < 8) and time.monotonic() < limit:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        release.set()
        before = list(server.keys)
        assert len(before) == 8
        assert not (tmp_path / "out.jsonl").exists()
        second = subprocess.run(words, capture_output=True, text=True, check=True)
        after = server.keys[len(before) :]
    assert len(set(server.keys)) == 12  # none is lost
    assert len(after) == 7
    repeated = set(before) & set(after)
    assert len(repeated) == 3  # they were in flight
    assert "5 replies are there" in second.stdout
    assert "3 call(s) were in flight" in second.stdout
    listed = [line.strip().partition(",")[0] for line in second.stdout.splitlines() if line.startswith("  s")]
    assert len(listed) == 3
    assert {line["id"] for line in lines_of(tmp_path / "out.jsonl")} == {f"s{k}-attribute" for k in range(12)}


@pytest.mark.slow
def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    write_scenes(tmp_path, scene())
    with LlmServer(lambda *_: Reply(GOOD, wait=5)) as server:
        words = [sys.executable, "-m", "pvit_ext.cli", *command(tmp_path, server.url, *ONE)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        limit = time.monotonic() + 30
        while not server.keys and time.monotonic() < limit:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopped: interrupted" in said
    assert "Run the same command again to go on" in said
    assert "Traceback" not in errors


def test_replies_and_usage_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.start("k1", "a", Usage(10, 20))
        ledger.start("k2", "b", Usage(10, 20))
        ledger.start("k3", "c", Usage(10, 20))
        ledger.finish("k1", "a", RAW)
        ledger.fail("k3", "c", "status 400: too long")
    with Ledger(path) as ledger:
        assert (ledger.calls, ledger.used, ledger.damaged) == (2, Usage(7, 3), [])
        assert [(call.key, call.job, call.tokens) for call in ledger.in_flight.values()] == [("k2", "b", Usage(10, 20))]
        known = [ledger.lookup(key) for key in ("k1", "k3", "k2")]
        assert [one and (one.raw, one.failure) for one in known] == [(RAW, None), ("", "status 400: too long"), None]
        ledger.drop("k2", "b")
        assert not ledger.in_flight


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_that_breaks_off_costs_that_call_alone(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        for key in ("k1", "k2"):
            ledger.start(key, key, Usage(1, 1))
            ledger.finish(key, key, RAW)
    path.write_bytes(path.read_bytes()[:-cut])
    for again in range(2):
        with Ledger(path) as ledger:
            assert ledger.lookup("k1")
            assert bool(ledger.lookup("k2")) == (again == 1 or cut == 1)
            assert ledger.damaged == ([4] if cut > 1 else [])
            if again == 0 and cut > 1:
                assert list(ledger.in_flight) == ["k2"]
                ledger.finish("k2", "k2", RAW)


@pytest.mark.parametrize("text", ['[{"id": 1}]', '{"id": 1}', '{"id": 1}\n', "\n", "text", '{"call" {'])
def test_a_file_that_is_no_ledger_stays_what_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    if text.startswith('{"call"'):
        Ledger(path).__exit__(None, None, None)
    else:
        with pytest.raises(ValueError, match=r"mine\.json is no ledger of calls; use another"):
            Ledger(path)
    assert path.read_text() == text


@pytest.mark.parametrize("left", range(0, 30, 5))
def test_a_first_line_that_breaks_off_is_passed_over_by_every_run(tmp_path: Path, left: int) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.start("k1", "k1", Usage(1, 1))
    path.write_bytes(path.read_bytes()[:left])
    for known in (None, RAW, RAW):
        with Ledger(path) as ledger:
            found = ledger.lookup("k1")
            assert (found and found.raw) == known
            assert ledger.damaged == ([1] if left else [])
            if not known:
                ledger.finish("k1", "k1", RAW)
                assert (ledger.lookup("k1") or ledger).raw == RAW  # type: ignore[union-attr]


def test_one_run_at_a_time(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path, scene())
    with Ledger(tmp_path / "out.ledger.jsonl"):
        assert run("http://127.0.0.1:9/v1", *ONE) == 2
    assert "in use by another run" in capsys.readouterr().err


def test_a_changed_request_does_not_use_an_old_reply(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, scene())
    with LlmServer(lambda *_: Reply(GOOD)) as server:
        for options in ([], ["--temperature", "0.5"], ["--max-tokens", "99"], ["--seed", "1"], ["--model", "n"], []):
            assert run(server.url, *ONE, *options) == 0
        assert len(server.bodies) == 5
        write_scenes(tmp_path, scene(labels=["cat", "ball", "sign"]))
        assert run(server.url, *ONE) == 0
        assert len(server.bodies) == 6
