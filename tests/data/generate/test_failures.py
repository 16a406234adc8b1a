"""Endpoints that fail: what is tried again, what is asked again, what ends the run, and what is kept."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.check import check
from pvit_ext.data.generate import client
from pvit_ext.data.generate.limits import TokenBucket
from tests.data.generate.conftest import Run
from tests.data.generate.llm_server import LlmServer, Reply, document_of, good_reply
from tests.data.generate.samples import lines_of, scene, write_scenes

ONE = ("--strategy", "attribute")
GOOD = {"turns": [{"question": "What is [R1] like?", "answer": "It is brown."}]}


def error(status: int, code: str | None = None, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": f"made up {status}", "code": code}}).encode()
    return Reply(status=status, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


TRANSIENT = {
    "429 with seconds": error(429, retry_after="0.05"),
    "429 with milliseconds": error(429, retry_after_ms="20"),
    "429 with a date in the past": error(429, retry_after="Wed, 01 Jan 2025 00:00:00 GMT"),
    "429 with nonsense": error(429, retry_after="soon"),
    "429 without a header": error(429),
    "500": error(500, x_should_retry="true"),
    "502 of HTML": Reply(status=502, body=b"<html>Bad Gateway</html>", headers={"content-type": "text/html"}),
    "503 without a body": Reply(status=503, body=b""),
    "408": error(408),
    "cut body": Reply(GOOD, drop=40),
    "dropped connection": Reply(GOOD, drop=0),
    "time-out": Reply(GOOD, wait=0.6),
    "no UTF-8": Reply(body=b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "error with status 200": Reply(body=b'{"error": {"message": "model is loading", "code": 503}}'),
    "HTML with status 200": Reply(body=b"<html>Log in</html>"),
}
ASKED_AGAIN = {
    "malformed JSON": Reply('{"turns": [{"question": "What is [R1]'),
    "wrong schema": Reply({"conversation": []}),
    "cut by length": Reply('{"turns": [', fields={"finish_reason": "length"}),
    "null content": Reply(None),
    "no choices": Reply(body=b'{"choices": []}'),
    "no region": Reply({"turns": [{"question": "What is it?", "answer": "A dog."}]}),
    "invented region": Reply({"turns": [{"question": "What is [R8]?", "answer": "A dog."}]}),
    "coordinates": Reply({"turns": [{"question": "Where is [R1]?", "answer": "At [0.1, 0.2, 0.3, 0.4]."}]}),
    "contradiction": Reply({"turns": [{"question": "What is [R1]?", "answer": "A black dog."}]}),
    "half a surrogate pair": Reply('{"turns": [{"question": "What is [R1]?", "answer": "A dog \\ud83d."}]}'),
}


def fails_first(faults: dict[str, Reply]) -> Any:
    """Each scene's first call has the fault that its caption names."""
    seen: set[str] = set()

    def reply(body: dict[str, Any], _: int) -> Reply:
        fault = document_of(body)["captions"][-1].removeprefix("Case ")
        if fault in seen:
            return Reply(GOOD)
        seen.add(fault)
        return faults[fault]

    return reply


def cases(*names: str) -> list[dict[str, Any]]:
    return [scene(f"c{k}", captions=["A brown dog.", f"Case {name}"]) for k, name in enumerate(names)]


def test_what_may_pass_is_tried_again(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, *cases(*TRANSIENT))
    with LlmServer(fails_first(TRANSIENT)) as server:
        assert run(server.url, *ONE, "--timeout", "0.4") == 0
    assert len(server.bodies) == 2 * len(TRANSIENT)
    assert all("cannot be used" not in str(body["messages"]) for body in server.bodies)
    assert len(lines_of(tmp_path / "out.jsonl")) == len(TRANSIENT)
    assert check(tmp_path / "out.jsonl", tmp_path, check_images=True)[0] == []


def test_a_bad_reply_is_asked_for_again_with_what_was_wrong(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, *cases(*ASKED_AGAIN))
    with LlmServer(fails_first(ASKED_AGAIN)) as server:
        assert run(server.url, *ONE) == 0
    assert len(server.bodies) == 2 * len(ASKED_AGAIN)
    again = {
        document_of(body)["captions"][-1].removeprefix("Case "): body["messages"][-1]["content"]
        for body in server.bodies
        if body["messages"][-2]["role"] == "assistant" and "cannot be used" in body["messages"][-1]["content"]
    }
    assert again.keys() == ASKED_AGAIN.keys()
    said = capsys.readouterr().out
    assert f"{len(ASKED_AGAIN)} replies had to be asked for again" in said
    assert "[R]" not in said  # the names of regions keep their numbers where problems are summed up
    assert "  1: it does not fit the schema: turns: Field required" in said
    assert "cut off" in again["cut by length"]
    assert "'[R8]' is no region of this image" in again["invented region"]
    assert "caption says 'brown dog'" in again["contradiction"]
    assert len(lines_of(tmp_path / "out.jsonl")) == len(ASKED_AGAIN)


