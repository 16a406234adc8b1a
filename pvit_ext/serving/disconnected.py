"""The end of a client's connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


async def disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when the client has ended; for a request whose body was read, or that has none.

    Args:
        receive: of the connection, in ASGI's sense.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
