"""What the page asks of the server, one method each; problems of the user's come back as text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.regions.drawing import COLOURS, LINE
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.copies import as_line, command_line, record_of
from pvit_ext.serving.demo.examples import Example
from pvit_ext.serving.demo.masks import mask_file, read_mask
from pvit_ext.serving.demo.pictures import Pictures, describe_picture
from pvit_ext.serving.demo.saving import Saving
from pvit_ext.serving.demo.turns import read_region, read_talk


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
        uploads: folder that uploaded files arrive in; no other file is read for the page.
        examples: the pictures to begin with.
    """

    model: str
    uploads: Path
    examples: Sequence[Example] = ()


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
        pictures: that are opened.
        answering: asks the model.
        saving: of records.
        segmenter: if there is one.
    """

    def __init__(
        self,
        setting: Setting,
        pictures: Pictures,
        answering: Answering,
        saving: Saving,
        segmenter: Segmenter | None = None,
    ) -> None:
        self._setting, self._pictures, self.answering = setting, pictures, answering
        self._saving, self._segmenter = saving, segmenter

    def start(self) -> dict[str, Any]:
        """What the page needs to begin."""
        return {
            "colours": [list(colour) for colour in COLOURS],
            "line": LINE,
            "model": self._setting.model,
            "records": str(self._saving.folder),
            "segmenter": self._segmenter is not None,
            "examples": [{"url": one.thumbnail(), "question": one.question} for one in self._setting.examples],
        }

    @told
    def open_picture(self, path: str, name: str) -> dict[str, Any]:
        """Open an uploaded picture.

        Args:
            path: where the upload lies.
            name: the user's name for it.
        """
        file = self._uploaded(path)
        try:
            return {"picture": describe_picture(*self._pictures.open(file, name or "the picture"))}
        finally:
            file.unlink(missing_ok=True)

    @told
    def open_example(self, number: int) -> dict[str, Any]:
        """Open one of the examples: its picture, regions and question."""
        if number not in range(len(self._setting.examples)):
            raise ValueError(f"there is no example {number}")
        example = self._setting.examples[number]
        picture = describe_picture(*self._pictures.open(example.file, example.file.name))
        return {"picture": picture, "regions": list(example.shapes), "question": example.question}

    @told
    def add_mask(self, key: str, path: str, name: str) -> dict[str, Any]:
        """An uploaded mask as a region.

        Args:
            key: of the picture.
            path: where the upload lies.
            name: the user's name for it.
        """
        file = self._uploaded(path)
        try:
            return {"region": read_mask(file, name, self._pictures.get(key).size)}
        finally:
            file.unlink(missing_ok=True)

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
        talk = read_talk(request, self._pictures)
        talk.regions()
        record = as_line(record_of(talk, talk.picture.name))
        return {"command": command_line(talk, self._setting.model), "record": record}

    @told
    def save(self, request: Any) -> dict[str, Any]:
        """Append the conversation to the records."""
        return self._saving.save(read_talk(request, self._pictures))

    def stop(self, name: str) -> dict[str, Any]:
        """Stop an answer."""
        return {"stopped": self.answering.stop(name)}

    def _uploaded(self, path: object) -> Path:
        """The file of an upload; a page could name any other file of the machine."""
        file = Path(str(path)).resolve()
        if not file.is_relative_to(self._setting.uploads.resolve()) or not file.is_file():
            raise ValueError("this file was not uploaded to the demo")
        return file
