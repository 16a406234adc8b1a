"""What passes between a browser and Gradio: the page and its calls, nothing that leaves or reads files."""

from __future__ import annotations

import json
from typing import Any

from pvit_ext.serving.api_error import ApiError, wrong
from pvit_ext.serving.demo.sessions import Sessions
from pvit_ext.serving.limits import Limits

STAY = "/stay/"
"""A page holds a connection here, under its name, as long as it is open."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; frame-src 'none'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Whatever Gradio's own page asks for, the browser fetches nothing from elsewhere."""
_API = "gradio_api"
_OPEN = {
    "assets",
    "static",
    "svelte",
    "config",
    "theme.css",
    "favicon.ico",
    "manifest.json",
    "pwa_icon",
}
_OPEN_CALLS = {"component_server", "heartbeat", "startup-events", "info", "theme.css", "app_id"}
"""Parts of addresses that the page needs. Gradio has more, by which files are left, read, and fetched from others."""
_QUESTION, _ANSWERS = f"/{_API}/call/ask", f"/{_API}/call/ask/"
"""Where a question is sent, and where its answer is read."""


class Gate:
    """Middleware of the demo.

    Args:
        app: that it stands before.
        sessions: the open pages.
    """

    def __init__(self, app: Any, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY.encode())]
            await send(message)

        path: str = scope["path"]
        if path.startswith(STAY):
            return await self._stay(path.removeprefix(STAY), receive, with_policy)
        if not _is_open(path, scope["method"]):
            return await _answer(with_policy, 404, b"not found")
        try:
            scope, receive = await _checked(scope, receive)
        except ApiError as error:
            return await _answer(with_policy, error.status, error.message.encode())
        await self._app(scope, receive, with_policy)

    async def _stay(self, session: str, receive: Any, send: Any) -> None:
        try:
            self._sessions.check(session)
        except ValueError as error:
            return await _answer(send, 404, str(error).encode())
        await send(_start(200, b"text/event-stream"))
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
        await self._sessions.stay(session, receive)
        await send({"type": "http.response.body", "body": b""})


def _is_open(path: str, method: str) -> bool:
    if path in ("/", _QUESTION):
        return True
    if path.startswith(_ANSWERS):
        return method == "GET"
    first, *rest = path.removeprefix("/").split("/")
    return rest[0] in _OPEN_CALLS if first == _API and rest else first in _OPEN


async def _checked(scope: Any, receive: Any) -> tuple[Any, Any]:
    """A request as Gradio may have it.

    Raises:
        ApiError: for what the page does not send.
    """
    from starlette.datastructures import MutableHeaders

    if scope["method"] != "POST":
        return scope, receive
    headers = MutableHeaders(raw=list(scope["headers"]))
    if headers.get("content-type", "").partition(";")[0] != "application/json":  # of forms Gradio keeps the files
        raise ApiError(415, "Content-Type: the page sends application/json")
    if scope["path"] != _QUESTION:
        return scope, receive
    body = await _question(scope, receive)
    headers["content-length"] = str(len(body))
    return {**scope, "headers": headers.raw}, _again(body, receive)


async def _question(scope: Any, receive: Any) -> bytes:
    """The body of a question: one text, since Gradio takes an object for a file and fetches it where it names one."""
    from starlette.requests import ClientDisconnect, Request

    from pvit_ext.serving.body import read_body

    try:
        given = json.loads(await read_body(Request(scope, receive), Limits()))
    except ClientDisconnect as error:
        raise wrong("body", "it broke off") from error
    except (ValueError, RecursionError) as error:
        raise wrong("body", f"it is no JSON: {error}") from error
    match given:
        case {"data": [str(question)]}:
            return json.dumps({"data": [question]}).encode()
    raise wrong("data", "it is a list of one text, the question as JSON")


def _again(body: bytes, receive: Any) -> Any:
    """Gives a body that was read already, and then what comes after it."""
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def call() -> Any:
        return coming.pop() if coming else await receive()

    return call


async def _answer(send: Any, status: int, text: bytes) -> None:
    await send(_start(status, b"text/plain"))
    await send({"type": "http.response.body", "body": text})


def _start(status: int, kind: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
