"""The process of ``pvit-ext serve``: uvicorn, which on SIGTERM takes no more questions and answers those it has."""

from __future__ import annotations

import logging
import socket
from types import FrameType
from typing import Any

import uvicorn

from pvit_ext.serving.app import Service

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """Ends in two steps: the first signal drains, the second one ends at once.

    While it drains it still answers: new questions and ``/health`` get 503, so that a balancer looks elsewhere.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end; uvicorn's own would raise it again at the end, and so exit with another status than 0."""
        if self._service.state == "draining":
            self.should_exit = self.force_exit = True
            return
        logger.warning("draining: %d requests are served, no more are taken", self._service.places.requests)
        self._service.drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("serving %s at http://%s:%d/v1", self._service.name, shown, port)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end. Uploads that have expired are forgotten, also where nobody asks."""
        if counter % 10 == 0:
            self._service.loader.uploads.forget_expired()
        drained = self._service.state == "draining" and not self._service.places.requests
        if drained:
            self._service.engine.drain()
        return drained or await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Take an address before a model is loaded for minutes; clients are refused until the server runs.

    Args:
        host, port: to listen on; port 0 takes a free one.

    Raises:
        OSError: when it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)  # asyncio sends at once only where TCP is named: else 40 ms more
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror}; take another --host or --port"
        ) from error
    return taken


def run(service: Service, listening: socket.socket, **options: Any) -> None:
    """Serve until a signal.

    Args:
        service: one model behind HTTP.
        listening: from :func:`bind`.
        options: of uvicorn.
    """
    config = uvicorn.Config(service.app(), server_header=False, timeout_keep_alive=30, lifespan="off", **options)
    DrainingServer(config, service).run([listening])
