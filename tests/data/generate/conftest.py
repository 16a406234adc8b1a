"""The command line in this process, on a folder of annotations, with short waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setattr("pvit_ext.data.generate.client.FIRST_WAIT", 0.01)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    from pvit_ext import cli
    from tests.data.generate.samples import command

    def call(url: str, *options: str) -> int:
        return cli.main(command(tmp_path, url, *options))

    return call
