"""Boxes with the masks and outlines that sources give beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pvit_ext.data.convert.annotation import Annotation, Box
from pvit_ext.data.convert.fields import kept
from pvit_ext.data.convert.notes import Notes, Reason

_INSIDE, _FILLED = 0.5, 0.1
"""The part of a shape that must lie in its box, and of the box that the shape must reach over."""


def shaped(box: Annotation, shape: Annotation | Reason | None, notes: Notes) -> Annotation:
    """An object with its mask or outline, or its box alone, with a count, where that is of no use or not the box's.

    A shape may be smaller than its box, as the part in sight of a hidden thing is. It may not lie elsewhere, reach far
    beyond, or be a speck.

    Args:
        box: the object as a box, with its fields.
        shape: its mask or outline, why there is none, or None where the source gives none.
        notes: takes the count.
    """
    if shape is None:
        return box
    if isinstance(shape, Reason):
        notes.count("masks or outlines of no use, kept as boxes")
        return box
    if shape.box and box.box and not _fits(shape.box, box.box):
        notes.count("masks or outlines that do not fit their box, kept as boxes")
        return box
    return replace(box, region=shape.region)


def _fits(shape: Box, box: Box) -> bool:
    return shape == box or (_share(shape, box) >= _INSIDE and _share(box, shape) >= _FILLED)


def _share(one: Box, other: Box) -> float:
    """The part of a box that lies in another, or within a pixel of it: masks have whole pixels, boxes may not."""
    width = min(one[2], other[2] + 1) - max(one[0], other[0] - 1)
    height = min(one[3], other[3] + 1) - max(one[1], other[1] - 1)
    return max(width, 0) * max(height, 0) / ((one[2] - one[0]) * (one[3] - one[1]))


def paired(boxes: Any, shapes: Any, names: tuple[str, str], notes: Notes) -> list[tuple[Any, Any]]:
    """Each box with its shape, None where the list of shapes ends before; shapes without a box are counted.

    Args:
        boxes: a list of the source.
        shapes: the list beside it.
        names: of the two, for errors.
        notes: takes the count.

    Raises:
        BadItem: for anything but lists.
    """
    boxes, shapes = kept(boxes, names[0], list), kept(shapes, names[1], list)
    if len(shapes) > len(boxes):
        notes.count("masks or outlines without a box, left out", len(shapes) - len(boxes))
    missing = [None] * (len(boxes) - len(shapes))
    return list(zip(boxes, [*shapes[: len(boxes)], *missing], strict=True))
