"""LabelMe (labelmeai): a JSON file of shapes for each image, in pixels of the upright image.

Shapes of one label and ``group_id`` are one object, with the flags and descriptions of all. A rectangle has two corners
in any order, a circle its centre and a point of its edge, a mask a PNG of its box alone, whose two points are its first
and last pixel. A point is a point, a line or linestrip a stroke.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.encode_mask import encode_mask, pasted
from pvit_ext.data.convert.fields import clean, declared_size, kept, short, take
from pvit_ext.data.convert.file_items import FileItems, files_in
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, ellipse, masked, numbers, outlined, pointed
from pvit_ext.files import read_text

Points = list[tuple[float, float]]


class LabelMe(FileItems):
    """See the module."""

    name = "labelme"
    about = "LabelMe: a folder of JSON files, or one"
    closed = True  # whoever labels marks all that is wanted

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A JSON object with shapes and imagePath, or a folder of them."""
        if not peek.is_folder:
            return (
                Evidence(0.95, "the keys shapes and imagePath")
                if {"shapes", "imagePath"} <= set(peek.sections)
                else None
            )
        first = next((name for name in peek.files if name.endswith(".json")), None)
        if first is None or (inside := cls.detect(Peek(peek.path / first))) is None:
            return None
        return Evidence(0.9, f"JSON files with {inside.why}, such as {first}")

    def list_files(self) -> list[Path]:
        """All JSON files."""
        return files_in(self.source, ".json", "JSON")

    def images(self, unit: Path, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a file."""
        item = self._item(unit)
        shapes = take(item, "shapes", list)
        declared = declared_size(item, "imageWidth", "imageHeight")
        path = take(item, "imagePath", str).replace("\\", "/")
        suffix = Path(path).suffix
        names = [*self.image_folder.inside(unit.parent / path), path, f"{unit.stem}{suffix}", path.rsplit("/", 1)[-1]]
        if (found := self.image_folder.look_up(names, declared, unit.name, notes, len(shapes))) is None:
            return
        name, size = found
        if flags := _flags(item):
            notes.count("flags of images, left out", len(flags))
        inside = unit.relative_to(self.source) if self.source.is_dir() else Path(unit.name)
        objects = list(self._objects(shapes, unit.name, size, notes))
        yield AnnotatedImage(name, size, inside.with_suffix("").as_posix(), tuple(objects))

    def _item(self, unit: Path) -> dict[str, Any]:
        try:
            item: dict[str, Any] = kept(json.loads(read_text(unit)), "the file", dict)
            if "shapes" not in item:
                raise BadItem(f"expected LabelMe's keys shapes and imagePath, got {short(sorted(item))}")
        except (ValueError, RecursionError) as error:
            raise BadItem(f"not LabelMe's JSON: {error}") from error
        return item

    def _objects(self, shapes: Sequence[Any], name: str, size: Size | None, notes: Notes) -> Iterator[Annotation]:
        groups: dict[Any, list[tuple[int, Mapping[str, Any]]]] = {}
        for number, shape in enumerate(shapes):
            if not isinstance(shape, Mapping):
                notes.bad(f"{name} shapes[{number}]", f"expected an object, got {short(shape)}")
                continue
            group = shape.get("group_id")
            key = (shape.get("label"), group) if group is not None else ("", number)
            groups.setdefault(repr(key), []).append((number, shape))
        for members in groups.values():
            location = f"{name} shapes[{members[0][0]}]"
            try:
                found = self._object([shape for _, shape in members], size, notes, str(members[0][0]))
            except BadItem as error:
                notes.bad(location, str(error))
                continue
            if isinstance(found, Reason):
                notes.drop(found, location, short(members[0][1].get("shape_type")), len(members))
            else:
                yield found

    def _object(
        self, members: list[Mapping[str, Any]], size: Size | None, notes: Notes, number: str
    ) -> Annotation | Reason:
        texts = [text for member in members if (text := clean(member.get("description")))]
        fields: dict[str, Any] = {
            "label": clean(take(members[0], "label", str)),
            "captions": tuple(dict.fromkeys(texts)),
            "attributes": tuple(dict.fromkeys(flag for member in members for flag in _flags(member))),
            "id": number,
        }
        if len(members) == 1:
            return _shape(members[0], size, notes, fields)
        if any(member.get("shape_type") == "mask" for member in members):
            return _joined(members, size, notes, fields)
        outlines = [_outline(member) for member in members]
        if any(outline is None for outline in outlines):
            return Reason.NOT_A_REGION
        return outlined([outline for outline in outlines if outline], size, notes, **fields)


def _flags(item: Mapping[str, Any]) -> list[str]:
    """The flags that are set."""
    flags = item.get("flags")
    return [clean(key) for key, value in flags.items() if value] if isinstance(flags, dict) else []


def _points(shape: Mapping[str, Any], count: int | None) -> Points:
    """The points of a shape, as many as it needs."""
    values = take(shape, "points", list)
    points = [numbers(point, 2, "a point") for point in values]
    if (count is not None and len(points) != count) or not points:
        raise BadItem(f"a {shape.get('shape_type')} has {count or 'some'} points, got {short(values)}")
    return [(x, y) for x, y in points]


def _outline(shape: Mapping[str, Any]) -> list[float] | None:
    """The outline of a shape with an area, as x, y, x, y, ...; None for one without."""
    kind = shape.get("shape_type") or "polygon"
    if kind in ("polygon", "oriented_rectangle"):
        return [value for point in _points(shape, 4 if kind == "oriented_rectangle" else None) for value in point]
    if kind == "rectangle":
        (x0, y0), (x1, y1) = _points(shape, 2)
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if kind == "circle":
        centre, edge = _points(shape, 2)
        radius = math.dist(centre, edge)
        return ellipse(centre, (radius, radius))
    return None


def _shape(shape: Mapping[str, Any], size: Size | None, notes: Notes, fields: Mapping[str, Any]) -> Annotation | Reason:
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle":
        (x0, y0), (x1, y1) = _points(shape, 2)
        return boxed((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), size, notes, **fields)
    if (outline := _outline(shape)) is not None:
        return outlined([outline], size, notes, **fields)
    if kind == "mask":
        return _joined([shape], size, notes, fields)
    if kind == "point":
        return pointed("point", list(_points(shape, 1)[0]), size, **fields)
    if kind in ("line", "linestrip"):
        return pointed("scribble", [list(point) for point in _points(shape, None)], size, **fields)
    if kind == "points":
        return Reason.NOT_A_REGION
    raise BadItem(f"shape_type {short(kind)} is none of LabelMe's")


def _joined(
    members: Sequence[Mapping[str, Any]], size: Size | None, notes: Notes, fields: Mapping[str, Any]
) -> Annotation | Reason:
    """Masks of one object as one."""
    if size is None:
        raise BadItem("a mask needs the image's size; neither the file nor the image gives it")
    pixels = np.zeros((size[1], size[0]), bool)
    for shape in members:
        if shape.get("shape_type") != "mask":
            return Reason.NOT_A_REGION
        (x0, y0), (x1, y1) = _points(shape, 2)
        try:
            with Image.open(io.BytesIO(base64.b64decode(take(shape, "mask", str), validate=True))) as image:
                part = np.asarray(image.convert("L")) > 0
        except (binascii.Error, OSError, ValueError) as error:
            raise BadItem(f"mask is no PNG in base64: {error}") from error
        if part.shape != (round(y1 - y0) + 1, round(x1 - x0) + 1):
            raise BadItem(
                f"mask is {part.shape[1]}x{part.shape[0]}, its points {short([(x0, y0), (x1, y1)])} say another size"
            )
        pixels |= pasted(part, (round(x0), round(y0)), size)
    return masked(encode_mask(pixels), size, **fields)
