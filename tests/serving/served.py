"""A server in a thread of the test, and requests to it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from PIL import Image

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.app import Service
from pvit_ext.serving.engine import Batching, Engine
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Limits
from pvit_ext.serving.metrics import Metrics
from pvit_ext.serving.server import DrainingServer
from pvit_ext.serving.uploads import Uploads
from tests.hosts.tiny_hosts import WIDE
from tests.serving.image_file import encoded
from tests.serving.soon import soon

QUESTION = "what is in <region> ?"
BOX = [10, 20, 40, 50]


class Served(NamedTuple):
    """A running server."""

    service: Service
    port: int

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON and headers of the answer to a body: JSON, or the bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connection()
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        connection.request("POST", "/v1/chat/completions", raw, given)
        response = connection.getresponse()
        found = json.loads(response.read())
        connection.close()
        return response.status, found, dict(response.headers)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = self.connection()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        found = response.read()
        connection.close()
        return response.status, found

    def idle(self) -> bool:
        """Whether every place is free again, within a few seconds."""
        engine, places = self.service.engine, self.service.places
        return soon(lambda: not (places.requests or engine.waiting or engine.running)) and places.pixels == 0


@contextmanager
def serving(
    loaded: Loaded,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    folder: Path | None = None,
    key: str | None = None,
    batching: Batching = Batching(),  # noqa: B008 - a NamedTuple does not change
    uploads: Uploads | None = None,
    urls: bool = False,
) -> Iterator[Served]:
    """A server of a model, drained at the end."""
    metrics = Metrics()
    engine = Engine(loaded, batching, observer=metrics)
    loader = ImageLoader(limits, folder, urls, uploads=uploads or Uploads())
    service = Service(engine, "tiny", loader, metrics, key)
    config = uvicorn.Config(service.app(), port=0, log_level="error", lifespan="off")
    server = DrainingServer(config, service)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(service, server.servers[0].sockets[0].getsockname()[1])
    finally:
        engine.close()
        thread.join(30)
        assert not thread.is_alive()


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded(image, kind)).decode()}"


def image_part(image: Image.Image | str = WIDE) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else data_url(image)}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [text_part(part) if isinstance(part, str) else part for part in parts]}


FINE: dict[str, Any] = {
    "model": "tiny",
    "messages": [message(image_part(), QUESTION)],
    "regions": [BOX],
    "max_tokens": 5,
}


def mask_of(image: Image.Image) -> np.ndarray[Any, Any]:
    """A mask, bool (H, W)."""
    mask = np.zeros(image.size[::-1], dtype=bool)
    mask[20:50, 10:40] = True
    return mask


def masked(image: Image.Image = WIDE) -> Image.Image:
    """An image whose alpha channel is that mask."""
    found = image.convert("RGBA")
    found.putalpha(Image.fromarray(mask_of(image)))
    return found
