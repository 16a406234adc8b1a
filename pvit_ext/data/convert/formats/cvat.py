"""CVAT for images and for video, XML 1.1: continuous pixels from 0.

A box is turned clockwise about its centre. A mask's run lengths go row by row inside its box. Shapes of one label and
``group_id`` with an area are one object. In a track a shape with ``outside`` is not there.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, SourceError
from pvit_ext.data.convert.encode_mask import encode_mask, pasted
from pvit_ext.data.convert.fields import clean, short
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import masked, numbers, outlined, pointed, turned_box, turned_ellipse

_AREAS = ("polygon", "mask")


class Shape(NamedTuple):
    """An element of an image, or of a track in one frame."""

    tag: str
    values: dict[str, str]
    attributes: list[tuple[str, str]]


class Frame(NamedTuple):
    """An image with its shapes.

    Args:
        name: of the image, empty in a video.
        number: id of the image, or frame.
        size: that the file gives.
        shapes: all of them.
        subset: of a project, in whose folder the image lies.
    """

    name: str
    number: str
    size: Size | None
    shapes: list[Shape]
    subset: str = ""


class Cvat(DataFormat):
    """See the module."""

    name = "cvat"
    about = "CVAT for images 1.1 or for video 1.1: annotations.xml"
    closed = True  # whoever labels marks all that is wanted

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.xml = source / "annotations.xml" if source.is_dir() else source
        if not self.xml.is_file():
            raise SourceError(f"{source} holds no annotations.xml, as CVAT exports it")

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """XML with the root ``annotations``."""
        if peek.is_folder:
            return cls.detect(Peek(peek.path / "annotations.xml")) if "annotations.xml" in peek.files else None
        return Evidence(0.95, "an XML root `annotations`") if peek.xml_root == "annotations" else None

    def files(self) -> list[Path]:
        """The XML file."""
        return [self.xml]

    def units(self) -> Iterator[Frame]:
        """Each image, then each frame of the tracks."""
        try:
            yield from self._frames()
        except ET.ParseError as error:
            raise SourceError(f"{self.xml}: not valid XML: {error}; damaged or cut off? export it again") from error

    def _frames(self) -> Iterator[Frame]:
        tracks: dict[int, dict[str, list[Shape]]] = {}
        sizes: dict[str, Size | None] = {}
        size, depth = None, 0
        for event, element in ET.iterparse(self.xml, ("start", "end")):
            depth += 1 if event == "start" else -1
            if event == "start":
                continue
            if element.tag == "original_size":
                size = _size(element.findtext("width"), element.findtext("height"))
            elif element.tag == "task":
                found = (element.findtext(f"original_size/{side}") for side in ("width", "height"))
                sizes[element.findtext("id") or ""] = _size(*found)
            elif element.tag == "image" and depth == 1:
                values = element.attrib
                yield Frame(
                    values.get("name", ""),
                    values.get("id", ""),
                    _size(values.get("width"), values.get("height")),
                    [_shape(child, child.attrib) for child in element],
                    values.get("subset", ""),
                )
                element.clear()
            elif element.tag == "track" and depth == 1:
                for child in element:
                    frame, shape = self._tracked(element, child)
                    tracks.setdefault(frame, {}).setdefault(element.get("task_id", ""), []).append(shape)
                element.clear()
        for number, by_task in sorted(tracks.items()):
            if len(by_task) > 1:
                raise SourceError(
                    f"{self.xml}: frame {number} is of the tasks {', '.join(sorted(by_task))}, whose images bear one "
                    "name: it is the export of a project; export each task alone"
                )
            ((task, shapes),) = by_task.items()
            yield Frame("", str(number), sizes.get(task, size), shapes)

    def _tracked(self, track: ET.Element, shape: ET.Element) -> tuple[int, Shape]:
        """The frame of a track's shape, and the shape."""
        merged = {"label": track.get("label", ""), "track": track.get("id", ""), **shape.attrib}
        if not (frame := merged.get("frame", "")).isdecimal():
            raise SourceError(f"{self.xml}: track {merged['track']}: frame is a whole number, got {short(frame)}")
        return int(frame), _shape(shape, merged)

    def read(self, unit: Frame, notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        location = f"{self.xml.name} {unit.name or f'frame {unit.number}'}"
        names = [unit.name] if unit.name else _frame_names(int(unit.number))
        if unit.name and unit.subset and self.image_folder.opened:  # other subsets may have the same name
            names = [f"{unit.subset}/{unit.name}", unit.name]
        if (found := self.image_folder.look_up(names, unit.size, location, notes, len(unit.shapes))) is None:
            return
        objects = list(self._objects(unit, found[1], location, notes))
        yield AnnotatedImage(found[0], found[1], unit.number, tuple(objects))

    def _objects(self, unit: Frame, size: Size | None, location: str, notes: Notes) -> Iterator[Annotation]:
        groups: dict[Any, list[Shape]] = {}
        for number, shape in enumerate(unit.shapes):
            group = shape.values.get("group_id", "0")
            joined = group not in ("", "0") and shape.tag in _AREAS
            groups.setdefault((shape.values.get("label"), group) if joined else number, []).append(shape)
        for number, members in enumerate(groups.values()):
            own_location = f"{location} {members[0].tag} {number}"
            try:
                found = _object(members, size, notes)
            except BadItem as error:
                notes.bad(own_location, str(error))
                continue
            if isinstance(found, Reason):
                notes.drop(found, own_location, short(members[0].values.get("label")), len(members))
            else:
                yield found


def _shape(element: ET.Element, values: Mapping[str, str]) -> Shape:
    attributes = [(one.get("name", ""), clean(one.text)) for one in element.findall("attribute")]
    return Shape(element.tag, dict(values), attributes)


def _size(width: str | None, height: str | None) -> Size | None:
    """The size that the file gives; None for none, or 0."""
    sides = [int(side) if side and side.isdecimal() else 0 for side in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def _frame_names(number: int) -> list[str]:
    return [f"frame_{number:06d}{suffix}" for suffix in (".PNG", ".png", ".jpg", ".JPG")]


def _object(members: Sequence[Shape], size: Size | None, notes: Notes) -> Annotation | Reason:
    first = members[0]
    if first.values.get("outside") == "1":
        return Reason.HIDDEN
    texts = [
        name if text == "true" else f"{name} {text}" for name, text in first.attributes if text and text != "false"
    ]
    occluded = ["occluded"] if any(one.values.get("occluded") == "1" for one in members) else []
    fields: dict[str, Any] = {
        "label": clean(first.values.get("label")),
        "attributes": (*texts, *occluded),
        "id": first.values.get("track", ""),
    }
    if any(one.tag == "mask" for one in members):
        return _masked(members, size, fields)
    if first.tag == "polygon":
        return outlined([_points(one) for one in members], size, notes, **fields)
    if first.tag == "box":
        x0, y0, x1, y1 = _numbers(first, "xtl", "ytl", "xbr", "ybr")
        if x1 <= x0 or y1 <= y0:
            return Reason.DEGENERATE
        return turned_box((x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2), _angle(first), size, notes, **fields)
    if first.tag == "ellipse":
        x, y, rx, ry = _numbers(first, "cx", "cy", "rx", "ry")
        return turned_ellipse((x, y), (rx, ry), _angle(first), size, notes, **fields)
    if first.tag in ("polyline", "points"):
        points = _points(first)
        if first.tag == "polyline":
            pairs = list(zip(points[::2], points[1::2], strict=True))
            return pointed("scribble", [list(pair) for pair in pairs], size, **fields)
        return pointed("point", points, size, **fields) if len(points) == 2 else Reason.NOT_A_REGION
    if first.tag in ("tag", "cuboid", "skeleton"):
        return Reason.NOT_A_REGION
    raise BadItem(f"<{first.tag}> is no shape of CVAT 1.1")


def _masked(members: Sequence[Shape], size: Size | None, fields: Mapping[str, Any]) -> Annotation | Reason:
    if size is None:
        raise BadItem("a mask needs the image's size; neither the file nor the image gives it")
    pixels = np.zeros((size[1], size[0]), bool)
    for one in members:
        if one.tag != "mask":
            return Reason.NOT_A_REGION
        x, y, width, height = (int(value) for value in _numbers(one, "left", "top", "width", "height"))
        pixels |= pasted(_rows(one.values.get("rle", ""), width, height), (x, y), size)
    return masked(encode_mask(pixels), size, **fields)


def _rows(text: str, width: int, height: int) -> NDArray[np.bool_]:
    """A mask from counts row by row, background first; bool (height, width)."""
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise BadItem(f"rle is counts with commas, got {short(text)}") from error
    if sum(counts) != width * height or min(counts) < 0 or width < 1 or height < 1:
        raise BadItem(f"rle counts sum to {sum(counts)}, the mask is {width}x{height}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


def _points(shape: Shape) -> list[float]:
    text = shape.values.get("points", "")
    try:
        pairs = [[float(word) for word in pair.split(",")] for pair in text.split(";")]
        return [value for pair in pairs for value in numbers(pair, 2, "a point")]
    except ValueError as error:
        raise BadItem(f"points is x,y;x,y;..., got {short(text)}") from error


def _numbers(shape: Shape, *names: str) -> list[float]:
    texts = [shape.values.get(name) for name in names]
    try:
        return numbers([float(text or "none") for text in texts], len(names), ", ".join(names))
    except ValueError as error:
        raise BadItem(f"<{shape.tag}> has numbers {', '.join(names)}, got {short(texts)}") from error


def _angle(shape: Shape) -> float:
    return _numbers(shape, "rotation")[0] if shape.values.get("rotation") else 0.0