def test_what_stays_bad_is_a_dead_letter(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = {
        "refusal": Reply(None, fields={"refusal": "I will not"}),
        "content filter": Reply("", fields={"finish_reason": "content_filter"}),
        "too long": error(400, "context_length_exceeded"),
        "always bad": Reply("Sorry!"),
        "good": Reply(GOOD),
    }
    write_scenes(tmp_path, *cases(*faults))

    def reply(body: dict[str, Any], _: int) -> Reply:
        return faults[document_of(body)["captions"][-1].removeprefix("Case ")]

    with LlmServer(reply) as server:
        assert run(server.url, *ONE) == 0
        assert len(server.bodies) == 6  # only what is bad is asked for again
        assert run(server.url, *ONE) == 0
        assert len(server.bodies) == 6
    assert [record["id"] for record in lines_of(tmp_path / "out.jsonl")] == ["c4-attribute"]
    letters = {letter["id"]: letter for letter in lines_of(tmp_path / "out.dead.jsonl")}
    problems = [letters[f"c{k}-attribute"]["problem"] for k in range(4)]
    assert ["refused: I will not" in problems[0], "filter" in problems[1], "status 400" in problems[2]] == [True] * 3
    assert [one["reply"] for one in letters["c3-attribute"]["attempts"]] == ["Sorry!"] * 2
    assert "4 dialogues that cannot be used" in capsys.readouterr().out


def test_nothing_usable_writes_no_records(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, scene())
    with LlmServer(lambda *_: Reply("Sorry!")) as server:
        assert run(server.url, *ONE) == 1
    assert not (tmp_path / "out.jsonl").exists()
    assert len(lines_of(tmp_path / "out.dead.jsonl")) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(401, "invalid_api_key"), "status 401"),
        (error(404, "model_not_found"), "status 404"),
        (error(429, "insufficient_quota"), "status 429"),
    ],
)
def test_what_no_call_can_survive_ends_the_run(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], reply: Reply, words: str
) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(6))))
    with LlmServer(lambda *_: reply) as server:
        assert run(server.url, *ONE, "--concurrency", "2") == 1
        assert len(server.bodies) == 2
    assert words in (said := capsys.readouterr().out)
    assert "out.jsonl is not written. Run the same command again" in said
    assert not (tmp_path / "out.jsonl").exists()


def test_calls_without_a_reply_are_made_again_or_skipped(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, *cases("good", "down"))

    def reply(body: dict[str, Any], _: int) -> Reply:
        return Reply(GOOD) if document_of(body)["captions"][-1] == "Case good" else error(500)

    with LlmServer(reply) as server:
        assert run(server.url, *ONE, "--tries", "2") == 1
        assert len(server.bodies) == 3
        assert "c1-attribute: no reply after 2 tries: status 500" in capsys.readouterr().out
        assert not (tmp_path / "out.jsonl").exists()
        assert run(server.url, *ONE, "--tries", "2", "--skip-failed") == 0
        assert len(server.bodies) == 5
    assert len(lines_of(tmp_path / "out.jsonl")) == len(lines_of(tmp_path / "out.dead.jsonl")) == 1


def test_an_endpoint_that_is_down_ends_the_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(30))))
    with LlmServer(lambda *_: error(503)) as server:
        assert run(server.url, *ONE, "--tries", "1", "--concurrency", "3") == 1
        assert 10 <= len(server.bodies) <= 12
    assert "10 calls failed in a row" in capsys.readouterr().out


def test_a_429_holds_back_every_call(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(8))))
    times: list[float] = []

    def reply(body: dict[str, Any], _: int) -> Reply:
        times.append(time.monotonic())
        return error(429, retry_after_ms="400") if len(times) == 1 else Reply(GOOD)

    with LlmServer(reply) as server:
        assert run(server.url, *ONE, "--concurrency", "2") == 0
    assert sum(moment - times[0] < 0.35 for moment in times) <= 3  # those that were on their way


def test_no_more_calls_at_a_time_than_allowed(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(9))))
    three = threading.Event()

    def reply(*_: object) -> Reply:
        if server.current >= 3:
            three.set()
        three.wait(30)
        return Reply(GOOD, wait=0.03)  # time for a fourth

    with LlmServer(reply) as server:
        assert run(server.url, *ONE, "--concurrency", "3") == 0
    assert server.most == 3


def test_the_same_annotations_are_asked_for_once(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, scene("a"), scene("b"), scene("c"))
    with LlmServer(lambda body, _: Reply(good_reply(body), wait=0.05)) as server:
        assert run(server.url, *ONE) == 0
    assert len(server.bodies) == 1
    assert len(lines_of(tmp_path / "out.jsonl")) == 3


def test_the_ceiling_of_cost_ends_the_run_before_it_is_passed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(8))))
    prices = ("--price-in", "1000", "--price-out", "10000", "--max-tokens", "40")  # 0.3 a call, 0.9 or so at most
    with LlmServer(lambda *_: Reply(GOOD)) as server:
        assert run(server.url, *ONE, *prices, "--max-cost", "2.4", "--concurrency", "1") == 1
        calls = len(server.bodies)
        assert 3 <= calls <= 7
        assert "--max-cost 2.4 is reached" in (said := capsys.readouterr().out)
        assert f"cost {0.3 * calls:.4f}" in said
        assert run(server.url, *ONE, *prices, "--max-cost", "20") == 0
    assert len(server.bodies) == 8


def test_a_bucket_gives_a_minute_at_once_and_then_evenly() -> None:
    now = [0.0]
    bucket = TokenBucket(60, lambda: now[0])
    assert [bucket.take(30), bucket.take(30), bucket.take(1), bucket.take(2)] == [0, 0, 1, 3]
    now[0] = 10.0
    assert bucket.take(7) == 0
    assert bucket.take(120) == 120  # more than it holds waits, and ends
    assert TokenBucket(None).take(1e9) == 0


def test_tokens_per_minute_are_kept(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, *cases(*map(str, range(3))))
    with LlmServer(lambda *_: Reply(GOOD)) as server:
        start = time.monotonic()
        assert run(server.url, *ONE, "--tokens-per-minute", "300000", "--max-tokens", "100000") == 0
    assert time.monotonic() - start > 0.2  # the third waits for its tokens
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 01 Jan 2025 00:00:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_what_retry_after_says(headers: dict[str, str], seconds: float | None) -> None:
    assert client.retry_after(headers) == seconds
