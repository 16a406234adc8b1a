"""What the page asks of the server, one method each; problems of the user's come back as text."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.regions.drawing import COLOURS, LINE
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.copies import as_line, command_of, record_of
from pvit_ext.serving.demo.examples import Example
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.masks import mask_file, read_mask
from pvit_ext.serving.demo.pictures import Pictures, describe_picture
from pvit_ext.serving.demo.saving import Saving
from pvit_ext.serving.demo.sessions import Sessions
from pvit_ext.serving.demo.turns import read_region, read_talk

MOST_BYTES = 100 << 20
"""Of a file that the page sends."""


class Segmenter(Protocol):
    """Makes a mask of a point or a box."""

    def segment(self, image: Path, region: Region) -> NDArray[np.bool_]:
        """The mask of the object that is pointed at, bool (H, W).

        Args:
            image: file of the picture.
            region: resolved, a point or a box.

        Raises:
            ValueError: where there is none.
        """


@dataclass(frozen=True)
class Setting:
    """What the demo runs with.

    Args:
        model: folder of the checkpoint, as the user gave it.
        command: words of ``pvit-ext ask`` with this model, before those of a question.
        examples: the pictures to begin with.
        hints: what the model reads beside questions.
    """

    model: str
    command: Sequence[str] = ()
    examples: Sequence[Example] = ()
    hints: Hints = field(default_factory=Hints)


def told(method: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Problems of the user's input as ``{"error": text}``."""

    @functools.wraps(method)
    def call(*given: Any, **named: Any) -> dict[str, Any]:
        try:
            return method(*given, **named)
        except (ValueError, OSError) as error:
            return {"error": str(error)}

    return call


class Service:
    """The page's server, without what carries it.

    Args:
        setting: what the demo runs with.
        sessions: the open pages.
        pictures: that are opened.
        answering: asks the model.
        saving: of records.
        segmenter: if there is one.
    """

    def __init__(
        self,
        setting: Setting,
        sessions: Sessions,
        pictures: Pictures,
        answering: Answering,
        saving: Saving,
        segmenter: Segmenter | None = None,
    ) -> None:
        self._setting, self._sessions, self._pictures, self.answering = setting, sessions, pictures, answering
        self._saving, self._segmenter = saving, segmenter

    def start(self) -> dict[str, Any]:
        """What the page needs to begin."""
        return {
            "session": self._sessions.begin(),
            "most_bytes": MOST_BYTES,
            "colours": [list(colour) for colour in COLOURS],
            "line": LINE,
            "model": self._setting.model,
            "records": str(self._saving.folder),
            "segmenter": self._segmenter is not None,
            "hints": self._setting.hints.shown(),
            "examples": [{"url": one.thumbnail(), "question": one.question} for one in self._setting.examples],
        }

    @told
    def open_picture(self, session: str, content: str, name: str) -> dict[str, Any]:
        """Open a picture of the user's.

        Args:
            session: name of the page.
            content: of the file, in base64.
            name: the user's name for it.
        """
        opened = self._pictures.open(_bytes(content), name or "the picture", self._sessions.check(session))
        return {"picture": describe_picture(*opened)}

    @told
    def open_example(self, session: str, number: int) -> dict[str, Any]:
        """Open one of the examples: its picture, regions and question.

        Args:
            session: name of the page.
            number: of the example, from 0.
        """
        if number not in range(len(self._setting.examples)):
            raise ValueError(f"there is no example {number}")
        example = self._setting.examples[number]
        opened = self._pictures.open(example.file.read_bytes(), example.file.name, self._sessions.check(session))
        found = {"regions": list(example.shapes), "question": example.question, "tags": list(example.tags)}
        return {"picture": describe_picture(*opened), **found}

    @told
    def add_mask(self, key: str, content: str, name: str) -> dict[str, Any]:
        """A mask of the user's as a region.

        Args:
            key: of the picture.
            content: of the file, in base64.
            name: the user's name for it.
        """
        return {"region": read_mask(_bytes(content), name, self._pictures.get(key).size)}

    @told
    def mask_png(self, key: str, shape: Any) -> dict[str, Any]:
        """A mask as a file.

        Args:
            key: of the picture.
            shape: the region.
        """
        region = read_region(shape, "the mask", self._pictures.get(key).size)
        return {"url": mask_file(region)}

    @told
    def segment(self, key: str, shape: Any) -> dict[str, Any]:
        """A point or box as the mask of what it points at.

        Args:
            key: of the picture.
            shape: the region.
        """
        if self._segmenter is None:
            raise ValueError("the demo runs without a segmenter; start it with --segmenter DIR")
        picture = self._pictures.get(key)
        region = read_region(shape, "the region", picture.size).resolve(picture.size)
        return {"region": {"mask": encode_mask(self._segmenter.segment(picture.file, region))}}

    @told
    def copies(self, request: Any) -> dict[str, Any]:
        """The conversation as a command line and as a record."""
        talk = read_talk(request, self._pictures, self._setting.hints)
        talk.regions()
        command, note = command_of(talk, self._setting.command)
        return {"command": command, "note": note, "record": as_line(record_of(talk, talk.picture.name))}

    @told
    def save(self, request: Any) -> dict[str, Any]:
        """Append the conversation to the records."""
        return self._saving.save(read_talk(request, self._pictures, self._setting.hints))

    def stop(self, name: str) -> dict[str, Any]:
        """Stop an answer."""
        return {"stopped": self.answering.stop(name)}


def _bytes(content: object) -> bytes:
    """The bytes of a file that the page sent."""
    if not isinstance(content, str) or len(content) > MOST_BYTES * 4 // 3 + 4:
        raise ValueError(f"a file is sent as base64, {MOST_BYTES >> 20} MiB at most")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise ValueError(f"a file is sent as base64: {error}") from error
