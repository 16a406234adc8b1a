"""``bbox`` and ``segmentation`` of COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvit_ext.data.convert.annotation import Annotation, Box, Size
from pvit_ext.data.convert.fields import kept, take
from pvit_ext.data.convert.formats.coco_attributes import rotation_of
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.shaped import shaped
from pvit_ext.data.convert.shapes import boxed, masked, numbers, outlined, turned_box, xywh
from pvit_ext.data.tasks.layout import overlap

_APART = 0.5
"""The overlap below which a bbox cannot be that of its segmentation."""


def object_of(
    item: Mapping[str, Any], size: Size | None, notes: Notes, fields: Mapping[str, Any]
) -> Annotation | Reason:
    """The object that an annotation marks, or why there is none.

    Args:
        item: with ``bbox``, ``segmentation`` or both.
        size: of the image, None if unknown.
        notes: counts what is changed.
        fields: of the annotation.

    Raises:
        BadItem: for values that break COCO's rules.
    """
    shapes = item.get("segmentation")
    if "bbox" not in item:
        return shape_of(shapes, size, notes, **fields) or Reason.DEGENERATE
    values = numbers(take(item, "bbox", list), 4, "bbox")
    degrees = rotation_of(item.get("attributes"))
    if degrees and shapes:
        notes.count("rotations beside a mask or outline, not applied")
    box = _turned(values, degrees, size, notes, fields) if degrees and not shapes else None
    box = box or boxed(xywh(values), size, notes, **fields)
    if isinstance(box, Reason):
        return box
    shape = shape_of(shapes, size, notes)
    if isinstance(shape, Annotation) and shape.box and shape.box != box.box and _are_corners(values, shape.box):
        problem = f"bbox {values} is x0, y0, x1, y1, as its segmentation shows; COCO's is x, y, width, height"
        raise BadItem(f"{problem}: write all of them so")
    return shaped(box, shape, notes)


def shape_of(value: Any, size: Size | None, notes: Notes, **fields: Any) -> Annotation | Reason | None:
    """The object of a ``segmentation``, run lengths or polygons; why there is none, None where nothing is given.

    Raises:
        BadItem: for anything else.
    """
    if not value:
        return None
    if isinstance(value, dict):
        return masked(value, size, **fields)
    parts = [numbers(part, None, "a polygon of segmentation") for part in kept(value, "segmentation", list)]
    return outlined(parts, size, notes, **fields)


def _turned(
    values: Sequence[float], degrees: float, size: Size | None, notes: Notes, fields: Mapping[str, Any]
) -> Annotation | Reason:
    """The object that CVAT's users turned: it writes the box as it was before."""
    x, y, width, height = values
    notes.count("boxes turned by their rotation")
    return turned_box(xywh(values), (x + width / 2, y + height / 2), degrees, size, notes, **fields)


def _are_corners(values: Sequence[float], around: Box) -> bool:
    """Whether a bbox is surely two corners: read so it is that of its shape, read as COCO's it is far from it."""
    read_so = all(abs(one - other) <= 1 for one, other in zip(values, around, strict=True))
    return read_so and overlap(xywh(values), around) < _APART
