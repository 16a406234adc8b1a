"""Pages that are open: each has a secret name, and what it opened goes once it is closed."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 60.0
"""Seconds in which a page that lost its connection may come back."""
_GLANCE = 1.0
"""Seconds between looks whether the demo ends."""


class Sessions:
    """The open pages of a demo; threads may share it.

    Args:
        ended: called with the name of a page that was closed.
        patience: seconds in which a page that lost its connection may come back.
    """

    def __init__(self, ended: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._ended, self._patience = ended, patience
        self._open: set[str] = set()
        self._connected: Counter[str] = Counter()
        self._lock, self._closing = threading.Lock(), threading.Event()

    def begin(self) -> str:
        """The name of a new page."""
        session = secrets.token_hex(16)
        with self._lock:
            self._open.add(session)
        return session

    def check(self, session: object) -> str:
        """The name of an open page.

        Raises:
            ValueError: for any other.
        """
        with self._lock:
            if not isinstance(session, str) or session not in self._open:
                raise ValueError("the demo does not know this page any more; load it again")
        return session

    def close(self) -> None:
        """Let go of the connections, so that the demo can end."""
        self._closing.set()

    async def stay(self, session: str, receive: Callable[[], Awaitable[Any]]) -> None:
        """Wait until a page's connection ends; the page is closed where it does not come back.

        Args:
            session: name of the page.
            receive: of the connection, in ASGI's sense.
        """
        self._connected[session] += 1
        ended = asyncio.ensure_future(_disconnected(receive))
        try:
            while not ended.done() and not self._closing.is_set():
                await asyncio.wait([ended], timeout=_GLANCE)
        finally:
            ended.cancel()
            self._connected[session] -= 1
        end = asyncio.get_running_loop().time() + self._patience
        while not self._connected[session] and not self._closing.is_set():
            if (rest := end - asyncio.get_running_loop().time()) <= 0:
                return self._end(session)
            await asyncio.sleep(min(rest, _GLANCE))

    def _end(self, session: str) -> None:
        with self._lock:
            self._open.discard(session)
        del self._connected[session]
        self._ended(session)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
