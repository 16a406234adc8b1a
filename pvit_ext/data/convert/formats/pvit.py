"""PVIT's released data: ``<Region><Lx0><Ly0><Lx1><Ly1></Region>`` in the texts, thousandths of each side.

The folder of a stage has ``mapping.yaml``, which names the folder of each file's images. Of a file whose boxes are
said to be those of the output, PVIT reads nothing, and neither is it read here. One ``KEY.json`` is read alone too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, Setting, SourceError
from pvit_ext.data.convert.chats import conversation, turns_of
from pvit_ext.data.convert.fields import kept, short, take
from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed_in
from pvit_ext.files import read_yaml

_TAG = re.compile(r"<Region>(.*?)</Region>", re.DOTALL)
_BINS = re.compile(r"\s*<L(\d{1,3})>\s*<L(\d{1,3})>\s*<L(\d{1,3})>\s*<L(\d{1,3})>\s*")
_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_FRACTIONS = re.compile(rf"\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\s*")
_MAPS = ("mapping", "image_paths", "bbox")
_STRAY = re.compile(r"</?Region>")
Unit = tuple[str, int, int, int]
"""Key of the file, the bytes of an item, and its number, counted from 1."""


class Pvit(DataFormat):
    """See the module."""

    name = "pvit"
    about = "PVIT's released data: the folder of a stage with mapping.yaml, or one of its JSON files"
    settings: ClassVar[Mapping[str, Setting]] = {"keys": Setting("", "which files, with commas; default all")}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A folder with mapping.yaml, or conversations with ``<Region>``."""
        if peek.is_folder:
            return Evidence(0.95, "mapping.yaml and JSON files") if _is_stage(peek) else None
        found = "<Region>" in str(peek.item.get("conversations", ""))
        return Evidence(0.9, "conversations with <Region>") if found else None

    @cached_property
    def mapping(self) -> Mapping[str, Any]:
        """What mapping.yaml says; empty for one file without it."""
        path = (self.source if self.source.is_dir() else self.source.parent) / "mapping.yaml"
        if not path.is_file():
            return {}
        try:
            value = read_yaml(path)
        except ValueError as error:
            raise SourceError(str(error)) from error
        if not isinstance(value, dict) or not all(isinstance(value.get(key, {}), dict) for key in _MAPS):
            raise SourceError(f"{path} has the maps {', '.join(_MAPS)}, got {short(value)}")
        return value

    @cached_property
    def buffers(self) -> dict[str, JsonBuffer]:
        """Each file that is read, by its key."""
        paths = [self.source] if self.source.is_file() else sorted(self.source.glob("*.json"))
        found = {path.stem: path for path in paths}
        wanted = [key.strip() for key in self.chosen["keys"].split(",") if key.strip()]
        if missing := [key for key in wanted if key not in found]:
            raise SourceError(f"{self.source} holds no {', '.join(missing)}; it holds {', '.join(found) or 'no JSON'}")
        kept_ones = [key for key in wanted or found if key not in self._of_output]
        if not kept_ones:
            output = ", ".join(sorted(self._of_output)) or "none"
            raise SourceError(f"{self.source} holds no JSON file that is read (of the output alone: {output})")
        return {key: JsonBuffer(found[key]) for key in kept_ones}

    @property
    def _of_output(self) -> set[str]:
        return {key for key, kind in self.mapping.get("bbox", {}).items() if kind != "input"}

    def files(self) -> list[Path]:
        """The JSON files and mapping.yaml."""
        mapping = (self.source if self.source.is_dir() else self.source.parent) / "mapping.yaml"
        return [*(buffer.path for buffer in self.buffers.values()), *([mapping] if mapping.is_file() else [])]

    def remarks(self) -> list[str]:
        """Which files are not read, and of which the folder of images is not known."""
        if not self.source.is_dir():
            return []
        boxes, folders = self.mapping.get("bbox", {}), self.mapping.get("mapping", {})
        unread = [
            f"{key}.json is not read: mapping.yaml says that its boxes are {boxes[key]}" for key in self._of_output
        ]
        unmapped = [f"mapping.yaml names no folder of images for {key}" for key in self.buffers if key not in folders]
        return [f"pvit: {remark}" for remark in (*sorted(unread), *unmapped)]

    def units(self) -> Iterator[Unit]:
        """Each item of each file."""
        for key, buffer in self.buffers.items():
            section = buffer.items()
            for number, (start, end) in enumerate(zip(section.starts, section.ends, strict=True), 1):
                yield key, start, end, number

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation."""
        key, start, end, number = unit
        location = f"{key}.json item {number}"
        try:
            item = kept(self.buffers[key].load(start, end), "an item", dict)
            texts = turns_of(item, notes)
            found = self.image_folder.look_up(
                self._names(key, take(item, "image", str)), None, location, notes, len(texts) // 2
            )
            if found is None:
                return
            boxes = _Boxes(found[1], notes)
            turns = [boxes.said(text) for text in texts]
            if talk := conversation(turns, boxes.found, location, notes):
                yield AnnotatedImage(found[0], found[1], f"{key}/{number}", conversations=(talk,))
        except BadItem as error:
            raise BadItem(str(error), error.location or location) from error

    def _names(self, key: str, image: str) -> list[str]:
        """Where an image may lie: in the folder that mapping.yaml names, or its last part, then as it is named."""
        mapped = self.mapping.get("mapping", {}).get(key)
        folder = str(self.mapping.get("image_paths", {}).get(mapped, "")).strip("/")
        return [*([f"{folder}/{image}", f"{folder.rsplit('/', 1)[-1]}/{image}"] if folder else []), image]


class _Boxes:
    """The boxes of an item, in the order of its texts."""

    def __init__(self, size: Size | None, notes: Notes) -> None:
        self.size, self.notes = size, notes
        self.found: list[Annotation | Reason] = []

    def said(self, text: str) -> Said:
        """A turn."""
        marks = []
        for tag in _TAG.finditer(text):
            marks.append(Mark(tag.start(), tag.end(), (len(self.found),)))
            self.found.append(self._box(tag[1]))
        if stray := _STRAY.search(_TAG.sub("", text)):
            raise BadItem(f"{stray[0]} without its partner in {short(text)}")
        return Said(text, tuple(marks))

    def _box(self, inner: str) -> Annotation | Reason:
        if bins := _BINS.fullmatch(inner):
            return boxed_in(1000, [int(one) for one in bins.groups()], self.size, self.notes)
        found = _FRACTIONS.fullmatch(inner)
        if found is None:
            raise BadItem(f"a region is <Lx0><Ly0><Lx1><Ly1> or [x0, y0, x1, y1], got {short(inner)}")
        return boxed_in(1, [float(one) for one in found.groups()], self.size, self.notes)


def _is_stage(peek: Peek) -> bool:
    return "mapping.yaml" in peek.files and peek.has(r"[^/]+\.json")
