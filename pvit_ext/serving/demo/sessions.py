"""Pages that are open: each has a secret name, and what it opened goes once it is closed."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.serving.disconnected import disconnected

PATIENCE = 60.0
"""Seconds in which a page connects, for the first time or again."""
_GLANCE = 1.0
"""Seconds between looks whether the demo ends."""


@dataclass
class _Page:
    """An open page: how many connections it has, and when it began or had its last one."""

    connections: int = 0
    last: float = field(default_factory=time.monotonic)


class Sessions:
    """The open pages of a demo; threads may share it.

    Args:
        ended: called with the name of a page that was closed.
        patience: seconds in which a page connects, for the first time or again.
    """

    def __init__(self, ended: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._ended, self._patience = ended, patience
        self._pages: dict[str, _Page] = {}
        self._watcher: threading.Thread | None = None
        self._lock, self._closing = threading.Lock(), threading.Event()

    def begin(self) -> str:
        """The name of a new page."""
        session = secrets.token_hex(16)
        with self._lock:
            self._pages[session] = _Page()
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="pages of the demo", daemon=True)
                self._watcher.start()
        return session

    def check(self, session: object) -> str:
        """The name of an open page.

        Raises:
            ValueError: for any other.
        """
        with self._lock:
            if not isinstance(session, str) or session not in self._pages:
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
        with self._lock:
            if (page := self._pages.get(session)) is None:
                return
            page.connections += 1
        ended = asyncio.ensure_future(disconnected(receive))
        try:
            while not ended.done() and not self._closing.is_set():
                await asyncio.wait([ended], timeout=_GLANCE)
        finally:
            ended.cancel()
            with self._lock:
                page.connections -= 1
                page.last = time.monotonic()

    def _watch(self) -> None:
        """Close pages whose time is over, as long as any is open."""
        wait: float | None = self._patience
        while wait is not None and not self._closing.wait(wait):
            closed, wait = self._take_closed()
            for session in closed:
                self._ended(session)

    def _take_closed(self) -> tuple[list[str], float | None]:
        """Pages whose time is over, which are not open any more, and seconds until the next look; None for no more."""
        with self._lock:
            over = time.monotonic() - self._patience
            apart = {session: page.last for session, page in self._pages.items() if not page.connections}
            closed = [session for session, last in apart.items() if last <= over]
            for session in closed:
                del self._pages[session]
            if not self._pages:
                self._watcher = None
                return closed, None
            # a page that loses its connection after this look has all its time before it
            return closed, min((last - over for last in apart.values() if last > over), default=self._patience)
