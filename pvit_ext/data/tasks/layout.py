"""What boxes say about objects: which of several is leftmost, highest, largest, and which are the same thing twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pvit_ext.data.convert.annotation import AnnotatedImage, Box, Size

_GAP = 0.05
"""The part of the image's side by which the first must be ahead of the second."""
_RATIO = 1.5
"""How much larger the largest must be than the second."""


class Fact(NamedTuple):
    """What is true of one object of several, and of no other.

    Args:
        words: as the end of "Which of them ...".
        winner: its number among the several.
    """

    words: str
    winner: int


def layout_facts(boxes: Sequence[Box], size: Size | None) -> list[Fact]:
    """What sets one of several boxes apart, with a clear margin.

    Args:
        boxes: two or more.
        size: of the image; without it nothing is said about positions.
    """
    facts = []
    if size is not None:
        for axis, low, high in (
            (0, "is farthest to the left", "is farthest to the right"),
            (1, "is highest up in the image", "is lowest in the image"),
        ):
            centres = [(box[axis] + box[axis + 2]) / 2 for box in boxes]
            facts += [Fact(low, one) for one in _ahead([-value for value in centres], _GAP * size[axis])]
            facts += [Fact(high, one) for one in _ahead(centres, _GAP * size[axis])]
    areas = [area(box) for box in boxes]
    order = sorted(range(len(boxes)), key=areas.__getitem__)
    if areas[order[-1]] >= _RATIO * areas[order[-2]]:
        facts.append(Fact("takes up most of the image", order[-1]))
    if areas[order[1]] >= _RATIO * areas[order[0]]:
        facts.append(Fact("takes up least of the image", order[0]))
    return facts


def _ahead(values: Sequence[float], gap: float) -> list[int]:
    """The number of the greatest value, if it is ahead of all others by a gap."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order[-1]] if values[order[-1]] - values[order[-2]] >= gap else []


def area(box: Box) -> float:
    """The area of a box in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(one: Box, other: Box) -> float:
    """The intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / (area(one) + area(other) - common)


def distinct(image: AnnotatedImage, indices: Sequence[int], limit: int) -> list[int]:
    """The first objects with a box of which none is another's double, such as one that two people marked."""
    found: list[int] = []
    for index in indices:
        box = image.objects[index].box
        doubles = (overlap(box, other) > 0.7 for one in found if (other := image.objects[one].box) and box)
        if box is not None and not any(doubles) and len(found) < limit:
            found.append(index)
    return found


def boxes_of(image: AnnotatedImage, indices: Sequence[int]) -> list[Box]:
    """The boxes of objects that have one."""
    return [box for index in indices if (box := image.objects[index].box) is not None]
