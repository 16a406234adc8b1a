"""Many clients at once, as threads with a connection each."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

HEADERS = {"Content-Type": "application/json"}


@dataclass
class Load:
    """What came of a number of requests.

    Args:
        seconds: for all of them.
        latencies: seconds of each.
        texts: answers by the number of their body.
    """

    seconds: float
    latencies: list[float]
    texts: dict[int, set[str]]


def run(port: int, bodies: list[bytes], clients: int, requests: int) -> Load:
    """Ask in turn the bodies' questions, each client the next one when it has its answer."""
    numbers, latencies, texts = count(), list[float](), dict[int, set[str]]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while (number := next(numbers)) < requests:
            begun = time.perf_counter()
            found = post(connection, bodies[number % len(bodies)])
            latencies.append(time.perf_counter() - begun)
            texts.setdefault(number % len(bodies), set()).add(found["choices"][0]["message"]["content"])
        connection.close()

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client) for _ in range(clients)]:
            one.result()
    return Load(time.perf_counter() - begun, latencies, texts)


def post(connection: http.client.HTTPConnection, body: bytes) -> dict[str, Any]:
    """The answer to one body."""
    return sent(connection, "POST", "/v1/chat/completions", body, HEADERS["Content-Type"])


def sent(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", kind: str = "text/plain"
) -> dict[str, Any]:
    """The answer to any request."""
    connection.request(method, path, body, {"Content-Type": kind})
    response = connection.getresponse()
    found: dict[str, Any] = json.loads(response.read())
    assert response.status == 200, found
    return found
