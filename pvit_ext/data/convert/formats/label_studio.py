"""Label Studio: the JSON export, and JSON-MIN; numbers are percent of the image's sides.

Of a task's annotations the last that was not cancelled is taken (``annotator`` chooses another person's). A rectangle
is turned clockwise about its upper left corner. Results share the id of the region that they are about: labels name it,
a text is its caption, choices are its attributes. A relation between two regions is kept, in its direction. Of a task
with several images, or an image of several pages, one is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Relation, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting
from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.data.convert.fields import clean, declared_size, kept, short, take
from pvit_ext.data.convert.formats.label_studio_brush import decode_brush
from pvit_ext.data.convert.formats.label_studio_min import NOT_READ, flat_results, is_by, rows_left_out
from pvit_ext.data.convert.formats.label_studio_task import KINDS, image_key, names_of, of_image, shapes_of
from pvit_ext.data.convert.json_items import JsonItems, Unit
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import masked, numbers, outlined, pointed, scaled, turned_box, turned_ellipse

_ABOUT = ("labels", "textarea", "choices", "rating", "number")
"""Kinds of results that are no regions, but about one, or about the image."""
_UNREAD = ("rating", "number")


@dataclass
class _About:
    """What results say about a region.

    Args:
        labels: its names.
        texts: about it, or written in it.
        choices: that fit it.
    """

    labels: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


class LabelStudio(JsonItems):
    """See the module."""

    name = "label_studio"
    about = "Label Studio: the JSON export or JSON-MIN"
    closed = True  # whoever labels marks all that is wanted
    settings: ClassVar[Mapping[str, Setting]] = {
        "annotator": Setting("", "take this annotator's annotation, by number or address (completed_by)"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.left_out: frozenset[int] = frozenset()
        """Where rows of JSON-MIN begin that are not taken."""

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A list of tasks with data and annotations, or flat ones with an annotation_id."""
        item = peek.item
        if isinstance(item.get("data"), dict) and isinstance(item.get("annotations"), list):
            return Evidence(0.95, "tasks with data and annotations")
        if "annotation_id" in item and "annotator" in item:
            return Evidence(0.9, "tasks with annotation_id and annotator (JSON-MIN)")
        return None

    def units(self) -> Iterator[Unit]:
        """Each task, or row."""
        self.left_out = frozenset(rows_left_out(self._rows(), self.chosen["annotator"]))
        yield from super().units()

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows of JSON-MIN, and where each begins; damaged ones are noted where they are read."""
        for start, end in zip(self.section.starts, self.section.ends, strict=True):
            try:
                item = self.buffer.load(start, end)
            except BadItem:
                continue
            if isinstance(item, dict) and "annotations" in item:
                return  # the full export
            if isinstance(item, dict):
                yield start, item

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a task; of several rows of one, that of the newest."""
        if unit[0] in self.left_out:
            item = self.buffer.load(unit[0], unit[1])
            location, count = f"{self.source.name} task {item.get('id')}", len(flat_results(item, (), Notes()))
            notes.drop(Reason.CANCELLED, location, f"annotation {item.get('annotation_id')}", count or 1)
            return
        yield from super().read(unit, notes)

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a task."""
        location = f"{self.source.name} task {item.get('id')}"
        full = "annotations" in item
        data = kept(item.get("data", item), "data", dict) if full else item
        results: Sequence[Any] | None = self._results(item, location, notes) if full else []
        if results is None:
            return
        key = image_key(data, results)
        if key is None:
            raise BadItem(f"no image among {short(sorted(map(str, data)))}; expected data.image", location)
        results = of_image(results, data, key, location, notes) if full else flat_results(item, (key,), notes)
        names, declared = names_of(data[key], item), _declared(results)
        found = self.image_folder.look_up(names, declared, location, notes, len(results), in_pixels=False)
        if found is None:
            return
        objects, indices = self._objects(results, found[1], location, notes)
        relations = tuple(_relations(results, indices, notes))
        yield AnnotatedImage(found[0], found[1], str(item.get("id")), tuple(objects), relations=relations)

    def _results(self, item: Mapping[str, Any], location: str, notes: Notes) -> list[Any] | None:
        """The results of one annotation; the others are noted."""
        wanted = self.chosen["annotator"]
        annotations = [kept(one, "an annotation", dict) for one in take(item, "annotations", list)]
        if not annotations:
            notes.drop(Reason.NO_LABELS, location, "no annotation")
        usable = [one for one in annotations if not one.get("was_cancelled") and is_by(one.get("completed_by"), wanted)]
        for one in annotations:
            if one is not (usable[-1] if usable else None):
                notes.drop(Reason.CANCELLED, location, f"annotation {one.get('id')}", len(one.get("result") or []) or 1)
        return take(usable[-1], "result", list) if usable else None

    def _objects(
        self, results: Sequence[Any], size: Size | None, location: str, notes: Notes
    ) -> tuple[list[Annotation], dict[str, int]]:
        objects: list[Annotation] = []
        indices: dict[str, int] = {}
        about, regions = _about(results), 0
        ids = {str(result.get("id")) for result in shapes_of(results)}
        for number, result in enumerate(results):
            own_location = f"{location} result {number}"
            try:
                kind = take(result, "type", str)
                if kind in _ABOUT or kind == "relation":
                    if kind in _UNREAD and str(result.get("id")) in ids:
                        notes.count(NOT_READ)
                    continue
                regions += str(result.get("id")) in about
                found = _region(kind, result, size, about, notes) if kind in KINDS else Reason.NOT_A_REGION
            except BadItem as error:
                notes.bad(own_location, str(error))
                continue
            if isinstance(found, Reason):
                notes.drop(found, own_location, short(result.get("type")))
                continue
            indices[str(result.get("id", number))] = len(objects)
            objects.append(found)
        if len(about) > regions:
            notes.count("answers about the image, left out", len(about) - regions)
        return objects, indices


def _region(
    kind: str, result: Mapping[str, Any], size: Size | None, about: Mapping[str, _About], notes: Notes
) -> Annotation | Reason:
    value = take(result, "value", dict)
    if result.get("image_rotation"):
        raise BadItem(f"image_rotation {short(result['image_rotation'])}: turn the image itself, then label it")
    if size is None:
        raise BadItem("percent needs the image's size; neither the task nor the image gives it")
    name = str(result.get("id", ""))
    said = about.get(name, _About())
    labels = value.get(kind) or value.get("labels") or said.labels
    names = [clean(one) for one in kept(labels, "labels", list)]
    fields: dict[str, Any] = {
        "label": names[0] if names else "",
        "attributes": (*names[1:], *said.choices),
        "captions": tuple(said.texts),
        "id": name,
    }
    shape = kind.removesuffix("labels")
    if shape == "polygon":
        points = [value for point in take(value, "points", list) for value in numbers(point, 2, "a point")]
        return outlined([scaled(points, size, 100)], size, notes, of_fractions=True, **fields)
    if shape == "brush":
        if value.get("format") != "rle":
            raise BadItem(f"a brush of format {short(value.get('format'))}; expected rle")
        return masked(encode_mask(decode_brush(take(value, "rle", list), size)), size, **fields)
    x, y = scaled(numbers([value.get("x"), value.get("y")], 2, "x, y"), size, 100)
    if shape == "keypoint":
        return pointed("point", [x, y], size, of_fractions=True, **fields)
    angle = numbers([value.get("rotation") or 0], 1, "rotation")[0]
    if shape == "ellipse":
        radii = scaled(numbers([value.get("radiusX"), value.get("radiusY")], 2, "radiusX, radiusY"), size, 100)
        return turned_ellipse((x, y), (radii[0], radii[1]), angle, size, notes, of_fractions=True, **fields)
    width, height = scaled(numbers([value.get("width"), value.get("height")], 2, "width, height"), size, 100)
    return turned_box((x, y, x + width, y + height), (x, y), angle, size, notes, of_fractions=True, **fields)


def _declared(results: Sequence[Any]) -> tuple[Any, Any] | None:
    """The size that the first result with one gives; numbers are percent of whatever size the image has."""
    sizes = (declared_size(one, "original_width", "original_height") for one in results if isinstance(one, Mapping))
    return next((size for size in sizes if size), None)


def _about(results: Sequence[Any]) -> dict[str, _About]:
    """What results that are no regions say, by the id that they share with what they are about."""
    found: dict[str, _About] = {}
    for one in results:
        if not isinstance(one, Mapping) or one.get("type") not in _ABOUT or not isinstance(one.get("value"), Mapping):
            continue
        said, value = found.setdefault(str(one.get("id")), _About()), one["value"]
        for key, texts in (("labels", said.labels), ("text", said.texts), ("choices", said.choices)):
            words = value.get(key) or []
            joined = [" ".join(map(str, words))] if key == "text" and isinstance(words, list) else words
            texts += [text for word in ([joined] if isinstance(joined, str) else joined) if (text := clean(word))]
    return found


def _relations(results: Sequence[Any], indices: Mapping[str, int], notes: Notes) -> Iterator[Relation]:
    for one in results:
        if not isinstance(one, Mapping) or one.get("type") != "relation":
            continue
        ends = [indices.get(str(one.get(key))) for key in ("from_id", "to_id")]
        labels = [clean(label) for label in one.get("labels") or []]
        if not labels or ends[0] is None or ends[1] is None:
            notes.count("relations without a label, or of a region that was left out")
            continue
        if one.get("direction") != "left":
            yield Relation(ends[0], labels[0], ends[1])
        if one.get("direction") in ("left", "bi"):
            yield Relation(ends[1], labels[0], ends[0])
