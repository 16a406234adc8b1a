"""Images that are uploaded once, by OpenAI's own client: kept in memory, within bounds, for those with the key."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.limits import Limits
from pvit_ext.serving.uploads import UploadLimits, Uploads
from tests.hosts.tiny_hosts import TALL, WIDE
from tests.serving.image_file import encoded
from tests.serving.served import BOX, FINE, QUESTION, Served, data_url, image_part, mask_of, message, serving
from tests.serving.soon import soon

LIMITS = Limits(body=3_000_000, pixels=1_000_000, seconds=20, requests=4)
PNG = encoded(WIDE)
UPLOADS = UploadLimits(files=3, bytes=4_000_000, seconds=900)


class Clock:
    """A time that is set."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="module")
def served(loaded: Loaded) -> Iterator[Served]:
    with serving(loaded, LIMITS, key="secret", uploads=Uploads(UPLOADS, CLOCK)) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="secret", max_retries=0) as found:
        yield found
    for one in served.service.loader.uploads.all():
        served.service.loader.uploads.delete(one.id, "id")


def said(client: openai.OpenAI, *parts: Any, regions: list[Any]) -> Any:
    messages: Any = [message(*parts)]
    made = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=5, extra_body={"regions": regions}
    )
    return made.choices[0].message.content


def test_an_upload_is_the_image_of_many_questions(client: openai.OpenAI) -> None:
    made = client.files.create(file=("dog.png", PNG), purpose="vision")
    assert (made.bytes, made.filename, made.purpose) == (len(PNG), "dog.png", "vision")
    assert made.expires_at == made.created_at + 900
    part = {"type": "file", "file": {"file_id": made.id}}
    answer = said(client, image_part(), QUESTION, regions=[BOX])
    assert [said(client, part, QUESTION, regions=[BOX]) for _ in range(2)] == [answer] * 2
    inline = {"type": "file", "file": {"file_data": data_url(WIDE), "filename": "dog.png"}}
    assert said(client, inline, QUESTION, regions=[BOX]) == answer
    mask = Image.fromarray(mask_of(WIDE))
    shape = client.files.create(file=encoded(mask), purpose="user_data")
    drawn = said(client, part, QUESTION, regions=[{"mask": data_url(mask)}])
    assert said(client, part, QUESTION, regions=[{"mask": {"file_id": shape.id}}]) == drawn


def test_uploads_are_listed_read_and_deleted(client: openai.OpenAI) -> None:
    made = [client.files.create(file=PNG, purpose="vision") for _ in range(2)]
    made.append(client.files.create(file=encoded(TALL), purpose="user_data"))
    ids = [one.id for one in made]
    assert [one.id for one in client.files.list()] == ids[::-1]
    assert [one.id for one in client.files.list(order="asc", limit=1)] == ids  # page after page
    assert [one.id for one in client.files.list(purpose="vision", order="asc")] == ids[:2]
    behind = client.files.list(purpose="user_data", order="asc", after=ids[0])  # which is of another purpose
    assert [one.id for one in behind] == ids[2:]
    assert client.files.retrieve(ids[2]) == made[2]
    assert client.files.content(ids[2]).read() == encoded(TALL)
    assert client.files.delete(ids[0]).deleted
    for read in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="was deleted or expired") as error:
            read(ids[0])
        assert (error.value.param, error.value.code) == ("file_id", "file_not_found")
    with pytest.raises(openai.BadRequestError, match="no file") as gone:
        said(client, {"type": "file", "file": {"file_id": ids[0]}}, QUESTION, regions=[BOX])
    assert gone.value.param == "messages[0].content[0].file.file_id"


def test_an_upload_expires(client: openai.OpenAI) -> None:
    brief = client.files.create(file=PNG, purpose="vision", expires_after={"anchor": "created_at", "seconds": 60})
    longer = client.files.create(file=PNG, purpose="vision")
    CLOCK.now += 61
    assert [one.id for one in client.files.list()] == [longer.id]
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(brief.id)
    CLOCK.now += 840
    assert not client.files.list().data


