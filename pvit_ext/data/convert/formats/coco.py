"""COCO: instances, captions, and the many files of others in its layout.

``bbox`` is x, y, width, height in pixels from 0, and continuous; ``segmentation`` is polygons or run lengths. Crowds
are left out. Images and annotations stand in any order: the file is scanned once for their positions, and each image's
annotations are read where they lie, so that a file of any size takes little memory.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.json_buffer import JsonBuffer, Section
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, masked, numbers, outlined, xywh
from pvit_ext.data.summary import counted

_IMAGE_ID = re.compile(rb'"image_id"[ \t\r\n]*:[ \t\r\n]*(-?\d+|"[^"\\]*")[ \t\r\n]*[,}]')
NO_NAME = "object"
"""The one category of files that describe regions in words."""
Span = tuple[int, int]
Unit = tuple[Span, list[Span]]
"""Bytes of an image, and of its annotations in the order of the file."""


class Coco(DataFormat):
    """See the module."""

    name = "coco"
    about = "COCO's JSON: instances_*.json, captions_*.json and files in that layout"
    closed = True
    settings: ClassVar[Mapping[str, Setting]] = {
        "captions": Setting("", "a captions_*.json whose captions are kept beside the instances"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.buffer = JsonBuffer(source)
        self.categories: dict[int, Mapping[str, Any]] = {}
        self.captions: dict[Any, list[str]] = {}
        self._strangers = 0

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A file with images and annotations, which no relative of COCO claims."""
        if not {"images", "annotations"} <= set(peek.sections):
            return None
        image, annotation = peek.first("images"), peek.first("annotations")
        nameless = "caption" in annotation and peek.first("categories").get("name") == NO_NAME
        if "neg_category_ids" in image or "tokens_positive" in annotation or nameless:
            return Evidence(0.3, "the keys images and annotations, but marks of a relative of COCO")
        if "image_id" in annotation and (
            "bbox" in annotation or "caption" in annotation or "segmentation" in annotation
        ):
            return Evidence(0.8, "the keys images and annotations, with bbox, segmentation or caption")
        return Evidence(0.4, "the keys images and annotations")

    @cached_property
    def sections(self) -> dict[str, Section]:
        """Where the file's lists lie."""
        found = self.buffer.sections()
        for key in ("images", "annotations"):
            if key not in found:
                raise SourceError(f"{self.source}: a file of {self.name} has {key!r}; it has {short(sorted(found))}")
        if found["annotations"].starts:
            first = self.buffer.load(found["annotations"].starts[0], found["annotations"].ends[0])
            if isinstance(first, dict) and "segments_info" in first:
                raise SourceError(f"{self.source} holds COCO's panoptic segments; give instances_*.json, which is read")
        return found

    def files(self) -> list[Path]:
        """The file, and that of captions."""
        captions = self.chosen.get("captions")
        return [self.source, *([Path(captions)] if captions else [])]

    def remarks(self) -> list[str]:
        """How many images of the file of captions the source does not list."""
        if not self._strangers:
            return []
        strangers = counted(self._strangers, "image")
        return [f"{self.name}: captions of {strangers} that {self.source.name} does not list are not used"]

    def total(self) -> int:
        """The number of images."""
        return len(self.sections["images"].starts)

    def units(self) -> Iterator[Unit | tuple[None, list[Span]]]:
        """Each image with its annotations; at last, those of images that the file does not list."""
        self._read_tables()
        images, annotations = self.sections["images"], self.sections["annotations"]
        rows, order, bounds = self._by_image(images, annotations)
        for number in range(len(images.starts)):
            mine = order[bounds[number] : bounds[number + 1]]
            spans = [(annotations.starts[one], annotations.ends[one]) for one in mine]
            yield (images.starts[number], images.ends[number]), spans
        if strays := [(annotations.starts[one], annotations.ends[one]) for one in np.flatnonzero(rows < 0)]:
            yield None, strays

    def _read_tables(self) -> None:
        """Categories by id, and captions of a second file by image id."""
        section = self.sections.get("categories")
        for number in range(len(section.starts) if section else 0):
            assert section is not None
            item = self.buffer.load(section.starts[number], section.ends[number])
            self.categories[take(item, "id", int)] = item
        if captions := self.chosen.get("captions"):
            buffer = JsonBuffer(Path(captions))
            if (spans := buffer.sections().get("annotations")) is None:
                raise SourceError(f"captions={captions} holds no annotations; give a captions_*.json")
            for start, end in zip(spans.starts, spans.ends, strict=True):
                item = buffer.load(start, end)
                self.captions.setdefault(take(item, "image_id", int, str), []).append(clean(take(item, "caption", str)))

    def _by_image(
        self, images: Section, annotations: Section
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row of each annotation's image (-1 for none), annotations sorted by image, and where each image's begin."""
        known: dict[Any, int] = {}
        for number, (start, end) in enumerate(zip(images.starts, images.ends, strict=True)):
            known.setdefault(take(self.buffer.load(start, end), "id", int, str), number)
        self._strangers = len(self.captions.keys() - known.keys())
        row = array("q", (known.get(key, -1) for key in self._image_ids(annotations)))
        rows = np.frombuffer(row, np.int64) if row else np.zeros(0, np.int64)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(len(images.starts) + 1))
        return rows, order, bounds

    def _image_ids(self, annotations: Section) -> Iterator[Any]:
        """The image_id of each annotation; it is checked when the annotation is read."""
        step = 4096
        for first in range(0, len(annotations.starts), step):
            starts, ends = annotations.starts[first : first + step], annotations.ends[first : first + step]
            block = self.buffer.read(starts[0], ends[-1])
            for start, end in zip(starts, ends, strict=True):
                found = _IMAGE_ID.search(block, start - starts[0], end - starts[0])
                yield _plain_id(found[1]) if found else None

    def read(self, unit: Unit | tuple[None, list[Span]], notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        image_span, spans = unit
        if image_span is None:
            for start, end in spans:
                item = self._annotation(start, end, notes)
                if item is not None:
                    problem = f"image_id {short(item.get('image_id'))} is no id of 'images'"
                    notes.bad(self._location(item), problem)
            return
        image = self.buffer.load(*image_span)
        location = f"{self.source.name} image {image.get('id')}"
        pairs = [(item, span) for span in spans if (item := self._annotation(*span, notes)) is not None]
        found = self.image_folder.look_up(self.names(image), self._size(image), location, notes, len(pairs))
        if found is None:
            return
        name, size = found
        captions = [clean(item["caption"]) for item, _ in pairs if "bbox" not in item and "caption" in item]
        boxes = [(item, start) for item, (start, _) in pairs if "bbox" in item or "caption" not in item]
        objects = [one for item, start in boxes if (one := self._object(item, start, image, size, notes)) is not None]
        yield AnnotatedImage(
            name,
            size,
            str(image["id"]),
            tuple(objects),
            tuple(text for text in (*captions, *self.captions.get(image["id"], [])) if text),
        )

    def names(self, image: Mapping[str, Any]) -> list[str]:
        """Where an image may lie, from its entry."""
        names = [image.get("file_name"), "/".join(str(image.get("coco_url", "")).split("/")[-2:])]
        if not (found := [name for name in names if isinstance(name, str) and name]):
            raise BadItem(f"image {image.get('id')} has neither file_name nor coco_url")
        return found

    def label(self, category: Mapping[str, Any]) -> str:
        """What a person calls a category."""
        return clean(category.get("name"))

    def classes(self) -> Sequence[str] | None:
        """The names of ``categories``, but for the one without objects that Roboflow adds for all others."""
        if not self.closed:
            return None
        items = list(self.categories.values())
        groups = {clean(item.get("supercategory")) for item in items}
        extra = [item.get("supercategory") == "none" and clean(item.get("name")) in groups for item in items]
        return [label for item, none in zip(items, extra, strict=True) if (label := self.label(item)) and not none]

    def _size(self, image: Mapping[str, Any]) -> Size | None:
        if image.get("width") is None and self.image_folder.opened:
            return None
        return take(image, "width", int), take(image, "height", int)

    def _annotation(self, start: int, end: int, notes: Notes) -> dict[str, Any] | None:
        try:
            item: dict[str, Any] = kept(self.buffer.load(start, end), "an annotation", dict)
        except BadItem as error:
            notes.bad(error.location or f"{self.source.name} line {self.buffer.line(start)}", str(error))
            return None
        return item

    def _location(self, item: Mapping[str, Any]) -> str:
        return f"{self.source.name} annotation {item.get('id')}"

    def _object(
        self, item: Mapping[str, Any], start: int, image: Mapping[str, Any], size: Size | None, notes: Notes
    ) -> Annotation | None:
        try:
            if item.get("image_id") != image["id"]:
                raise BadItem(f"image_id {short(item.get('image_id'))} is not its image's, {image['id']}")
            found = Reason.CROWD if item.get("iscrowd") else self.region(item, size, notes)
        except BadItem as error:
            notes.bad(f"{self._location(item)} (line {self.buffer.line(start)})", str(error))
            return None
        if isinstance(found, Reason):
            notes.drop(found, self._location(item), f"bbox {short(item.get('bbox'))}")
            return None
        return found

    def region(self, item: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason | None:
        """An annotation as an object, or why there is none; None where that was noted.

        Raises:
            BadItem: for values that break COCO's rules.
        """
        number = item.get("category_id", -1)
        category = self.categories.get(number, {}) if isinstance(number, int) else {}
        if not category and "category_id" in item:
            raise BadItem(f"category_id {short(item['category_id'])} is no id of 'categories'")
        attributes, label = item.get("attributes"), self.label(category)
        fields: dict[str, Any] = {
            "label": label,
            "captions": (text,) if (text := clean(item.get("caption"))) else (),
            "attributes": tuple(_attributes(attributes)) if isinstance(attributes, dict) else (),
            "id": str(item.get("id", "")),
            "category": name if label and (name := category.get("name", "")) != label else "",
        }
        box = (
            boxed(xywh(numbers(take(item, "bbox", list), 4, "bbox")), size, notes, **fields) if "bbox" in item else None
        )
        if isinstance(box, Reason):
            return box
        shape = self._shape(item.get("segmentation"), size, notes, fields)
        if isinstance(shape, Annotation):
            return Annotation(shape.region, box.box if box else shape.box, **fields)
        return box or shape or Reason.DEGENERATE

    def _shape(
        self, value: Any, size: Size | None, notes: Notes, fields: Mapping[str, Any]
    ) -> Annotation | Reason | None:
        if not value:
            return None
        if isinstance(value, dict):
            return masked(value, size, **fields)
        parts = [numbers(part, None, "a polygon of segmentation") for part in kept(value, "segmentation", list)]
        return outlined(parts, size, notes, **fields)


def _attributes(values: Mapping[str, Any]) -> Iterator[str]:
    """CVAT's and FiftyOne's attributes: a flag by its name, text and numbers behind it."""
    for key, value in values.items():
        if value is True:
            yield clean(key)
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            yield clean(f"{key} {value}")


def _plain_id(raw: bytes) -> int | str:
    return raw[1:-1].decode("utf-8", "replace") if raw.startswith(b'"') else int(raw)
