"""Visual Genome 1.2 and 1.4: region descriptions, objects, attributes, relationships, questions; whole pixels from 0.

Every file that lies in the folder is read, and joined by image: attributes and relationships by the objects' ids. A
region becomes an object with its phrase as caption. A question has ``<region>`` behind the words that name its objects.
Boxes that begin at -1 or pass the edge are clipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, declared_size, kept, take
from pvit_ext.data.convert.formats.visual_genome_image import ImageBuilder
from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.notes import BadItem, Notes
from pvit_ext.data.convert.peek import Peek

PARTS = {
    "regions": "region_descriptions",
    "objects": "objects",
    "attributes": "attributes",
    "relationships": "relationships",
    "questions": "question_answers",
}
_LISTS = {
    "regions": "regions",
    "objects": "objects",
    "attributes": "attributes",
    "relationships": "relationships",
    "questions": "qas",
}
_IMAGE_ID = re.compile(rb'"image_id"\s*:\s*(\d+)')
Unit = tuple[int, list[tuple[str, tuple[int, int]]]]
"""An image's id, and its entries: the part, and the bytes in the part's file."""


class VisualGenome(DataFormat):
    """See the module."""

    name = "visual_genome"
    about = "Visual Genome: the folder of its JSON files with image_data.json, or one of them"
    settings: ClassVar[Mapping[str, Setting]] = {
        "parts": Setting("", f"what to read, with commas: {', '.join(PARTS)}; default all that is there"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.buffers = {part: JsonBuffer(path) for part, path in self._paths().items()}
        self.names: dict[int, tuple[str, tuple[int, int] | None, int | None]] = {}
        """Path, size and COCO's number of each image."""

    def _paths(self) -> dict[str, Path]:
        """The file of each part that is read."""
        folder = self.source if self.source.is_dir() else self.source.parent
        all_of = {part: sorted(folder.glob(f"{name}*.json")) for part, name in PARTS.items()}
        found = {part: paths[0] for part, paths in all_of.items() if paths}
        self._others = [path.name for paths in all_of.values() for path in paths[1:]] if self.source.is_dir() else []
        if self.source.is_file():
            found = {part: self.source for part, paths in all_of.items() if self.source in paths}
        wanted = [part.strip() for part in self.chosen["parts"].split(",") if part.strip()]
        if missing := [part for part in wanted if part not in found]:
            raise SourceError(f"{self.source} holds no {', '.join(missing)}; it holds {', '.join(found) or 'no part'}")
        if not found:
            names = ", ".join(f"{name}.json" for name in PARTS.values())
            raise SourceError(f"{self.source} holds none of {names}")
        return {part: found[part] for part in wanted or found}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A folder with files of these names, or one of them by its keys."""
        if peek.is_folder:
            found = [
                name for name in PARTS.values() if any(one.startswith(name) and "/" not in one for one in peek.files)
            ]
            sure = peek.has(r"image_data.*\.json") or "region_descriptions" in found
            return Evidence(0.95, f"files {', '.join(found)}") if found and sure else None
        keys = set(peek.item)
        if "conversations" in keys:
            return None
        if {"image_id", "objects"} <= keys or {"image_id", "relationships"} <= keys or {"id", "regions"} <= keys:
            return Evidence(0.9, "a list of images with objects, relationships or regions")
        return (
            Evidence(0.9, "a list of images with qas or attributes")
            if {"id", "qas"} <= keys or {"image_id", "attributes"} <= keys
            else None
        )

    def remarks(self) -> list[str]:
        """Which files are not read since another one is of the same part."""
        read = ", ".join(buffer.path.name for buffer in self.buffers.values())
        return [f"visual_genome: {', '.join(self._others)} is not read beside {read}"] if self._others else []

    def files(self) -> list[Path]:
        """Each part's file, and image_data.json."""
        return [*(buffer.path for buffer in self.buffers.values()), *self._image_data()]

    def _image_data(self) -> list[Path]:
        folder = self.source if self.source.is_dir() else self.source.parent
        return sorted(folder.glob("image_data*.json"))[:1]

    def units(self) -> Iterator[Unit]:
        """Each image, by id."""
        for path in self._image_data():
            buffer = JsonBuffer(path)
            section = buffer.items()
            for span in zip(section.starts, section.ends, strict=True):
                item = kept(buffer.load(*span), "an image", dict)
                coco_id = item.get("coco_id")
                path_and_size = "/".join(clean(item.get("url")).split("/")[-2:]), declared_size(item)
                self.names[_id(item)] = (*path_and_size, coco_id if isinstance(coco_id, int) else None)
        entries: dict[int, list[tuple[str, tuple[int, int]]]] = {}
        for part, buffer in self.buffers.items():
            section = buffer.items()
            for start, end in zip(section.starts, section.ends, strict=True):
                found = _IMAGE_ID.search(buffer.read(start, end))
                number = int(found[1]) if found else _id(buffer.load(start, end))
                entries.setdefault(number, []).append((part, (start, end)))
        yield from sorted(entries.items())

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        number, entries = unit
        location = f"image {number}"
        items: dict[str, list[Any]] = {}
        for part, span in entries:
            try:
                item = kept(self.buffers[part].load(*span), "an image", dict)
                if _id(item) != number:
                    raise BadItem(f"image_id {number} stands in the entry of image {_id(item)}")
                items.setdefault(part, []).extend(take(item, _LISTS[part], list))
            except BadItem as error:
                line = self.buffers[part].line(span[0])
                notes.bad(error.location or f"{self.buffers[part].path.name} line {line}", str(error))
        path, declared, coco_id = self.names.get(number, ("", None, None))
        names = [name for name in (path, f"VG_100K/{number}.jpg", f"VG_100K_2/{number}.jpg", f"{number}.jpg") if name]
        count = sum(len(one) for part, one in items.items() if part != "attributes")
        try:
            found = self.image_folder.look_up(names, declared, location, notes, count)
        except BadItem as error:
            raise BadItem(str(error), error.location or f"image_data.json {location}") from error
        if found is None:
            return
        builder = ImageBuilder(location, found[1], notes, "objects" in self.buffers)
        for part in PARTS:
            builder.add(part, items.get(part, []))
        yield replace(builder.build(found[0], str(number)), coco_id=coco_id)


def _id(item: Any) -> int:
    fields = kept(item, "an image", dict)
    number = next((fields[key] for key in ("image_id", "id") if key in fields), None)
    return int(kept(number, "image_id or id", int))
