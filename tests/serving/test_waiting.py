"""What comes shortly after one another becomes one batch, and answers leave at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any, cast

import pytest

from pvit_ext.serving.waiting import WINDOWS, QueueFull, Waiting


class Taker:
    """Takes one batch in a thread of its own."""

    def __init__(self, waiting: Waiting) -> None:
        self.taken: list[Any] = []
        self._thread = threading.Thread(target=lambda: self.taken.extend(waiting.take()))
        self._thread.start()

    def result(self) -> list[Any]:
        self._thread.join(30)
        return self.taken


def put(waiting: Waiting, *answers: str) -> None:
    for answer in answers:
        waiting.put([cast(Any, answer)], 0)


def test_one_more_within_a_window_of_the_last_joins_the_batch() -> None:
    waiting = Waiting(8, 8, window=0.4)
    taker = Taker(waiting)
    put(waiting, "first")
    time.sleep(0.25)
    put(waiting, "second")
    time.sleep(0.25)  # beyond the first one's window
    put(waiting, "third")
    assert taker.result() == ["first", "second", "third"]


def test_a_full_batch_does_not_wait() -> None:
    waiting = Waiting(8, 2, window=3600)
    put(waiting, "first", "second", "third")
    assert Taker(waiting).result() == ["first", "second"]
    assert len(waiting) == 1


def test_the_choices_of_a_question_wait_together_or_not_at_all() -> None:
    waiting = Waiting(3, 8, window=0)
    put(waiting, "first")
    with pytest.raises(QueueFull, match="1 questions are waiting"):
        waiting.put([cast(Any, name) for name in "abc"], 5)
    assert len(waiting) == 1
    waiting.put([cast(Any, name) for name in "ab"], 5)
    assert Taker(waiting).result() == ["first", "a", "b"]


def test_nobody_waits_for_more_than_a_few_windows() -> None:
    waiting = Waiting(1000, 1000, window=0.05)
    taker = Taker(waiting)
    begun = time.monotonic()
    while not taker.taken and time.monotonic() - begun < 30:
        put(waiting, "another")
        time.sleep(0.01)
    taker.result()
    assert 0 < len(taker.taken) < 1000
    assert WINDOWS > 1


def test_the_rest_of_an_answer_does_not_wait_for_the_clients_receipt() -> None:
    pytest.importorskip("uvicorn")
    from pvit_ext.serving.server import bind

    async def delays() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_: Any, writer: asyncio.StreamWriter) -> None:
            accepting = writer.get_extra_info("socket")
            found.set_result(accepting.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = bind("127.0.0.1", 0)
        async with await asyncio.start_server(accepted, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await asyncio.wait_for(found, 30)

    assert asyncio.run(delays()) == 1
