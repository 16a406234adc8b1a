"""How long a page is open: as long as it is connected, and a while after that in which it may come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.sessions import Sessions
from tests.serving.demo.served import SIZE, made, sent, talk, turn

PATIENCE = 0.2


def connected(until: asyncio.Event) -> Callable[[], Awaitable[Any]]:
    """A connection that ends when something happens."""

    async def receive() -> dict[str, str]:
        await until.wait()
        return {"type": "http.disconnect"}

    return receive


async def soon(happened: Callable[[], Any]) -> None:
    """Wait for something that takes a while."""
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_patience_begins_at_the_last_loss() -> None:
    closed: list[tuple[str, float]] = []
    sessions = Sessions(lambda session: closed.append((session, time.monotonic())), PATIENCE)

    async def check() -> float:
        session, now = sessions.begin(), asyncio.Event()
        now.set()
        await sessions.stay(session, connected(now))
        await asyncio.sleep(PATIENCE / 2)
        await sessions.stay(session, connected(now))  # back for a moment
        last = time.monotonic()
        await soon(lambda: closed)
        await asyncio.sleep(PATIENCE / 2)
        with pytest.raises(ValueError, match="load it again"):
            sessions.check(session)
        await asyncio.wait_for(sessions.stay(session, connected(asyncio.Event())), 20)  # the page is closed
        return last

    last = asyncio.run(check())
    ((_, ended),) = closed
    assert ended >= last + PATIENCE * 0.95


def test_a_page_that_never_connects_is_closed_and_the_next_one_too() -> None:
    closed: list[str] = []
    sessions = Sessions(closed.append, 0.05)
    first = [sessions.begin() for _ in range(3)]
    asyncio.run(soon(lambda: len(closed) == 3))
    assert closed == first
    second = sessions.begin()
    asyncio.run(soon(lambda: len(closed) == 4))
    assert closed == [*first, second]
    assert sessions._watcher is None


def test_the_demo_ends_while_pages_are_open() -> None:
    sessions = Sessions(lambda _: None)
    sessions.begin()
    watcher = sessions._watcher
    assert watcher is not None
    sessions.close()
    watcher.join(20)
    assert not watcher.is_alive()


def test_a_picture_is_of_its_page_alone_and_goes_with_it(tmp_path: Path) -> None:
    service = made(tmp_path, Hints(), PATIENCE)

    async def check() -> None:
        first, second = (service._sessions.begin() for _ in range(2))
        leaves = asyncio.Event()
        stays = [
            asyncio.create_task(service._sessions.stay(session, connected(until)))
            for session, until in ((first, leaves), (second, asyncio.Event()))
        ]
        await asyncio.sleep(PATIENCE * 1.5)  # longer than a page without a connection is open
        image = sent(Image.new("RGB", SIZE))
        a, b = (service.open_picture(session=one, content=image, name="a.png")["picture"]["key"]
                for one in (first, second))  # fmt: skip
        assert a != b  # the same picture: what one page knows says nothing of another's
        assert "load it again" in service.open_picture(session="another", content=image, name="a.png")["error"]
        assert "load it again" in service.open_example(session="another", number=0)["error"]
        leaves.set()
        await soon(lambda: len(list((tmp_path / "kept").iterdir())) == 1)
        assert "open it again" in service.copies(request=talk(a, turn("What?")))["error"]
        assert "error" not in service.copies(request=talk(b, turn("What?")))
        assert [one.stem for one in (tmp_path / "kept").iterdir()] == [b]
        assert "load it again" in service.open_picture(session=first, content=image, name="a.png")["error"]
        stays[1].cancel()

    asyncio.run(check())
