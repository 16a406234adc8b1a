"""The batch API's files: rounds of requests out and results in, until there are records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.check import check
from pvit_ext.data.generate import batch
from tests.data.generate.conftest import Run
from tests.data.generate.llm_server import Reply, good_reply
from tests.data.generate.samples import lines_of, scene, write_scenes

NOWHERE = "http://127.0.0.1:9/v1"
Answerer = Callable[[dict[str, Any]], dict[str, Any]]


def requests_in(folder: Path) -> list[dict[str, Any]]:
    return [line for path in sorted(folder.glob("requests-*.jsonl")) for line in lines_of(path)]


def reply_to(request: dict[str, Any], text: Any = None) -> dict[str, Any]:
    """A line of a batch's output."""
    body = json.loads(Reply(good_reply(request["body"]) if text is None else text).body)
    return {"id": "b", "custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


def put_results(folder: Path, name: str, *lines: dict[str, Any]) -> None:
    (folder / "results" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_rounds_until_all_is_there(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path, scene())
    folder = tmp_path / "batch"
    options = ("--strategy", "attribute,relationship,general,ocr", "--batch", str(folder))
    assert run(NOWHERE, *options) == 0
    first = requests_in(folder)
    assert [(line["method"], line["url"]) for line in first] == [("POST", "/v1/chat/completions")] * 4
    assert run(NOWHERE, *options) == 0
    assert requests_in(folder) == first  # nothing came back, nothing changes
    bad, expired, *rest = first
    error = {"id": "b", "custom_id": expired["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    put_results(folder, "one.jsonl", *map(reply_to, reversed(rest)), reply_to(bad, "Sorry!"))
    put_results(folder, "errors.jsonl", error, {**reply_to(bad), "custom_id": "nobody's"})
    capsys.readouterr()
    assert run(NOWHERE, *options) == 0
    assert "3 new replies, 0 refused, 1 failed, 1 of other requests" in (said := capsys.readouterr().out)
    assert "1 failed: batch_expired" in said
    second = requests_in(folder)
    assert len(second) == 3
    assert {line["custom_id"] for line in second} & {line["custom_id"] for line in first} == {expired["custom_id"]}
    put_results(folder, "two.jsonl", *map(reply_to, second))
    assert run(NOWHERE, *options) == 0
    assert not requests_in(folder)
    assert len(lines_of(tmp_path / "out.jsonl")) == 4
    assert check(tmp_path / "out.jsonl", tmp_path, check_images=True)[0] == []


def test_a_refused_request_is_a_dead_letter(run: Run, tmp_path: Path) -> None:
    write_scenes(tmp_path, scene("a"), scene("b", captions=["Two dogs."]))
    folder = tmp_path / "batch"
    options = ("--strategy", "attribute", "--batch", str(folder))
    assert run(NOWHERE, *options) == 0
    one, two = requests_in(folder)
    body = {"error": {"message": "made up", "code": "invalid_value"}}
    put_results(folder, "r.jsonl", reply_to(one), {**reply_to(two), "response": {"status_code": 400, "body": body}})
    assert run(NOWHERE, *options) == 0
    assert [line["id"] for line in lines_of(tmp_path / "out.jsonl")] == ["a-attribute"]
    (letter,) = lines_of(tmp_path / "out.dead.jsonl")
    assert (letter["id"], letter["problem"]) == ("b-attribute", "status 400: invalid_value")


def test_large_batches_are_several_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path, *(scene(f"s{k}", captions=[f"Scene {k}."]) for k in range(5)))
    monkeypatch.setattr(batch, "MAX_REQUESTS", 2)
    folder = tmp_path / "batch"
    assert run(NOWHERE, "--strategy", "attribute", "--batch", str(folder)) == 0
    assert [len(lines_of(path)) for path in sorted(folder.glob("requests-*"))] == [2, 2, 1]
    monkeypatch.setattr(batch, "MAX_REQUESTS", 50)
    monkeypatch.setattr(batch, "MAX_BYTES", 3 * len((folder / "requests-0003.jsonl").read_bytes()) + 10)
    assert run(NOWHERE, "--strategy", "attribute", "--batch", str(folder)) == 0
    assert [len(lines_of(path)) for path in sorted(folder.glob("requests-*"))] == [3, 2]


def test_a_damaged_results_file_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path, scene())
    folder = tmp_path / "batch"
    assert run(NOWHERE, "--strategy", "attribute", "--batch", str(folder)) == 0
    (folder / "results" / "r.jsonl").write_text('\n{"custom_id": "x"\n')
    assert run(NOWHERE, "--strategy", "attribute", "--batch", str(folder)) == 2
    assert "r.jsonl line 2 is no line of a batch's results" in capsys.readouterr().err
