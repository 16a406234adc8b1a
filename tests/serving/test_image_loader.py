"""Images by name and by address: nothing outside the folder and nothing outside the open internet is read."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext.regions.image import load_image
from pvit_ext.serving import fetch as fetch_module
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.fetch import fetch, is_public
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Limits, Place, Places
from tests.serving.image_file import encoded

SMALL = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))


@pytest.fixture
def place() -> Place:
    return Places(Limits()).enter(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    (made / "sub").mkdir(parents=True)
    SMALL.save(made / "sub" / "small.png")
    Image.new("1", (30, 20), 1).save(made / "mask.png")
    SMALL.save(tmp_path / "secret.png")
    return made


def refused(read: Callable[[], Any]) -> str:
    with pytest.raises(ApiError) as error:
        read()
    assert (error.value.status, error.value.param) == (400, "url")
    return error.value.message


# By name


def test_names_in_the_folder(folder: Path, place: Place) -> None:
    loader = ImageLoader(Limits(), folder)
    for _ in range(2):  # decoded, and known
        found = loader.load("sub/small.png", place, "url")
        assert np.array_equal(np.asarray(load_image(found.source)), np.asarray(SMALL))
    assert loader.mask("mask.png", place, "url").all()
    assert place.pixels == 3 * 600
    (folder / "inner.png").symlink_to(folder / "sub" / "small.png")
    assert loader.load("inner.png", place, "url").size == (30, 20)


def test_nothing_outside_the_folder(folder: Path, place: Place) -> None:
    loader = ImageLoader(Limits(body=10_000), folder)
    secret = folder.parent / "secret.png"
    (folder / "link.png").symlink_to(secret)
    (folder / "up").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.png")
    os.link(secret, folder.parent / "images-too.png")
    (folder / "folder.png").mkdir()
    for name in (
        "../secret.png", "sub/../../secret.png", str(secret), f"file://{secret}", "link.png", "up/secret.png",
        "pipe.png", "folder.png", "..\\secret.png", "sub\\..\\..\\secret.png", "%2e%2e/secret.png", "missing.png",
        "../images-too.png", "", "a\0b.png", "sub/small.png/..", "/dev/zero", "x" * 5000,
    ):  # fmt: skip
        said = refused(lambda name=name: loader.load(name, place, "url"))
        assert any(word in said for word in ("image folder", "is not taken", "is empty")), name
    (folder / "big.png").write_bytes(b"\0" * 10_001)
    assert "10,001 bytes; at most 10,000" in refused(lambda: loader.load("big.png", place, "url"))
    (folder / "text.png").write_text("no image")
    assert "no image of a known kind" in refused(lambda: loader.load("text.png", place, "url"))
    assert place.pixels == 0


def test_a_name_without_a_folder(place: Place) -> None:
    assert "is not taken; give a data: URL, such as" in refused(
        lambda: ImageLoader(Limits()).load("a.png", place, "url")
    )


def test_pixels_of_all_requests_together() -> None:
    places = Places(Limits(pixels=1000))
    held = [places.enter(1) for _ in range(8)]
    for one in held:
        one.take(1000, "url")
    with pytest.raises(ApiError, match="fill the memory") as error:
        places.enter(1).take(1, "url")
    assert error.value.status == 429
    held[0].leave()
    held[0].leave()
    assert (places.requests, places.pixels) == (8, 7000)


# By address


class Handler(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            data = b"\0" * 100_000 if self.path == "/large" else encoded(SMALL)
            self.send_response(200)
            self.send_header("X-Host", str(self.headers["Host"]))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield http.server_address[1]
    http.shutdown()
    http.server_close()
    thread.join()


def any_address(_: Any) -> bool:
    return True


def test_an_address_is_read(port: int, place: Place, monkeypatch: Any) -> None:
    data = fetch(f"http://localhost:{port}/small.png?x=1", 10_000, 10, "url", any_address)
    assert Image.open(io.BytesIO(data)).size == (30, 20)
    monkeypatch.setattr("pvit_ext.serving.image_loader.fetch", lambda *a: fetch(*a, allowed=any_address))
    loader = ImageLoader(Limits(), urls=True)
    assert loader.load(f"http://localhost:{port}/", place, "url").size == (30, 20)


def test_addresses_that_fail(port: int) -> None:
    for path, why in (
        ("away", "redirects it, which is not followed"),
        ("missing", "answered 404"),
        ("large", "more than 10,000 bytes"),
    ):
        assert why in refused(lambda path=path: fetch(f"http://localhost:{port}/{path}", 10_000, 9, "url", any_address))
    for url, why in (
        ("ftp://localhost/", "http://... or https://..."),
        ("http:///path", "http://... or https://..."),
        ("http://user:word@localhost/", "with a user"),
        ("http://localhost:99999/", "no address"),
        ("http://local host/", "printable ASCII"),
        ("http://localhost/a\r\nX: 1", "printable ASCII"),
        ("http://[::1/", "no address"),
        ("http://name.invalid/", "has no address"),
        ("http://localhost:1/", "cannot be reached"),
    ):
        assert why in refused(lambda url=url: fetch(url, 10_000, 9, "url", any_address)), url


def test_a_host_that_drips_is_hung_up_on() -> None:
    """Headers that come byte by byte end no read in vain, and would hold a decoder for hours."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            taken, _ = listening.accept()
            with taken, contextlib.suppress(OSError):
                taken.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(40):
                    taken.sendall(b"x")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        url, started = f"http://127.0.0.1:{listening.getsockname()[1]}/", time.monotonic()
        assert "takes too long" in refused(lambda: fetch(url, 10_000, 0.3, "url", any_address))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[fe80::1]",
        "[fc00::1]", "[64:ff9b::7f00:1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_private_addresses_are_not_asked(host: str, port: int) -> None:
    said = refused(lambda: fetch(f"http://{host}:{port}/", 10_000, 2, "url"))
    assert "not on the open internet" in said or "has no address" in said


def test_addresses_that_stand_for_private_ones() -> None:
    within = "fec0::1 64:ff9b::7f00:1 64:ff9b::a00:1 ::127.0.0.1 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 ::8.8.8.8"
    for text in [*within.split(), "2002:a00:1::", "2001:db8::1", "4000::1", "64:ff9b:1::7f00:1", "ff0e::1"]:
        assert not is_public(ipaddress.ip_address(text)), text


def test_public_addresses() -> None:
    for text in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"):
        assert is_public(ipaddress.ip_address(text)), text


def answering(*addresses: str) -> Callable[..., Any]:
    return lambda host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]


def test_a_name_is_resolved_once(port: int, monkeypatch: Any) -> None:
    """A name that is public when it is checked and private when it is connected to (DNS rebinding)."""
    answers = [answering("93.184.216.34"), answering("127.0.0.1")]
    asked: list[Any] = []
    monkeypatch.setattr(fetch_module.socket, "getaddrinfo", lambda *a, **k: answers.pop(0)(*a, **k))

    def connect(address: tuple[str, int], timeout: float) -> Any:
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(fetch_module.socket, "create_connection", connect)
    assert "cannot be reached" in refused(lambda: fetch(f"http://rebinding.example:{port}/", 10_000, 2, "url"))
    assert asked == [("93.184.216.34", port)]
    assert len(answers) == 1


def test_one_private_address_among_others_refuses_the_name(monkeypatch: Any) -> None:
    monkeypatch.setattr(fetch_module.socket, "getaddrinfo", answering("93.184.216.34", "10.0.0.1"))
    assert "not on the open internet" in refused(lambda: fetch("http://mixed.example/", 10_000, 2, "url"))
