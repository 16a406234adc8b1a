"""The fixture ``host``: a test that takes it runs on LLaVA's own classes and on models of transformers."""

from __future__ import annotations

import importlib.util

import pytest

from tests.hosts.tiny_hosts import FEW, TinyHost, make


@pytest.fixture(scope="session")
def made_hosts() -> dict[str, TinyHost]:
    """Hosts by name; each writes its checkpoint once."""
    return {}


@pytest.fixture(params=FEW)
def host(
    request: pytest.FixtureRequest, made_hosts: dict[str, TinyHost], tmp_path_factory: pytest.TempPathFactory
) -> TinyHost:
    """A tiny model of each host."""
    name = request.param
    if name.startswith("llava/") and importlib.util.find_spec("llava") is None:
        pytest.skip("llava is not installed")
    if name not in made_hosts:
        made_hosts[name] = make(name, tmp_path_factory)
    return made_hosts[name]
