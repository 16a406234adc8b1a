"""A running demo whose answers are slow, and a browser in front of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pvit_ext.regions.image import image_size
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.app import Address, Parts, running
from pvit_ext.serving.demo.examples import load_examples
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.service import Service, Setting
from pvit_ext.tokens.query import Query
from tests.serving.demo.browser import BROWSER, Page, browser
from tests.serving.demo.served import made, opened

WORDS = ("It", " is", " a", " <b>slow</b>", " answer.")
STEP = 0.08
SIZE = (400, 300)
COMMAND = ("pvit-ext", "ask", "--model", "runs/quick start", "--system", "Be brief.", "--max-new-tokens", "128")


@dataclass
class SlowAnswer:
    """Words that come one by one, until they are cancelled."""

    query: Query
    words: tuple[str, ...] = WORDS
    cancelled: bool = False

    def __iter__(self) -> Iterator[str]:
        for word in self.words * (40 if "long" in self.query.text else 1):
            if self.cancelled:
                raise RuntimeError("the answer was cancelled")
            yield word
            time.sleep(STEP)

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Model:
    """Keeps what it was asked.

    Attributes:
        answers: of all questions.
    """

    answers: list[SlowAnswer] = field(default_factory=list)

    def __call__(self, query: Query) -> SlowAnswer:
        if "bad" in query.text:
            raise ValueError("the model refuses this question")
        self.answers.append(SlowAnswer(query))
        return self.answers[-1]


@dataclass
class Ellipses:
    """Segments whatever it is given as an ellipse of the same extent; a point as one of ten pixels.

    Args:
        seconds: that it takes.
    """

    seconds: float = 0

    def segment(self, image: Path, region: Region) -> NDArray[np.bool_]:
        time.sleep(self.seconds)
        size = image_size(image)
        (x0, y0), (x1, y1) = region.points if region.kind == "box" else (region.points[0], region.points[0])
        if region.kind == "point":
            x0, y0, x1, y1 = x0 - 5, y0 - 5, x1 + 5, y1 + 5
        sheet = Image.new("1", size)
        ImageDraw.Draw(sheet).ellipse((x0, y0, x1, y1), fill=1)
        return np.array(sheet)


@dataclass
class Demo:
    """A running demo.

    Args:
        address: for a browser.
        model: that answers.
        records: folder of saved records.
        segmenter: of the tool Segment.
        connected: machines that its process has had connections to.
    """

    address: str
    model: Model
    records: Path
    segmenter: Ellipses
    connected: set[str]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    model, records, segmenter = Model(), tmp_path_factory.mktemp("demo") / "records", Ellipses()
    setting = Setting(COMMAND[3], COMMAND, tuple(load_examples(None, None)))
    connected: set[str] = set()
    connect = socket.socket.connect

    def noted(one: socket.socket, address: Any) -> None:
        if one.family in (socket.AF_INET, socket.AF_INET6):
            connected.add(address[0])
        connect(one, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted)
        with running(Parts(model, setting, records, segmenter, patience=2), Address(port=0)) as address:
            yield Demo(address, model, records, segmenter, connected)


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, demo: Demo, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The demo's page, fresh; afterwards its scripts had no error."""
    assert request.node.get_closest_marker("browser"), "what drives a page is marked browser"
    tab.size(1280, 900)
    tab.requests.clear()
    tab.problems.clear()
    tab.open(demo.address)
    yield tab
    assert not tab.problems


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "two words.png"
    Image.new("RGB", SIZE, (40, 90, 120)).save(file)
    return file


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return made(tmp_path, Hints())


@pytest.fixture
def key(service: Service) -> str:
    return opened(service, "a b.png")
