"""What is wrong with a request is said with the field's name; what a request holds is given back."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.chat_request import read_request
from pvit_ext.serving.engine import Batching
from pvit_ext.serving.limits import Limits
from tests.hosts.tiny_hosts import TALL, WIDE
from tests.serving.served import BOX, FINE, QUESTION, Served, data_url, image_part, masked, message, serving
from tests.serving.soon import soon

LIMITS = Limits(body=100_000, pixels=20_000, images=2, regions=3, points=10, tokens=1000, seconds=20, requests=4)


@pytest.fixture(scope="module")
def served(loaded: Loaded) -> Iterator[Served]:
    with serving(loaded, LIMITS, key="secret", batching=Batching(most=2, places=2, window=0)) as found:
        yield found


def ask(served: Served, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, found, given = served.ask(body, **{"Authorization": "Bearer secret", **headers})
    return status, found.get("error", found), given


def soft() -> Image.Image:
    image = WIDE.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(WIDE.size))
    return image


def with_image(image: Any) -> dict[str, Any]:
    return FINE | {"messages": [message(image_part(image), QUESTION)]}


URL = "messages[0].content[0].image_url.url"
WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    (FINE | {"tools": []}, "tools", "no such field"),
    (FINE | {"n": 0}, "n", "greater than or equal to 1"),
    (FINE | {"n": 9}, "n", "9 is more than the 8 answers"),
    (FINE | {"n": 2.5}, "n", "valid integer"),
    (FINE | {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (FINE | {"max_tokens": 1001}, "max_tokens", "1001 is more than the 1000"),
    (FINE | {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "give one of them"),
    (FINE | {"temperature": "0.5"}, "temperature", "valid number"),
    (FINE | {"temperature": 3}, "temperature", "less than or equal to 2"),
    (FINE | {"top_p": 0.5}, "top_p", "give temperature too"),
    (FINE | {"stop": ["a"] * 5}, "stop", "at most 4"),
    (FINE | {"stop": [""]}, "stop[0]", "at least 1"),
    (FINE | {"stream_options": {"include_usage": True}}, "stream_options", "for streams"),
    (FINE | {"regions": [BOX, BOX]}, "regions[1]", "no <region> of the messages is left"),
    (FINE | {"regions": []}, "messages", "1 <region> placeholder"),
    (FINE | {"messages": [message(image_part(), "what is <region1> ?")], "regions": []}, "messages", "'<region1>' in"),
    (FINE | {"messages": [message(image_part(), "<region> <bbox> ?")]}, "messages", "'<bbox>' in its question is text"),
    (FINE | {"messages": [message(image_part(), "<region1> ?")]}, "regions[0]", "'<region1>' is text that no encoder"),
    (FINE | {"regions": [{"circle": [1, 2, 3]}]}, "regions[0]", "with one of box, point"),
    (FINE | {"regions": [[200, 200, 300, 300]]}, "regions[0]", "lies outside its image"),
    (
        FINE | {"regions": [[0.1, 0.2, 0.5, 0.8]]},
        "regions[0]",
        'for fractions 0..1 say {"box": [...], "normalized": true}',
    ),
    (FINE | {"regions": [[0, 0, 1, 1]]}, "regions[0]", 'for fractions 0..1 say {"box": [...], "normalized": true}'),
    (FINE | {"regions": [{"point": [0.5, 0.8]}]}, "regions[0]", 'say {"point": [...], "normalized": true}'),
    (FINE | {"regions": [{"box": BOX, "image": 1}]}, "regions[0]", "lies on image 1; the request has 1"),
    (FINE | {"regions": [{"polygon": [[1, 2]] * 11}]}, "regions[0]", "may have 10 points"),
    (FINE | {"regions": [{"mask": {"size": [9, 9], "counts": [9, 72]}}]}, "regions[0]", "another size than its image"),
    (FINE | {"regions": [{"mask": {"size": [9000, 9000], "counts": [9, 80999991]}}]}, "regions[0]", "another size"),
    (FINE | {"regions": [{"mask": "mask.png"}]}, "regions[0]", "'mask.png' is not taken"),
    (FINE | {"regions": [{"mask": data_url(TALL)}]}, "regions[0]", "channels"),
    (FINE | {"messages": []}, "messages", "at least 1"),
    (FINE | {"messages": [message("?", role="robot")]}, "messages[0].role", "'user'"),
    (FINE | {"messages": [message("?", role="assistant")]}, "messages[0].role", "take turns"),
    (FINE | {"messages": [message("?"), message("?", role="assistant")]}, "messages", "the user's question"),
    (FINE | {"messages": [message(image_part(), "  ")]}, "messages[0].content", "no text"),
    (FINE | {"messages": [message({"type": "video_url"})]}, "messages[0].content[0]", "'image_url'"),
    (FINE | {"messages": [message({"type": "text", "words": 1})]}, "messages[0].content[0].text", "missing"),
    (FINE | {"messages": [message(*[image_part()] * 3)]}, "messages[0].content[2].image_url.url", "2 images"),
    (
        FINE | {"messages": [message("<region>", "<region> " * 3)], "regions": [BOX] * 4},
        "messages[0].content[1]",
        "more than 3 regions",
    ),
    (FINE | {"messages": [message(image_part(), QUESTION + "</Region>")]}, "messages[0].content[1]", "without its"),
    (FINE | {"messages": [message(image_part(), QUESTION, "where " * 3000)]}, "messages", "positions"),
    (with_image("https://example.org/cat.png"), URL, "--allow-url"),
    (with_image("file:///etc/passwd"), URL, "is not taken"),
    (with_image("/etc/passwd"), URL, "is not taken"),
    (with_image("data:text/html;base64,aGk="), URL, "no data: URL of an image"),
    (with_image("data:image/png;base64,a"), URL, "base64 is damaged"),
    (with_image("data:image/png;base64,aGFsbG8="), URL, "5 bytes are no image"),
    (with_image("data:image/png;base64,JSFQUy1BZG9iZS0zLjAgRVBTRi0zLjA="), URL, "no image of a known kind"),
    (with_image(data_url(WIDE)[:-4000]), URL, f"{URL}: the image cannot be read: image file is truncated"),
    (with_image(Image.new("RGB", (200, 101))), URL, "20,200 pixels; at most 20,000"),
    (with_image(soft()), URL, "soft values"),
    (with_image(masked()), "regions[0]", "not both"),
]


@pytest.mark.parametrize(("body", "param", "why"), WRONG)
def test_the_field_is_named(served: Served, body: dict[str, Any], param: str, why: str) -> None:
    status, error, _ = ask(served, body)
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert why in error["message"]
    assert served.service.places.requests == served.service.places.pixels == 0


@pytest.mark.parametrize(
    ("body", "why"), [(b"{", "no JSON"), (b"\xff", "no JSON"), (b"[1]", "a JSON object"), (b'{"a": NaN}', "no JSON")]
)
def test_a_body_that_is_no_request(served: Served, body: bytes, why: str) -> None:
    status, error, _ = ask(served, body)
    assert (status, error["code"]) == (400, "invalid_json")
    assert why in error["message"]


@pytest.mark.parametrize(
    ("body", "twice"),
    [
        (b'{"model": "tiny", "max_tokens": 1, "messages": [], "max_tokens": 9}', "max_tokens"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "a", "content": null}]}', "content"),
        (b'{"model": "tiny", "regions": [{"box": [1, 2, 3, 4], "box": [1, 2, 3, 4]}]}', "box"),
    ],
)
def test_a_key_is_given_once(body: bytes, twice: str) -> None:
    with pytest.raises(ApiError, match=f"^{twice}: it is there twice in one object; give it once") as error:
        read_request(body)
    assert (error.value.status, error.value.param) == (400, twice)


def test_the_clients_name_of_its_user_changes_nothing() -> None:
    """OpenAI's clients send it."""
    asked = [read_request(json.dumps(FINE | more).encode()) for more in ({}, {"user": "u-17"})]
    assert asked[0].settings(LIMITS) == asked[1].settings(LIMITS)


