"""The demo's server without its page, and what a page sends to it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.examples import load_examples
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.demo.saving import Saving
from pvit_ext.serving.demo.service import Service, Setting
from pvit_ext.serving.demo.sessions import PATIENCE, Sessions
from pvit_ext.tokens.query import Query
from tests.serving.image_file import encoded

SIZE = (40, 30)
BOX = {"box": [1.25, 2, 20, 25.5]}
COMMAND = ("pvit-ext", "ask", "--model", "my model", "--base", "a base", "--system", "Don't.")


class Words:
    """An answer of three words, the last of which is never waited for."""

    def __init__(self, query: Query) -> None:
        self.query, self.cancelled = query, False

    def __iter__(self) -> Iterator[str]:
        for word in ("one", " two", " three"):
            if self.cancelled:
                raise RuntimeError("the answer was cancelled")
            yield word

    def cancel(self) -> None:
        self.cancelled = True


def made(folder: Path, hints: Hints, patience: float = PATIENCE) -> Service:
    (folder / "kept").mkdir()
    pictures = Pictures(folder / "kept", most=2)
    setting = Setting("my model", COMMAND, load_examples(None, None), hints)
    answering = Answering(Words, pictures, hints)
    return Service(setting, Sessions(pictures.close, patience), pictures, answering, Saving(folder / "records"))


def opened(service: Service, name: str, colour: int = 7) -> str:
    """Open a picture on a new page; its key."""
    content = sent(Image.new("RGB", SIZE, (colour, 0, 0)))
    found: str = service.open_picture(session=service.start()["session"], content=content, name=name)["picture"]["key"]
    return found


def sent(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


def talk(key: str, *turns: dict[str, Any]) -> dict[str, Any]:
    return {"picture": key, "turns": list(turns)}


def turn(question: str, *regions: Any, answer: str = "", **more: Any) -> dict[str, Any]:
    return {"question": question, "regions": list(regions), "answer": answer, **more}
