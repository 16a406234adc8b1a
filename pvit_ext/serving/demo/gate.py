"""What passes between a browser and Gradio: the page and its calls, nothing that leaves or reads files."""

from __future__ import annotations

from typing import Any

from pvit_ext.serving.demo.sessions import Sessions

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
    "",
    "assets",
    "static",
    "svelte",
    "config",
    "theme.css",
    "favicon.ico",
    "manifest.json",
    "pwa_icon",
}
_OPEN_CALLS = {"component_server", "call", "queue", "heartbeat", "startup-events", "info", "theme.css", "app_id"}
"""Parts of addresses that the page needs. Gradio has more, by which files are left, read, and fetched from others."""


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
        if not _is_open(path):
            return await _answer(with_policy, 404, b"not found")
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


def _is_open(path: str) -> bool:
    first, *rest = path.removeprefix("/").split("/")
    return rest[0] in _OPEN_CALLS if first == _API and rest else first in _OPEN


async def _answer(send: Any, status: int, text: bytes) -> None:
    await send(_start(status, b"text/plain"))
    await send({"type": "http.response.body", "body": text})


def _start(status: int, kind: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
