"""What passes to Gradio: the page's own calls, in which it finds no file to keep and no address to fetch."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from pvit_ext.serving.demo.app import Address, Parts, running
from pvit_ext.serving.demo.gate import Gate
from pvit_ext.serving.demo.service import Setting
from pvit_ext.serving.demo.sessions import Sessions
from tests.serving.demo.conftest import COMMAND, Demo, Model

pytest.importorskip("starlette", reason="the extra demo is not installed")

FILE = {"path": "http://example.org/x.png", "meta": {"_type": "gradio.FileData"}}
ASK = "/gradio_api/call/ask"
JSON = "application/json"


def passed(path: str, body: bytes | None, kind: str = JSON, method: str = "POST") -> bytes | int:
    """The body that reaches Gradio, or the status that its sender gets; a body of None breaks off."""
    reached: list[bytes] = []
    statuses: list[int] = []

    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        reached.append((await receive())["body"])
        assert dict(scope["headers"])[b"content-length"] == str(len(reached[0])).encode()

    async def receive() -> Any:
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body or b"")).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Gate(gradio, Sessions(lambda _: None))(scope, receive, send))
    return reached[0] if reached else statuses[0]


@pytest.mark.parametrize(
    "data", [[FILE], [{"turns": [FILE]}], FILE, ["x", FILE], [["x"]], [], None, [json.dumps(FILE), "x"]]
)
def test_a_question_is_one_text(data: Any) -> None:
    assert passed(ASK, json.dumps({"data": data}).encode()) == 400


@pytest.mark.parametrize("body", [None, b"", b"x", b"[1]", b"[" * 100_000, b'{"data": ["x"]}'[:-1], b"\xff"])
def test_what_is_no_question_is_refused(body: bytes | None) -> None:
    assert passed(ASK, body) == 400


def test_a_question_passes_alone() -> None:
    text = json.dumps({"picture": "key", "note": "ü", "file": FILE})
    given = {"data": [text], "session_hash": FILE, "event_data": FILE}
    body = passed(ASK, json.dumps(given).encode())
    assert isinstance(body, bytes)
    assert json.loads(body) == {"data": [text]}
    first_a_file = b'{"data": [%s], "data": ["x"]}' % json.dumps(FILE).encode()
    assert passed(ASK, first_a_file) == b'{"data": ["x"]}'


def test_gradio_reads_no_forms() -> None:
    call = "/gradio_api/component_server"
    assert passed(call, b'{"data": [1]}') == b'{"data": [1]}'
    assert passed(call, b"--x--", "multipart/form-data; boundary=x") == 415
    assert passed(call, b'{"data": [1]}', "text/plain") == 415
    assert passed(ASK, b'{"data": ["x"]}', "text/plain") == 415


@pytest.mark.parametrize(
    "path",
    [
        f"{ASK}/", f"{ASK}/x", "/gradio_api/call/v2/ask", "/gradio_api/call/start", "/gradio_api/queue/join",
        "/gradio_api/run/ask", "/gradio_api/api/ask", "/gradio_api/upload", "/call/ask", "//gradio_api/upload", "//",
    ],
)  # fmt: skip
def test_there_is_one_way_to_ask(path: str) -> None:
    assert passed(path, b'{"data": ["x"]}') == 404


@pytest.mark.browser
def test_nothing_is_fetched_and_nothing_stays(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio import processing_utils

    fetched: list[str] = []

    async def fetch(address: str, *_: Any, **__: Any) -> None:
        fetched.append(address)
        raise OSError("there is no network")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", fetch)
    for path in ("call/ask", "queue/join", "call/v2/ask"):
        body = json.dumps({"data": [FILE], "request": FILE, "session_hash": "x", "fn_index": 0}).encode()
        asked = urllib.request.Request(f"{demo.address}gradio_api/{path}", body, {"Content-Type": JSON})
        with pytest.raises(HTTPError):
            urllib.request.urlopen(asked)
    assert fetched == []
    outer = os.environ["GRADIO_TEMP_DIR"]
    with running(Parts(Model(), Setting("a model", COMMAND), tmp_path), Address(port=0)):
        inner = Path(os.environ["GRADIO_TEMP_DIR"])
        inner.mkdir(exist_ok=True)
        (inner / "x").touch()
    assert not inner.parent.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == outer
