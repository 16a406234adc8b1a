"""Boxes in answers: found, brought to pixels, and compared."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region, Size
from pvit_ext.regions.view import View

SCALES = ("auto", "fraction", "thousand", "pixel", "padded")
_NUMBER = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_PATTERNS = (
    re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]"),
    re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"),
    re.compile(r"<L(\d{1,4})>\s*<L(\d{1,4})>\s*<L(\d{1,4})>\s*<L(\d{1,4})>"),
)


def find_boxes(text: str) -> list[Box]:
    """The boxes of an answer in the order in which they stand, as they are written.

    Args:
        text: with ``[a, b, c, d]``, ``(a, b, c, d)``, ``(a,b),(c,d)`` or ``<L1><L2><L3><L4>``.
    """
    found = [match for pattern in _PATTERNS for match in pattern.finditer(text)]
    numbers = [[float(value) for value in match.groups()] for match in sorted(found, key=lambda one: one.start())]
    return [(a, b, c, d) for a, b, c, d in numbers if all(map(math.isfinite, (a, b, c, d)))]  # 1e999 is no place


def to_pixels(box: Box, size: Size, scale: str) -> Box:
    """A box as it is written, in pixels.

    Args:
        box: as :func:`find_boxes` gives it.
        size: (width, height) of the upright image.
        scale: ``fraction`` of the image, ``thousand`` for thousandths, ``pixel``, ``padded`` for fractions of the
            square around the image, or ``auto``: fractions where no number is above 1, else thousandths.
    """
    if scale == "auto":
        scale = "fraction" if max(map(abs, box)) <= 1 else "thousand"
    if scale == "pixel":
        return box
    if scale == "padded":
        view = View.pad_to_square(size)
        x0, y0, x1, y1 = (value * view.size[k % 2] - view.shift[k % 2] for k, value in enumerate(box))
    else:
        part = 1.0 if scale == "fraction" else 1000.0
        x0, y0, x1, y1 = (value / part * size[k % 2] for k, value in enumerate(box))
    return x0, y0, x1, y1


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes in one space; 0 for an inverted or empty one."""
    sides = [(min(first[2 + k], second[2 + k]) - max(first[k], second[k])) for k in (0, 1)]
    common = max(sides[0], 0.0) * max(sides[1], 0.0)
    areas = [max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (first, second)]
    return common / (sum(areas) - common) if common and min(areas) > 0 else 0.0


def drawable(boxes: Sequence[Box | None], size: Size) -> list[Region]:
    """The boxes that can be drawn on an image, clipped to it."""
    found = []
    for box in boxes:
        if box is not None:
            x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
            x1, y1 = min(box[2], size[0]), min(box[3], size[1])
            if x1 - x0 >= 1 and y1 - y0 >= 1:
                found.append(Region.box(x0, y0, x1, y1))
    return found
