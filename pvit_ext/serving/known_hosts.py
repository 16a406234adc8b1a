"""Names that a server without a key answers to.

A page in a browser can let a name of its own lead to this machine (DNS rebinding). To the browser the server then is
the page's own, so that it may read every answer. Only the ``Host`` of its requests still tells.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.host_name import is_loopback, name_of


class KnownHosts:
    """Refuses requests to other names than this machine's own; a plain ASGI layer over every path.

    Args:
        app: that it lies on.
        names: that are answered to as well.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = name_of(host)
            if name is None or not (is_loopback(name) or name in self._names):
                error = _refused(host)
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refused(host: str) -> ApiError:
    return ApiError(
        403,
        f"Host: got {host[:80]!r}; without a key this server answers to localhost, 127.0.0.1, [::1] and the names "
        "given by --allow-host alone. To use this one, start it with --allow-host NAME, or with a key",
        "Host",
        "unknown_host",
    )
