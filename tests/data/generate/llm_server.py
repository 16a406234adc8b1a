"""A language model's endpoint on this machine: it counts what it is asked, and replies as a test says."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Reply:
    """What the server sends back.

    Args:
        text: of the message; a JSON value is written as JSON.
        status: of HTTP.
        body: in place of a chat completion.
        headers: further ones.
        fields: of the choice or its message that differ.
        wait: seconds before it is sent.
        drop: close the connection after so many bytes of the body.
    """

    def __init__(
        self,
        text: Any = "",
        status: int = 200,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        fields: dict[str, Any] | None = None,
        wait: float = 0.0,
        drop: int | None = None,
    ) -> None:
        content = text if text is None or isinstance(text, str) else json.dumps(text)
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        for key, value in (fields or {}).items():
            (choice if key in choice else message)[key] = value
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        whole = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
        self.body = json.dumps(whole).encode() if body is None else body
        self.status, self.headers, self.wait, self.drop = status, headers or {}, wait, drop


class LlmServer:
    """Serves until it is closed.

    Args:
        reply: called with the body of a request and how often it came before.

    Attributes:
        bodies: of all requests, as they came.
        answered: requests whose reply was sent, by hash.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply] | None = None) -> None:
        self.reply = reply or (lambda body, _: Reply(good_reply(body)))
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answered: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.most = self.current = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> LlmServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["content-length"]))
        key = hashlib.sha256(raw).hexdigest()
        with self.lock:
            before = self.keys.count(key)
            self.keys.append(key)
            self.bodies.append(json.loads(raw))
            self.current += 1
            self.most = max(self.most, self.current)
        try:
            reply = self.reply(json.loads(raw), before)
            time.sleep(reply.wait)
            self._send(request, reply)
            with self.lock:
                self.answered[key] += reply.status == 200 and reply.drop is None
        except OSError:  # the client has gone
            request.close_connection = True
        finally:
            with self.lock:
                self.current -= 1

    def _send(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.drop == 0:
            request.close_connection = True
            return
        request.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(reply.body)))
        request.end_headers()
        request.wfile.write(reply.body if reply.drop is None else reply.body[: reply.drop])
        request.wfile.flush()
        request.close_connection = request.close_connection or reply.drop is not None


def document_of(body: dict[str, Any]) -> dict[str, Any]:
    """The JSON document about the image in a request."""
    content = next(m["content"] for m in reversed(body["messages"]) if is_document(m))
    document: dict[str, Any] = json.loads(text_of(content))
    return document


def is_document(message: dict[str, Any]) -> bool:
    return message["role"] == "user" and text_of(message["content"]).startswith("{")


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def wanted_turns(body: dict[str, Any]) -> int:
    found = re.search(r"of (?:exactly )?(\d+|one)(?: to \d+)? turns?", body["messages"][0]["content"])
    assert found, body["messages"][0]["content"][-200:]
    return 1 if found[1] == "one" else int(found[1])


def good_reply(body: dict[str, Any]) -> dict[str, Any]:
    """A reply that can be used, made from the document."""
    document = document_of(body)
    names = document.get("ask_about") or [region["name"] for region in document["regions"]]
    if body["response_format"]["json_schema"]["name"] == "description":
        return {"description": "A calm scene.", "grounding": [{"phrase": "calm scene", "region": names[0]}]}
    written = [region["written"] for region in document["regions"] if "written" in region]
    answer = f'It says "{written[0]}".' if written else "It is a thing that stands there."
    turns = [
        {"question": f"What about {names[number % len(names)]}, number {'abcdefgh'[number]}?", "answer": answer}
        for number in range(wanted_turns(body))
    ]
    return {"turns": turns}