def test_an_expired_upload_is_freed_though_nobody_asks(client: openai.OpenAI, served: Served) -> None:
    client.files.create(file=PNG, purpose="vision")
    CLOCK.now += 901
    assert soon(lambda: not served.service.loader.uploads._files)


def test_uploads_are_bounded(client: openai.OpenAI, served: Served) -> None:
    with pytest.raises(openai.APIStatusError, match="body: it may have 3,000,000 bytes") as large:
        client.files.create(file=PNG + b"\0" * 3_000_000, purpose="vision")
    assert large.value.status_code == 413
    padded = PNG + b"\0" * 2_500_000  # behind the end of the image
    client.files.create(file=padded, purpose="vision")
    with pytest.raises(openai.RateLimitError, match="delete one, or wait") as full:
        client.files.create(file=padded, purpose="vision")
    assert (full.value.param, full.value.code) == ("file", "uploads_full")
    assert int(full.value.response.headers["retry-after"]) == 900
    for _ in range(2):
        client.files.create(file=PNG, purpose="vision")
    with pytest.raises(openai.RateLimitError, match="3 uploads are kept"):
        client.files.create(file=PNG, purpose="vision")
    shown = re.search(rb"pvit_ext_upload_bytes ([\d.e+]+)", served.get("/metrics")[1])
    assert shown is not None
    assert float(shown[1]) == len(padded) + 2 * len(PNG)
    with pytest.raises(ApiError, match="11 bytes; all uploads together may have 10") as error:
        Uploads(UploadLimits(bytes=10)).add("a", "vision", b"12345678901")
    assert error.value.status == 413


