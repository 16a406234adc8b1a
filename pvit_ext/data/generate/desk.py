"""What the workers of a run share, kept by its first process: ledger, pace, budget, and whether the run has stopped.

Workers ask for it over a connection, so that a reply is on the disk when its worker goes on, whatever machine that is
on, and limits hold for all workers together.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType
from typing import Any, NamedTuple

from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.limits import Budget, Pace
from pvit_ext.data.generate.pipeline import Answer
from pvit_ext.data.generate.reply import Usage


class Address(NamedTuple):
    """Where a desk is.

    Args:
        host: its machine.
        port: of TCP.
        key: that a worker has to know.
    """

    host: str
    port: int
    key: bytes


class Desk:
    """Serves workers while it is used as a context.

    Args:
        ledger: of all calls.
        pace: how fast.
        budget: for how much.
        host: name or address of this machine, by which workers reach it.

    Attributes:
        stopped: why the run ends before its jobs do.
    """

    def __init__(self, ledger: Ledger, pace: Pace, budget: Budget, host: str = "127.0.0.1") -> None:
        key = secrets.token_bytes(32)
        self.stopped: str | None = None
        self._listener = Listener((host, 0), backlog=64, authkey=key)
        self.address = Address(host, self._listener.address[1], key)
        self._lock, self._ended = threading.Lock(), False
        self._calls: dict[str, Callable[..., Any]] = {
            **{name: getattr(ledger, name) for name in ("lookup", "start", "finish", "fail", "drop")},
            **{name: getattr(budget, name) for name in ("reserve", "charge")},
            **{name: getattr(pace, name) for name in ("take", "paused", "pause")},
            "stop": self._stop,
            "why_stopped": lambda: self.stopped,
        }

    def __enter__(self) -> Desk:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._listener.close()

    def _stop(self, reason: str) -> None:
        self.stopped = self.stopped or reason

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection = self._listener.accept()
            except Exception:  # closed, or somebody who does not know the key
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        with connection:
            while True:
                try:
                    connection.send(self._do(*connection.recv()))
                except (EOFError, OSError):  # its worker has ended
                    return

    def _do(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        try:
            with self._lock:
                return self._calls[name](*arguments), None
        except Exception as error:  # the worker's to raise
            return None, error


class RemoteDesk:
    """A desk as a worker sees it: its ledger, pace and budget in one.

    Args:
        address: of the desk.
    """

    def __init__(self, address: Address) -> None:
        self._connection = Client((address.host, address.port), authkey=address.key)
        self.pace = RemotePace(self)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the desk by its name."""
        self._connection.send((name, arguments))
        result, error = self._connection.recv()
        if error is not None:
            raise error
        return result

    def lookup(self, key: str) -> Answer | None:
        """As the ledger's."""
        found: Answer | None = self.ask("lookup", key)
        return found

    def start(self, key: str, job: str, tokens: Usage) -> None:
        """As the ledger's."""
        self.ask("start", key, job, tokens)

    def finish(self, key: str, job: str, raw: str) -> None:
        """As the ledger's."""
        self.ask("finish", key, job, raw)

    def fail(self, key: str, job: str, failure: str) -> None:
        """As the ledger's."""
        self.ask("fail", key, job, failure)

    def drop(self, key: str, job: str) -> None:
        """As the ledger's."""
        self.ask("drop", key, job)

    def reserve(self, most: Usage) -> None:
        """As the budget's."""
        self.ask("reserve", most)

    def charge(self, most: Usage, used: Usage | None) -> None:
        """As the budget's."""
        self.ask("charge", most, used)


class RemotePace(Pace):
    """The pace of all workers, as one of them keeps to it.

    Args:
        desk: that knows it.
    """

    def __init__(self, desk: RemoteDesk) -> None:
        super().__init__(None, None)
        self._desk = desk

    def take(self, tokens: Usage) -> float:
        """The same, of all workers together."""
        return float(self._desk.ask("take", tokens))

    def paused(self) -> float:
        """The same, of all workers together."""
        return float(self._desk.ask("paused"))

    def pause(self, seconds: float) -> None:
        """The same, of all workers together."""
        self._desk.ask("pause", seconds)
