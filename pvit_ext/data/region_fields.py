"""The ``regions`` of a record: from JSON to checked regions."""

from __future__ import annotations

from typing import Any

from pvit_ext.data.image_files import check_file, short
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import MAX_PIXEL, NORMALIZED, Region, RegionError

_NUMBERS = {"box": 4, "point": 2}
_PLAIN = {int, float}
KINDS = ("box", "point", "polygon", "scribble", "mask")
"""Keys of which an object that is a region has one."""
_FIELDS = {*KINDS, "normalized", "image"}


def parse_region(item: Any, name: str, folder: str | None) -> Region | PendingMask:
    """One region of a record.

    Args:
        item: ``[x0, y0, x1, y1]``, or an object with one of box, point, polygon, scribble, mask.
        name: of it, for error messages.
        folder: if given, a mask file must exist in it.

    Raises:
        ValueError: saying what is wrong.
    """
    if type(item) is list and (box := _plain_box(item)) is not None:
        return box
    fields = {"box": item} if isinstance(item, list) else item
    if isinstance(fields, dict):
        fields = {key: value for key, value in fields.items() if value is not None}
    if not isinstance(fields, dict) or len(kinds := fields.keys() & KINDS) != 1:
        known = ", ".join(KINDS)
        raise ValueError(f"{name} is [x0, y0, x1, y1] or an object with one of {known}, got {short(item)}")
    if unknown := sorted(fields.keys() - _FIELDS):
        raise ValueError(f"{name} has unknown keys {short(unknown)}; known are normalized and image")
    normalized, image = fields.get("normalized", False), fields.get("image", 0)
    if not isinstance(normalized, bool) or isinstance(image, bool) or not isinstance(image, int):
        raise ValueError(f"{name}: normalized is true or false and image an integer, got {short(item)}")
    kind = kinds.pop()
    value = fields[kind]
    if kind != "mask":
        return _shape(kind, value, normalized, image, name)
    if normalized:
        raise ValueError(f"{name}: a mask is in pixels, it cannot be normalized")
    if isinstance(value, str):
        check_file(value, f"{name}: mask", folder)
    return PendingMask.parse(value, image, name)


def _plain_box(item: list[Any]) -> Region | None:
    """The box that most regions are, which passes every rule at a glance; None for all that needs a second one."""
    if len(item) != 4 or not set(map(type, item)) <= _PLAIN:
        return None
    x0, y0, x1, y1 = item
    if not (min(x0, y0) >= 0 and 2 <= x1 < MAX_PIXEL and 2 <= y1 < MAX_PIXEL and x1 - x0 > 1 and y1 - y0 > 1):
        return None
    return Region("box", ((float(x0), float(y0)), (float(x1), float(y1))))


def _shape(kind: str, value: Any, normalized: bool, image: int, name: str) -> Region:
    numbers = _NUMBERS.get(kind)
    if not isinstance(value, list) or (numbers and len(value) != numbers):
        wanted = f"{numbers} numbers" if numbers else "points"
        raise ValueError(f"{name}: a {kind} is a list of {wanted}, got {short(value)}")
    try:
        region: Region = getattr(Region, kind)(*(value if numbers else [value]), normalized=normalized, image=image)
    except RegionError as error:
        raise ValueError(f"{name}: {error}") from error
    try:
        region.check(name)
    except RegionError as error:
        raise RegionError(in_json(error, kind)) from error
    return region


def in_json(error: RegionError, kind: str) -> str:
    """What an error says to those who write JSON; the client of a server has neither Python's keywords nor flags.

    Args:
        error: of a region.
        kind: of that region.
    """
    return str(error).replace(NORMALIZED, f'{{"{kind}": [...], "normalized": true}}')
