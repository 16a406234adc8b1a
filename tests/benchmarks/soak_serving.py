"""Thousands of requests with aborts, bad bodies and restarts: nothing hangs, memory is bounded, answers are their own.

Run ``python -m tests.benchmarks.soak_serving`` from the repository's root; it ends with status 1 and what it found.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_serving import questions, tiny
from tests.serving.load import HEADERS, post, sent
from tests.serving.process import process

WAIT = 120
"""Seconds after which a request counts as hung."""
BOUNDARY = "between-two-fields"
GROWTH = 200
"""MiB by which a server may grow behind its first tenth."""
KINDS = {
    **{"whole": 40, "stream": 13, "choices": 5, "upload": 7},
    **{"abort": 10, "abort stream": 10, "bad": 12, "half a body": 3},
}


@dataclass
class Soak:
    """One life of a server.

    Args:
        port: of it.
        bodies: of the questions.
        answers: that each has.
        requests: of this life.
        random: of the kinds.
    """

    port: int
    bodies: list[bytes]
    answers: dict[int, str]
    requests: int
    random: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count()

    def client(self) -> None:
        """Ask until the requests of this life are spent."""
        while (next(self._numbers)) < self.requests:
            kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
            try:
                self.request(kind, self.random.randrange(len(self.bodies)))
            except TimeoutError:
                self.problems.append(f"{kind}: hung for {WAIT} s")
            except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
                self.problems.append(f"{kind}: {type(error).__name__} {error}"[:300])

    def request(self, kind: str, number: int) -> None:
        """One of a kind; assertions say what is wrong."""
        if kind.startswith(("abort", "half")):
            self.leave(kind, self.bodies[number])
        elif kind == "bad":
            self.bad(self.bodies[number])
        else:
            ask = {"stream": self.streamed, "choices": self.choices, "upload": self.uploaded}.get(kind, self.whole)
            text = ask(number)
            assert text == self.answers[number], f"question {number} got {text!r}, not {self.answers[number]!r}"
        self.seen[kind] += 1

    def whole(self, number: int) -> str:
        """The text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        found: str = post(connection, self.bodies[number])["choices"][0]["message"]["content"]
        connection.close()
        return found

    def choices(self, number: int) -> str:
        """The text that three choices without temperature have."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        found = post(connection, json.dumps(json.loads(self.bodies[number]) | {"n": 3}).encode())["choices"]
        connection.close()
        texts = {one["message"]["content"] for one in found}
        assert len(found) == 3, f"{len(found)} choices, not 3"
        assert len(texts) == 1, f"different choices: {texts}"
        return str(texts.pop())

    def uploaded(self, number: int) -> str:
        """The text of an answer about an image that was uploaded for it."""
        body = json.loads(self.bodies[number])
        part = next(one for one in body["messages"][0]["content"] if one["type"] == "image_url")
        data = base64.b64decode(part.pop("image_url")["url"].partition(",")[2])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        made = sent(connection, "POST", "/v1/files", form(data), f"multipart/form-data; boundary={BOUNDARY}")
        part |= {"type": "file", "file": {"file_id": made["id"]}}
        found: str = post(connection, json.dumps(body).encode())["choices"][0]["message"]["content"]
        assert sent(connection, "DELETE", f"/v1/files/{made['id']}")["deleted"]
        connection.close()
        return found

    def streamed(self, number: int) -> str:
        """The same, joined from its pieces."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        connection.request("POST", "/v1/chat/completions", streaming(self.bodies[number]), HEADERS)
        events = connection.getresponse().read().decode().split("\n\n")
        connection.close()
        assert events[-2:] == ["data: [DONE]", ""], f"a stream ended with {events[-3:]}"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    def leave(self, kind: str, body: bytes) -> None:
        """Hang up after a while: while the body is sent, before the answer, or within a stream."""
        if self.random.random() < 0.3:
            body = json.dumps(json.loads(body) | {"n": 3, "temperature": 1.0}).encode()
        body = streaming(body) if kind == "abort stream" else body
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", self.port), WAIT) as raw:
            half = len(body) // 2 if kind == "half a body" else len(body)
            raw.sendall((head + "Content-Type: application/json\r\n\r\n").encode() + body[:half])
            if kind == "abort stream":
                raw.recv(self.random.randrange(1, 600))
            time.sleep(self.random.random() * 0.05)

    def bad(self, body: bytes) -> None:
        """A body that no question is in; answered with a status of 4xx."""
        value = json.loads(body)
        url = value["messages"][0]["content"][0]["image_url"]
        wrong: list[Any] = [
            body[: self.random.randrange(len(body))],
            self.random.randbytes(self.random.randrange(2000)),
            value | {"regions": [[500, 500, 600, 600]]},
            value | {"regions": value["regions"] * 2},
            value | {"regions": [{"mask": {"size": [50_000, 50_000], "counts": [0, 2_500_000_000]}}]},
            value | {"max_tokens": -1},
            value | {"tools": []},
            value | {"model": "other"},
            value | {"n": 99},
            value | {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-0"}}]}]},
            value | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": cut(url)}]}]},
            value | {"messages": "where " * 3000},
            value | {"messages": [{"role": "user", "content": "where " * 5000}], "regions": []},
        ]
        sent = self.random.choice(wrong)
        raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        connection.request("POST", "/v1/chat/completions", raw, HEADERS)
        response = connection.getresponse()
        said = json.loads(response.read())
        connection.close()
        assert 400 <= response.status < 500, f"{response.status} for {raw[:200]!r}: {said}"
        assert said["error"]["message"]


def form(data: bytes) -> bytes:
    """The body of an upload."""
    head = 'Content-Disposition: form-data; name="{}"\r\n\r\n'
    fields = [head.format("purpose").encode() + b"vision", head.format('file"; filename="a.png').encode() + data]
    return b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + one + b"\r\n" for one in fields) + f"--{BOUNDARY}--".encode()


