"""COCO: instances, captions, and the many files of others in its layout.

``bbox`` is x, y, width, height in pixels from 0, and continuous; ``segmentation`` is polygons or run lengths. Crowds
are left out. Images and annotations stand in any order: the file is scanned once for their positions, and each image's
annotations are read where they lie, so that a file of any size takes little memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, is_set, kept, short, take
from pvit_ext.data.convert.formats.coco_attributes import attributes_of
from pvit_ext.data.convert.formats.coco_shapes import object_of
from pvit_ext.data.convert.formats.coco_tables import (
    captions_by_image,
    entries_by_id,
    image_ids,
    is_of_image,
    rows_by_id,
)
from pvit_ext.data.convert.json_buffer import JsonBuffer, Section
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.summary import counted

_ABOVE = "the same entry stands above"
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
        self.captions: dict[int | str, list[str]] = {}
        self._strangers = self._of_regions = 0
        self._again: set[int] = set()  # where entries of images begin that say an earlier one again

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
        """What of the file of captions is not used."""
        found = []
        if self._strangers:
            strangers = counted(self._strangers, "image")
            found.append(f"{self.name}: captions of {strangers} that {self.source.name} does not list are not used")
        if self._of_regions:
            regions, name = counted(self._of_regions, "region"), Path(self.chosen["captions"]).name
            found.append(f"{self.name}: captions of {regions} in {name} are not used: they are not of images")
        return found

    def total(self) -> int:
        """The number of images."""
        return len(self.sections["images"].starts)

    def units(self) -> Iterator[Unit | tuple[None, list[Span]]]:
        """Each image with its annotations; at last, those of images that are not listed, and doubled entries."""
        self._read_tables()
        images, annotations = self.sections["images"], self.sections["annotations"]
        rows, order, bounds = self._by_image(images, annotations)
        for number in range(len(images.starts)):
            if images.starts[number] in self._again:
                continue
            mine = order[bounds[number] : bounds[number + 1]]
            spans = [(annotations.starts[one], annotations.ends[one]) for one in mine]
            yield (images.starts[number], images.ends[number]), spans
        strays = [(annotations.starts[one], annotations.ends[one]) for one in np.flatnonzero(rows < 0)]
        strays += [span for span in zip(images.starts, images.ends, strict=True) if span[0] in self._again]
        if strays:
            yield None, strays

    def _read_tables(self) -> None:
        """Categories by id, and captions of a second file by image id."""
        self.categories = entries_by_id(self.buffer, self.sections.get("categories"), "category")
        if captions := self.chosen.get("captions"):
            self.captions, self._of_regions = captions_by_image(Path(captions))

    def _by_image(
        self, images: Section, annotations: Section
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row of each annotation's image (-1 for none), annotations sorted by image, and where each image's begin."""
        known, again = rows_by_id(self.buffer, images)
        self._again = {images.starts[row] for row in again}
        self._strangers = len(self.captions.keys() - known.keys())
        row = array("q", (-1 if key is None else known.get(key, -1) for key in image_ids(self.buffer, annotations)))
        rows = np.frombuffer(row, np.int64) if row else np.zeros(0, np.int64)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(len(images.starts) + 1))
        return rows, order, bounds

    def read(self, unit: Unit | tuple[None, list[Span]], notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        image_span, spans = unit
        if image_span is None:
            for start, end in spans:
                item = self._annotation(start, end, notes)
                if item is not None and start in self._again:
                    notes.drop(Reason.DUPLICATE, f"{self.source.name} image {item.get('id')}", _ABOVE)
                elif item is not None:
                    problem = f"image_id {short(item.get('image_id'))} is no id of 'images'"
                    notes.bad(self._location(item), problem)
            return
        image = self.buffer.load(*image_span)
        location = f"{self.source.name} image {image.get('id')}"
        pairs = list(self._annotations(spans, notes))
        found = self.image_folder.look_up(self.names(image), self._size(image), location, notes, len(pairs))
        if found is None:
            return
        name, size = found
        captions = [clean(item["caption"]) for item, _ in pairs if is_of_image(item)]
        regions = [(item, start) for item, start in pairs if not is_of_image(item)]
        objects = [one for item, start in regions if (one := self._object(item, start, image, size, notes)) is not None]
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

    def _annotations(self, spans: Sequence[Span], notes: Notes) -> Iterator[tuple[dict[str, Any], int]]:
        """An image's annotations and where they begin, without those that stand there a second time."""
        seen: dict[str, dict[str, Any]] = {}
        for start, end in spans:
            if (item := self._annotation(start, end, notes)) is None:
                continue
            if "id" in item and (first := seen.setdefault(str(item["id"]), item)) is not item and first == item:
                notes.drop(Reason.DUPLICATE, self._location(item), _ABOVE)
            else:
                yield item, start

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
            found = Reason.CROWD if is_set(item, "iscrowd") else self.region(item, size, notes)
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
        label = self.label(category)
        fields: dict[str, Any] = {
            "label": label,
            "captions": (text,) if (text := clean(item.get("caption"))) else (),
            "attributes": attributes_of(item.get("attributes"), notes),
            "id": str(item.get("id", "")),
            "category": name if label and (name := category.get("name", "")) != label else "",
        }
        return object_of(item, size, notes, fields)
