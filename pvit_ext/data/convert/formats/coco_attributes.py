"""``attributes`` of COCO annotations, as CVAT, Datumaro and FiftyOne write them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pvit_ext.data.convert.fields import clean, short
from pvit_ext.data.convert.notes import BadItem, Notes

_OF_TOOLS: Mapping[str, tuple[type, ...]] = {"track_id": (int,), "keyframe": (bool,), "rotation": (int, float)}
"""What CVAT and Datumaro write beside a person's attributes, which says nothing of what is seen."""


def attributes_of(values: Any, notes: Notes) -> tuple[str, ...]:
    """A flag by its name, text and numbers behind theirs; other values are counted.

    Args:
        values: of ``attributes``; anything but an object gives none.
        notes: takes the count.
    """
    return tuple(_texts(values, notes)) if isinstance(values, dict) else ()


def _texts(values: Mapping[str, Any], notes: Notes) -> Iterator[str]:
    for key, value in values.items():
        if type(value) in _OF_TOOLS.get(key, ()):
            continue
        if value is True:
            yield clean(key)
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            yield clean(f"{key} {value}")
        elif isinstance(value, (list, dict)):
            notes.count("attributes that are no flag, text or number, left out")


def rotation_of(values: Any) -> float:
    """By how many degrees a box is turned clockwise about its centre.

    Raises:
        BadItem: for NaN or infinity.
    """
    value = values.get("rotation") if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    if not math.isfinite(value):
        raise BadItem(f"rotation is a finite number of degrees, got {short(value)}")
    return float(value)
