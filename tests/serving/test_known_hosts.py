"""A page whose own name leads to this machine reads nothing of a server without a key."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.app import Service
from pvit_ext.serving.engine import Engine
from pvit_ext.serving.host_name import name_of
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.known_hosts import KnownHosts
from pvit_ext.serving.limits import Limits
from pvit_ext.serving.metrics import Metrics

OWN = ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]", "gpu.lan:80", "GPU.lan"]
OTHERS = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.9:8000",
          "user@localhost", "localhost:80:80", "[::1", "[evil]", "::1", "a b", ""]  # fmt: skip


@pytest.fixture
def service(loaded: Loaded) -> Any:
    with Engine(loaded) as engine:
        yield Service(engine, "tiny", ImageLoader(Limits()), Metrics())


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_refused(host: str) -> None:
    client = TestClient(KnownHosts(Starlette(), ["gpu.lan"]))
    answer = client.get("/v1/files", headers={"Host": host})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (403, "Host", "unknown_host")
    assert "--allow-host NAME" in error["message"]


@pytest.mark.parametrize("host", OWN)
def test_its_own_names_are_answered_to(host: str) -> None:
    assert TestClient(KnownHosts(Starlette(), ["gpu.lan"])).get("/", headers={"Host": host}).status_code == 404


def test_every_path_of_a_server_without_a_key(service: Service) -> None:
    strange = {"Host": "evil.example:80", "Origin": "http://evil.example:80"}
    paths = [("POST", "/v1/files"), ("POST", "/v1/chat/completions"), *(("GET", path) for path in (
        "/v1/files", "/v1/files/file-1/content", "/v1/models", "/health", "/metrics", "/nothing"))]  # fmt: skip
    for key, hosts, refused in (
        (None, (), True),
        (None, ("evil.example",), False),
        (None, None, False),
        ("k", (), False),
    ):
        service.key, service.hosts = key, hosts
        client = TestClient(service.app())
        found = [client.request(method, path, headers=strange).status_code for method, path in paths]
        assert found == [403] * len(paths) if refused else 403 not in found, (key, hosts, found)


def test_names_of_hosts() -> None:
    assert [name_of(host) for host in ("Gpu.lan:80", "[::1]:80", "gpu.lan", "a:b", "a/b")] == [
        "gpu.lan",
        "::1",
        "gpu.lan",
        None,
        None,
    ]
