"""ms-swift: messages with ``<bbox>`` and ``<ref-object>``, each of which takes the next of its list in ``objects``.

``bbox_type`` is ``real`` (pixels, the default) or ``norm1`` (fractions); two numbers are a point; ``image_id`` (from 0)
says on which of several images a box lies. A ``<ref-object>`` is replaced by its words, which are the caption of boxes
that follow it at once, and the label of all boxes in answers if it is the only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence
from pvit_ext.data.convert.chats import ChatItems, images_named, turns_of, without_boxes
from pvit_ext.data.convert.fields import clean, kept, short
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, boxed_in, numbers, pointed, scaled

_BOXES = r"<bbox>(?:\s*<bbox>)*"
_TAGS = re.compile(rf"<ref-object>(\s*{_BOXES})?|{_BOXES}")
_TYPES = ("real", "norm1")


class MsSwift(ChatItems):
    """See the module."""

    name = "ms_swift"
    about = "ms-swift's JSON Lines: messages, images, and objects with ref and bbox"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Items with messages, and objects or images."""
        keys = set(peek.item)
        if "messages" not in keys:
            return None
        if "objects" in keys:
            return Evidence(0.95, "items with messages and objects")
        return Evidence(0.6, "items with messages and images") if "images" in keys else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of an item with its conversation."""
        placed = []
        for name in images_named(item):
            if (found := self.image_folder.look_up([name], None, location, notes)) is None:
                return
            placed.append(found)
        if not placed:
            notes.drop(Reason.NO_IMAGE, location, "no images")
            return
        objects = kept(item.get("objects") or {}, "objects", dict)
        regions = _regions(objects, [size for _, size in placed], location, notes)
        refs = [clean(kept(one, "a ref", str)) for one in kept(objects.get("ref") or [], "ref", list)]
        turns = _turns(turns_of(item, notes, "messages"), refs, len(regions), notes)
        said = without_boxes(turns, regions, location, notes, str(item.get("id", "")))
        named = tuple(replace(one, label=refs[0]) for one in said.objects) if len(refs) == 1 else said.objects
        yield AnnotatedImage(
            placed[0][0] if len(placed) == 1 else tuple(name for name, _ in placed),
            placed[0][1],
            "",
            named,
            grounded=said.grounded,
            conversations=(said.conversation,) if said.conversation else (),
        )


def _regions(
    objects: Mapping[str, Any], sizes: Sequence[Size | None], location: str, notes: Notes
) -> list[Annotation | Reason]:
    boxes = kept(objects.get("bbox") or [], "bbox", list)
    kind = objects.get("bbox_type") or "real"
    if kind not in _TYPES:
        raise BadItem(f"bbox_type is one of {', '.join(_TYPES)}, got {short(kind)}")
    images = objects.get("image_id") or [0] * len(boxes)
    if len(kept(images, "image_id", list)) != len(boxes):
        raise BadItem(f"image_id is a number for each of {len(boxes)} boxes, got {short(images)}")
    found = []
    for box, image in zip(boxes, images, strict=True):
        if not isinstance(image, int) or not 0 <= image < len(sizes):
            raise BadItem(f"image_id {short(image)} is none of {len(sizes)} images, counted from 0")
        one = _region(box, kind, sizes[image], notes)
        found.append(_on_image(one, image) if image and isinstance(one, Annotation) else one)
    return found


def _region(box: Any, kind: str, size: Size | None, notes: Notes) -> Annotation | Reason:
    if len(kept(box, "a bbox", list)) == 2:
        point = numbers(box, 2, "a bbox of two numbers, a point,")
        if kind == "real":
            return pointed("point", point, size)
        if size is None:
            return Annotation({"point": point, "normalized": True})
        return pointed("point", scaled(point, size), size, of_fractions=True)
    x0, y0, x1, y1 = numbers(box, 4, "a bbox")
    return boxed((x0, y0, x1, y1), size, notes) if kind == "real" else boxed_in(1, (x0, y0, x1, y1), size, notes)


def _on_image(one: Annotation, image: int) -> Annotation:
    """A region of another image than the first; it has no box on the first."""
    spec = one.region if isinstance(one.region, Mapping) else {"box": list(one.region)}
    return replace(one, region={**spec, "image": image}, box=None)


def _turns(texts: Sequence[str], refs: Sequence[str], boxes: int, notes: Notes) -> list[Said]:
    """The turns, in which tags have taken their items."""
    ref = box = 0
    turns = []
    for text in texts:
        marks = []
        for found in _TAGS.finditer(text):
            words = ""
            if found[0].startswith("<ref-object>"):
                if ref == len(refs):
                    raise BadItem(f"more <ref-object> than the {len(refs)} of ref")
                words, ref = refs[ref], ref + 1
            count = found[0].count("<bbox>")
            marks.append(Mark(found.start(), found.end(), tuple(range(box, box + count)), words))
            box += count
        turns.append(Said(text, tuple(marks)))
    if box != boxes:
        raise BadItem(f"{box} <bbox> in the texts, {boxes} in objects.bbox")
    if ref < len(refs):
        notes.count("refs without a <ref-object> in the texts", len(refs) - ref)
    return turns