def test_key_and_content_type(served: Served) -> None:
    for wrong in ("Bearer other", "secret", "Bearer secretsecret", "Basic secret", "Bearer \xe9"):
        status, error, _ = ask(served, FINE, Authorization=wrong)
        assert (status, error["code"], error["param"]) == (401, "invalid_api_key", "Authorization")
    assert served.get("/v1/models")[0] == 401
    assert served.get("/v1/models", Authorization="Bearer secret")[0] == 200
    assert served.get("/health") == (200, b'{"status":"ok"}')
    assert ask(served, FINE, Content_Type="text/plain")[:2][0] == 415  # what a page in a browser may send unasked
    status, found = served.get("/v1/nothing")
    assert (status, json.loads(found)["error"]["type"]) == (404, "not_found_error")


def test_a_body_is_counted_while_it_comes(served: Served) -> None:
    large = FINE | {"user": "x" * LIMITS.body}
    status, error, headers = ask(served, large)
    assert (status, error["param"], headers["connection"]) == (413, "body", "close")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(head)
        for _ in range(3):  # never ends
            raw.sendall(b"c350\r\n" + b" " * 50_000 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    assert served.idle()


def sent(served: Served, body: dict[str, Any], whole: bool = True) -> socket.socket:
    """A connection that has sent a question, or half of it."""
    raw = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", served.port), 20)
    connection.sendall(head.encode() + (raw if whole else raw[: len(raw) // 2]))
    return connection


def holds(served: Served, requests: int) -> bool:
    """Whether so many requests are held soon."""
    return soon(lambda: served.service.places.requests == requests)


def test_places_run_out_and_a_client_that_ends_frees_its_own(served: Served, monkeypatch: Any) -> None:
    engine, go = served.service.engine, threading.Event()
    model = engine.model
    generate = model.generate
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", lambda **k: go.wait(30) and generate(**k))
        clients = [sent(served, FINE), sent(served, FINE | {"stream": True}), sent(served, FINE, whole=False)]
        assert holds(served, 3)
        # while both wait for the model, another would find no place to wait
        assert soon(lambda: engine.running > 0 and engine.running + engine.waiting == 2)
        clients.append(sent(served, FINE))
        assert holds(served, 4)
        status, error, headers = ask(served, FINE)
        assert (status, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(headers["retry-after"]) >= 1
        for number, one in enumerate(clients):
            one.close()
            assert holds(served, 3 - number)  # while the model still works
        go.set()
        assert served.idle()
    assert ask(served, FINE)[0] == 200


def test_choices_count_as_questions(served: Served, monkeypatch: Any) -> None:
    hot = FINE | {"temperature": 1.5}
    status, error, _ = ask(served, hot | {"n": 3})  # more than may wait, 2
    assert (status, error["code"]) == (429, "queue_full")
    assert ask(served, FINE | {"n": 3})[0] == 200  # one answer, three times
    model, go = served.service.engine.model, threading.Event()
    generate = model.generate
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", lambda **k: go.wait(30) and generate(**k))
        clients = [sent(served, FINE)]
        assert soon(lambda: served.service.engine.running == 1)
        clients.append(sent(served, hot | {"n": 2}))
        assert soon(lambda: served.service.engine.waiting == 2)
        assert ask(served, FINE)[0] == 429
        clients[1].close()
        assert soon(lambda: served.service.engine.waiting == 0)
        clients[0].close()
        go.set()
        assert served.idle()


def test_a_client_that_leaves_a_stream_ends_its_answer(served: Served) -> None:
    one = sent(served, FINE | {"stream": True, "max_tokens": 1000})
    assert one.recv(50).startswith(b"HTTP/1.1 200")
    one.close()
    assert served.idle()


def test_an_answer_has_its_time(loaded: Loaded, monkeypatch: Any) -> None:
    with serving(loaded, Limits(seconds=0.3, tokens=1000)) as served:
        generate = loaded.model.generate
        monkeypatch.setattr(loaded.model, "generate", lambda **k: time.sleep(0.6) or generate(**k))
        status, found, _ = served.ask(FINE)
        assert (status, found["error"]["code"], found["error"]["param"]) == (408, "timeout", "max_tokens")
        assert served.idle()


def test_the_models_fault_is_not_the_clients(loaded: Loaded, monkeypatch: Any) -> None:
    with serving(loaded) as served:
        with monkeypatch.context() as patch:
            patch.setattr(loaded.model, "generate", lambda **_: 1 / 0)
            status, found, _ = served.ask(FINE)
        assert (status, found["error"]["type"]) == (500, "server_error")
        assert "division" not in found["error"]["message"]
        assert served.ask(FINE)[0] == 200


def test_draining_answers_a_request_whose_body_still_comes(loaded: Loaded) -> None:
    with serving(loaded) as served:
        body = json.dumps(FINE).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", served.port), 20) as raw:
            raw.sendall((head + "Content-Type: application/json\r\n\r\n").encode() + body[:1000])
            assert holds(served, 1)
            served.service.drain()
            status, found, _ = served.ask(FINE)
            assert (status, found["error"]["code"]) == (503, "draining")
            assert served.get("/health") == (503, b'{"status":"draining"}')
            raw.sendall(body[1000:])
            assert raw.recv(100).startswith(b"HTTP/1.1 200")


def test_metrics(loaded: Loaded) -> None:
    with serving(loaded) as served:
        assert served.ask(FINE)[0] == 200
        assert served.ask(FINE | {"n": 99})[0] == 400
        soon(lambda: "batch_size_count 1.0" in served.get("/metrics")[1].decode())  # a moment after its last answer
        text = served.get("/metrics")[1].decode()
    for line in (
        'pvit_ext_requests_total{path="/v1/chat/completions",status="200"} 1.0',
        'pvit_ext_requests_total{path="/v1/chat/completions",status="400"} 1.0',
        "pvit_ext_batch_size_sum 1.0",
        "pvit_ext_completion_tokens_total 5.0",
        "pvit_ext_regions_total 1.0",
        "pvit_ext_images_total 1.0",
        "pvit_ext_waiting 0.0",
        f"pvit_ext_regions_per_second {1 / 60}",
    ):
        assert line in text
