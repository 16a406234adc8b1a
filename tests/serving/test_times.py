"""What takes long holds nobody else, and no longer than a request may: decoding, and images from elsewhere."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving import app as app_module
from pvit_ext.serving import image_loader
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.limits import Limits, Places
from tests.serving.served import BOX, FINE, QUESTION, Served, data_url, image_part, masked, message, serving
from tests.serving.soon import soon


def about(image: Any) -> dict[str, Any]:
    return FINE | {"messages": [message(image_part(image), QUESTION)], "max_tokens": 1}


def new_image(seed: int) -> Image.Image:
    """One that no test has sent before."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_decoding_counts_in_the_time_of_a_request(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    go, decode = threading.Event(), image_loader.load_image
    with serving(loaded, Limits(seconds=0.3)) as served:
        monkeypatch.setattr(image_loader, "load_image", lambda source: (go.wait(20), decode(source))[1])
        begun = time.monotonic()
        status, found, _ = served.ask(about(new_image(1)))
        assert (status, found["error"]["code"], found["error"]["param"]) == (408, "timeout", "messages")
        assert time.monotonic() - begun < 5
        assert served.service.places.requests == 1  # its thread still works, and holds its pixels
        go.set()
        assert served.idle()


def test_a_client_that_ends_while_its_image_is_decoded(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    go, decoded, decode = threading.Event(), list[int](), image_loader.load_image

    def slow(source: Any) -> Any:
        decoded.append(1)
        go.wait(20)
        return decode(source)

    with serving(loaded) as served:
        monkeypatch.setattr(image_loader, "load_image", slow)
        two = FINE | {"messages": [message(image_part(new_image(2)), image_part(new_image(3)), QUESTION)]}
        connection = served.connection()
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(two).encode(), {"Content-Type": "application/json"}
        )
        soon(lambda: decoded)
        connection.close()
        soon(lambda: not served.service.places.requests or _given_up(served))
        go.set()
        assert served.idle()
    assert decoded == [1]  # not the second one


def test_an_answer_that_was_handed_in_too_late_is_cancelled(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time may end between the question's last check and its answer's first wait."""
    go, generate = threading.Event(), loaded.model.generate

    async def over(request: Any, coming: Any, *_: Any) -> None:
        await coming
        raise ApiError(408, "late")

    with serving(loaded) as served:
        monkeypatch.setattr(loaded.model, "generate", lambda **k: (go.wait(20), generate(**k))[1])
        monkeypatch.setattr(app_module, "_unless_over", over)
        assert served.ask(FINE)[0] == 408
        engine = served.service.engine
        assert soon(lambda: (engine.running, engine.waiting) == (0, 0), 10)  # while the model still works
        go.set()
        assert served.idle()


def _given_up(served: Served) -> bool:
    return "499" in served.get("/metrics")[1].decode()


def test_slow_addresses_hold_no_decoder(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    go, fetching, statuses = threading.Event(), threading.Semaphore(0), list[int]()

    def fetch(*_: Any) -> bytes:
        fetching.release()
        go.wait(60)
        raise ApiError(400, "the file takes too long to come", "url")

    monkeypatch.setattr(image_loader, "fetch", fetch)
    with serving(loaded, urls=True) as served:
        slow = about("https://example.org/slow.png")
        clients = [threading.Thread(target=lambda: statuses.append(served.ask(slow)[0])) for _ in range(6)]
        for client in clients:
            client.start()
        assert all(fetching.acquire(timeout=10) for _ in clients)
        assert served.ask(about(new_image(4)))[0] == 200
        go.set()
        for client in clients:
            client.join(20)
        assert served.idle()
    assert statuses == [400] * 6


def test_an_address_has_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(image_loader, "fetch", lambda *a: given.append(a[2]) or b"")
    place = Places(Limits(seconds=5)).enter(1)
    with pytest.raises(ApiError, match="no image"), place.decoding("url"):
        image_loader.ImageLoader(Limits(), urls=True).load("https://example.org/a.png", place, "url")
    assert 4 < given[0] < 5
    place.give_up()
    with pytest.raises(ApiError) as error:
        place.take(1, "url")
    assert error.value.status == 408


def test_few_decode_at_once_and_all_are_free_again() -> None:
    places = Places(Limits(seconds=0.05))
    held = [places.enter(1) for _ in range(4)]
    contexts = [one.decoding("url") for one in held]
    for context in contexts:
        context.__enter__()
    with pytest.raises(ApiError) as error, places.enter(1).decoding("url"):
        pass
    assert error.value.status == 408
    for one, context in zip(held, contexts, strict=True):
        with pytest.raises(ApiError), one.fetching("url"):  # comes back too late
            time.sleep(0.06)
        context.__exit__(None, None, None)
    assert all(places.decoders.acquire(blocking=False) for _ in range(4))
    assert not places.decoders.acquire(blocking=False)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each file that Pillow decodes."""
    found, prepare = list[int](), ImageFile.ImageFile.load_prepare

    def counting(self: Any) -> Any:
        found.append(1)
        return prepare(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", counting)
    return found


@pytest.mark.parametrize("has_mask", [False, True])
def test_an_image_is_decoded_once_for_a_question(loaded: Loaded, decoded: list[int], has_mask: bool) -> None:
    image = new_image(5 + has_mask)
    body = about(data_url(masked(image) if has_mask else image)) | {"regions": [] if has_mask else [BOX]}
    decoded.clear()
    with serving(loaded) as served:
        for asked in 1, 2:
            assert served.ask(body)[0] == 200
            assert len(decoded) == asked


def test_an_image_of_too_many_pixels_is_not_decoded(loaded: Loaded, decoded: list[int]) -> None:
    body = about(data_url(new_image(7)))
    decoded.clear()
    with serving(loaded, Limits(pixels=5399)) as served:
        status, found, _ = served.ask(body)
    assert (status, found["error"]["code"]) == (400, "too_many_pixels")
    assert not decoded


class Body(bytes):
    """A body that says when nobody holds it any more."""

    freed = 0

    def __del__(self) -> None:
        Body.freed += 1


def test_a_body_is_not_held_while_its_answer_is_made(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, requests = app_module.read_body, app_module.read_request
    held: list[Any] = []
    found: list[tuple[int, object]] = []

    async def read(*given: Any) -> bytes:
        return Body(await reading(*given))

    def request_of(body: bytes) -> Any:
        asked = requests(body)
        held.append(weakref.ref(asked))
        return asked

    def slow(*given: Any) -> Any:
        (answer,) = submit(*given)
        wait = answer.wait

        async def waiting() -> Any:
            await asyncio.sleep(0.1)
            found.append((Body.freed, held[-1]()))
            return await wait()

        monkeypatch.setattr(answer, "wait", waiting)
        return [answer]

    monkeypatch.setattr(Body, "freed", 0)
    monkeypatch.setattr(app_module, "read_body", read)
    monkeypatch.setattr(app_module, "read_request", request_of)
    with serving(loaded) as served:
        submit = served.service.engine.submit_choices
        monkeypatch.setattr(served.service.engine, "submit_choices", slow)
        assert served.ask(FINE | {"max_tokens": 2})[0] == 200
    assert found == [(1, None)]