def streaming(body: bytes) -> bytes:
    """The body, for a stream."""
    return json.dumps(json.loads(body) | {"stream": True}).encode()


def cut(url: dict[str, str]) -> dict[str, str]:
    """An image that breaks off."""
    return {"url": url["url"][: len(url["url"]) // 2 // 4 * 4]}


def memory(process_id: int) -> int:
    """MiB that a process holds."""
    line = next(text for text in Path(f"/proc/{process_id}/status").read_text().splitlines() if "VmRSS" in text)
    return int(line.split()[1]) // 1024


def life(running: subprocess.Popen[str], soak: Soak, clients: int) -> None:
    """One server from its first request to its end by a signal while clients still ask."""
    with ThreadPoolExecutor(clients) as pool:
        tasks = [pool.submit(soak.client) for _ in range(clients)]
        early = 0
        while not all(task.done() for task in tasks):
            time.sleep(0.2)
            if not early and soak.seen.total() > soak.requests / 10:
                early = memory(running.pid)
    late = memory(running.pid)
    print(f"{dict(soak.seen)} {early} MiB, then {late} MiB", flush=True)
    if late > early + GROWTH:
        soak.problems.append(f"memory grew from {early} to {late} MiB")
    idle(soak)
    last = Soak(soak.port, soak.bodies, soak.answers, 1, soak.random)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(last.request, "whole", 0)
        while not asked.done() and not gauge(soak.port, "requests_held"):
            time.sleep(0.001)
        running.send_signal(signal.SIGTERM)
        if (error := asked.exception(WAIT)) is not None:
            soak.problems.append(f"at the signal: {error}")
    if (status := running.wait(WAIT)) != 0:
        soak.problems.append(f"the server ended with status {status}")


def gauge(port: int, name: str) -> float:
    """A value of ``/metrics``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return float(next(line.split()[1] for line in lines if line.startswith(f"pvit_ext_{name} ")))


def idle(soak: Soak) -> None:
    """Every place is given back soon after the last client has ended."""
    until = time.monotonic() + 30
    while held := {name: gauge(soak.port, name) for name in ("waiting", "running", "requests_held", "upload_bytes")}:
        if not any(held.values()):
            return
        if time.monotonic() > until:
            soak.problems.append(f"places are not given back: {held}")
            return
        time.sleep(0.1)


def main() -> int:
    """Run all lives; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="checkpoint, default a tiny one")
    parser.add_argument("--requests", type=int, default=10_000, help="of all lives, default %(default)s")
    parser.add_argument("--lives", type=int, default=4, help="of the server, default %(default)s")
    parser.add_argument("--clients", type=int, default=24, help="at once, default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bodies, answers, problems = questions(16), dict[int, str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or tiny(Path(folder))
        for number in range(args.lives):
            with process(model, "--served-name", "model") as (running, address):
                port = int(address.rpartition(":")[2])
                soak = Soak(port, bodies, answers, args.requests // args.lives, random.Random(args.seed + number))
                for question in range(len(bodies) if not answers else 0):
                    answers[question] = soak.whole(question)  # each alone, by the first life
                life(running, soak, args.clients)
                problems += soak.problems
    for problem in problems[:50]:
        print(problem)
    print(f"{len(problems)} problems in {args.requests} requests, {len(set(answers.values()))} different answers")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