def test_wrong_uploads_name_their_field(client: openai.OpenAI, served: Served) -> None:
    create: Any = client.files.create
    for given, param, why in (
        ({"file": b"hello", "purpose": "vision"}, "file", "5 bytes are no image"),
        ({"file": encoded(Image.new("1", (1001, 1000))), "purpose": "vision"}, "file", "1,001,000 pixels; at most 1,0"),
        ({"file": PNG, "purpose": "batch"}, "purpose", "vision, user_data, got 'batch'"),
        ({"file": ("x" * 256, PNG), "purpose": "vision"}, "file", "256 characters"),
        ({"file": PNG, "purpose": "vision", "extra_body": {"color": "red"}}, "color", "no such field"),
        ({"file": PNG, "purpose": "vision", "expires_after": {"anchor": "created_at", "seconds": 901}},
         "expires_after[seconds]", "from 1 to 900"),
        ({"file": PNG, "purpose": "vision", "expires_after": {"anchor": "later", "seconds": 9}},
         "expires_after[anchor]", "created_at"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=why) as error:
            create(**given)
        assert error.value.param == param
    for query, param in (
        ({"limit": "0"}, "limit"),
        ({"limit": "000000001" + "9" * 5000}, "limit"),
        ({"limit": "00000000199999999"}, "limit"),
        ({"order": "up"}, "order"),
        ({"page": 1}, "page"),
        ({"after": "x"}, "after"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            client.files.list(extra_query=query)
        assert error.value.param == param
    assert served.idle()


@pytest.mark.parametrize("name", ["purpose", "expires_after[anchor]", "expires_after[seconds]"])
def test_a_text_that_is_sent_as_a_file(served: Served, name: str) -> None:
    texts = {"purpose": b"vision", "expires_after[anchor]": b"created_at", "expires_after[seconds]": b"60"}
    body = b""
    for field, data in {"file": PNG, **texts}.items():
        as_file = b'; filename="p"' if field in ("file", name) else b""
        head = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (field.encode(), as_file)
        body += head + data + b"\r\n"
    connection = served.connection()
    headers = {"Authorization": "Bearer secret", "Content-Type": "multipart/form-data; boundary=x"}
    connection.request("POST", "/v1/files", body + b"--x--\r\n", headers)
    found = json.load(connection.getresponse())["error"]
    connection.close()
    assert (found["param"], "send it as a text" in found["message"]) == (name, True)
    assert not served.service.loader.uploads.all()


@pytest.mark.parametrize(
    ("file", "param", "why"),
    [
        ({}, "messages[0].content[0].file", "give file_id"),
        ({"file_id": "file-1", "file_data": data_url(WIDE)}, "messages[0].content[0].file", "give file_id"),
        ({"file_id": "file-1", "filename": "a"}, "messages[0].content[0].file.filename", "leave it out"),
        ({"file_id": "../../etc/passwd"}, "messages[0].content[0].file.file_id", "no file '../../etc"),
        ({"file_data": "/etc/passwd"}, "messages[0].content[0].file.file_data", "no data: URL"),
        ({"file_data": "http://127.0.0.1/"}, "messages[0].content[0].file.file_data", "no data: URL"),
    ],
)
def test_wrong_file_parts_name_their_field(served: Served, file: dict[str, str], param: str, why: str) -> None:
    body = FINE | {"messages": [message({"type": "file", "file": file}, QUESTION)]}
    status, found, _ = served.ask(body, Authorization="Bearer secret")
    assert (status, found["error"]["param"]) == (400, param)
    assert why in found["error"]["message"]


def test_uploads_need_the_key_and_no_strange_page(client: openai.OpenAI, served: Served) -> None:
    made = client.files.create(file=PNG, purpose="vision")
    for method, path in (
        ("POST", "/v1/files"),
        ("GET", "/v1/files"),
        ("GET", f"/v1/files/{made.id}"),
        ("DELETE", f"/v1/files/{made.id}"),
        ("GET", f"/v1/files/{made.id}/content"),
    ):
        connection = served.connection()
        connection.request(method, path, b"", {"Authorization": "Bearer other"})
        assert connection.getresponse().status == 401, (method, path)
        connection.close()
    for origin in ("https://evil.example", "http://[", "null"):
        with pytest.raises(openai.PermissionDeniedError, match="a page of " + re.escape(repr(origin))):
            client.files.create(file=PNG, purpose="vision", extra_headers={"Origin": origin})
    own = {"Origin": f"http://127.0.0.1:{served.port}"}
    assert client.files.create(file=PNG, purpose="vision", extra_headers=own).id != made.id


def test_nothing_is_written_to_disk(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled: list[Any] = []
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rolled.append)
    client.files.create(file=PNG + b"\0" * 2_000_000, purpose="vision")
    assert not rolled


def test_an_upload_that_breaks_off_or_never_ends_frees_its_place(served: Served) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    start = head + f"{len(part):x}\r\n".encode() + part + b"\r\n"
    with socket.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(start)
    assert served.idle()
    with socket.create_connection(("127.0.0.1", served.port), 20) as raw:
        raw.sendall(start)
        for _ in range(3):
            raw.sendall(b"f4240\r\n" + b" " * 1_000_000 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    assert served.idle()
    assert not served.service.loader.uploads.all()


def test_a_server_that_drains_takes_no_uploads(loaded: Loaded) -> None:
    with serving(loaded) as served:
        served.service.drain()
        with (
            openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="any", max_retries=0) as client,
            pytest.raises((openai.InternalServerError, openai.APIConnectionError)),
        ):
            client.files.create(file=PNG, purpose="vision")
        assert not served.service.loader.uploads.all()


def test_a_body_that_is_no_form(served: Served) -> None:
    for body, kind, status in (
        (b"{}", "application/json", 415),
        (b"{}", "multipart/form-data", 400),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400),
    ):
        connection = served.connection()
        connection.request("POST", "/v1/files", body, {"Authorization": "Bearer secret", "Content-Type": kind})
        assert connection.getresponse().status == status, (body, kind)
        connection.close()
    assert served.idle()
