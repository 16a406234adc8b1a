"""The forms in which people write a polygon: one list of points, several, or COCO's flat numbers."""

from __future__ import annotations

from typing import Any

import numpy as np


def polygon_parts(points: Any) -> list[Any]:
    """The parts of a polygon, each a list of (x, y), from any of its three forms; other input is returned as it is."""
    if not _lists(points) or all(len(one) == 2 and not _lists(one) for one in points):
        return [points]
    if all(_lists(one) for one in points):
        return list(points)
    if all(not _lists(one) and len(one) >= 6 and len(one) % 2 == 0 for one in points):
        return [list(zip(one[::2], one[1::2], strict=True)) for one in points]
    return [points]


def _lists(value: Any) -> bool:
    """Whether it is a list of lists, tuples or rows of an array, one or more."""
    kinds = (list, tuple, np.ndarray)
    return isinstance(value, kinds) and len(value) > 0 and all(isinstance(one, kinds) for one in value)
