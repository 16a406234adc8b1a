"""Boxes and shapes of any convention as regions in continuous pixels, clipped, or the reason why there is none.

Pixel column ``i`` spans ``[i, i + 1)``: an inclusive box of pixels ``a..b`` is ``[a, b + 1]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pvit_ext.data.convert.annotation import Annotation, Box, Size
from pvit_ext.data.convert.clipping import DECIMALS, clip_box, refuse_fractions
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.regions.extent import MIN_SIDE, extent_of
from pvit_ext.regions.region import MAX_PIXEL, Region, RegionError, are_fractions
from pvit_ext.regions.run_lengths import RunLengths, parse_run_lengths

_NUMBERS = frozenset({int, float})


def numbers(values: Any, count: int | None, what: str) -> list[float]:
    """Finite numbers from JSON.

    Args:
        values: a list; text that is a number is none.
        count: how many, None for any even number.
        what: names them in the error.

    Raises:
        BadItem: for anything else.
    """
    wanted = "an even number of" if count is None else f"{count}"
    right = isinstance(values, (list, tuple)) and (len(values) == count if count is not None else len(values) % 2 == 0)
    if not right or (values and not _finite(values)):
        raise BadItem(f"{what} is a list of {wanted} finite numbers, got {str(values)[:60]}")
    return list(values)


def _finite(values: Sequence[Any]) -> bool:
    if not _NUMBERS.issuperset(map(type, values)):
        return False
    return (
        math.isfinite(sum(values)) and min(values) >= -MAX_PIXEL and max(values) <= MAX_PIXEL
    )  # NaN makes the sum NaN


def xywh(values: Sequence[float]) -> Box:
    """Corners of a box that is given by its left upper corner, width and height."""
    x, y, width, height = values
    return x, y, x + width, y + height


def centred(values: Sequence[float]) -> Box:
    """Corners of a box that is given by its centre, width and height."""
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def scaled(values: Sequence[float], size: Size, full: float = 1.0) -> list[float]:
    """Coordinates x, y, x, y, ... as pixels, from fractions of each side.

    Args:
        values: fractions.
        size: of the image.
        full: what the full side is: 1, 100 or 1000.
    """
    return [round(value * size[number % 2] / full, DECIMALS) for number, value in enumerate(values)]


def rotated(points: Sequence[tuple[float, float]], centre: tuple[float, float], degrees: float) -> list[float]:
    """Points turned clockwise (as seen, y downwards) about a centre, as x, y, x, y, ..."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = []
    for x, y in points:
        dx, dy = x - centre[0], y - centre[1]
        turned += [centre[0] + dx * cos - dy * sin, centre[1] + dx * sin + dy * cos]
    return [round(value, DECIMALS) for value in turned]


def corners(box: Box) -> list[tuple[float, float]]:
    """The four corners of a box, clockwise from the upper left."""
    x0, y0, x1, y1 = box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ellipse(centre: tuple[float, float], radii: tuple[float, float], points: int = 36) -> list[float]:
    """The outline of an upright ellipse, as x, y, x, y, ..."""
    angles = (2 * math.pi * number / points for number in range(points))
    return [
        round(value, DECIMALS)
        for angle in angles
        for value in (centre[0] + radii[0] * math.cos(angle), centre[1] + radii[1] * math.sin(angle))
    ]


def turned_box(
    box: Box, centre: tuple[float, float], degrees: float, size: Size | None, notes: Notes, **fields: Any
) -> Annotation | Reason:
    """An object that is a box turned clockwise: a box after quarters of a turn, else an outline; or why there is none.

    Args:
        box: before it is turned.
        centre: about which it is.
        degrees: how far.
        size: of the image, None if unknown.
        notes: counts boxes that are clipped.
        fields: of the annotation, and ``of_fractions`` of :func:`~pvit_ext.data.convert.clipping.clip_box`.
    """
    if min(abs(box[2] - box[0]), abs(box[3] - box[1])) < MIN_SIDE:
        return Reason.DEGENERATE  # turned, its hull may have an area
    outline = rotated(corners(box), centre, degrees)
    if math.isclose(round(degrees / 90) * 90, degrees, abs_tol=1e-6):
        x, y = outline[::2], outline[1::2]
        return boxed((min(x), min(y), max(x), max(y)), size, notes, **fields)
    return outlined([outline], size, notes, **fields)


def turned_ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    degrees: float,
    size: Size | None,
    notes: Notes,
    **fields: Any,
) -> Annotation | Reason:
    """An object that is an ellipse turned clockwise about its centre, or why there is none; see :func:`turned_box`."""
    outline = ellipse(centre, radii)
    pairs = list(zip(outline[::2], outline[1::2], strict=True))
    return outlined([rotated(pairs, centre, degrees)], size, notes, **fields)


def boxed(
    box: Box, size: Size | None, notes: Notes, *, of_fractions: bool = False, **fields: Any
) -> Annotation | Reason:
    """An object that is a box, or why there is none; see :func:`~pvit_ext.data.convert.clipping.clip_box`."""
    clipped = clip_box(box, size, notes, of_fractions)
    return clipped if isinstance(clipped, Reason) else Annotation(list(clipped), clipped, **fields)


def boxed_in(
    full: float, values: Sequence[float], size: Size | None, notes: Notes, **fields: Any
) -> Annotation | Reason:
    """An object whose box is given as parts of each side, or why there is none.

    Args:
        full: what the full side is: 1, 100 or 1000.
        values: left, top, right, bottom.
        size: of the image; None if unknown: the box then stays in fractions.
        notes: counts boxes that are clipped.
        fields: of the annotation.
    """
    if size is not None:
        x0, y0, x1, y1 = scaled(values, size, full)
        return boxed((x0, y0, x1, y1), size, notes, of_fractions=True, **fields)
    box = [round(min(max(value / full, 0.0), 1.0), 6) for value in values]
    if values[2] <= values[0] or values[3] <= values[1]:
        return Reason.DEGENERATE
    if box[2] <= box[0] or box[3] <= box[1]:
        return Reason.OUTSIDE
    return Annotation({"box": box, "normalized": True}, None, **fields)


def outlined(
    parts: Sequence[Sequence[float]], size: Size | None, notes: Notes, *, of_fractions: bool = False, **fields: Any
) -> Annotation | Reason:
    """An object that is a polygon of one part or several, or why there is none.

    Args:
        parts: x, y, x, y, ... of each, in pixels; one of fewer than three points is left out and counted.
        size: of the image, None if unknown.
        notes: counts parts that are left out.
        of_fractions: see :func:`~pvit_ext.data.convert.clipping.clip_box`.
        fields: of the annotation.
    """
    kept = [list(part) for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    if len(kept) < len(parts):
        notes.count("polygon parts of fewer than three points left out", len(parts) - len(kept))
    if not kept:
        return Reason.DEGENERATE
    hull = (
        min(min(part[::2]) for part in kept),
        min(min(part[1::2]) for part in kept),
        max(max(part[::2]) for part in kept),
        max(max(part[1::2]) for part in kept),
    )
    inside = hull[0] >= 0 and hull[1] >= 0 and size is not None and hull[2] <= size[0] and hull[3] <= size[1]
    box = clip_box(hull, size, notes, of_fractions, "outlines that reach beyond their image")
    if isinstance(box, Reason):
        return box
    if not inside and size is not None and not _reaches(kept, size):
        return Reason.OUTSIDE
    return Annotation({"polygon": kept}, box, **fields)


def _reaches(parts: Sequence[Sequence[float]], size: Size) -> bool:
    """Whether some of a polygon lies in the image; its hull may reach into it while the polygon does not."""
    outlines = (tuple(zip(part[::2], part[1::2], strict=True)) for part in parts)
    return any(extent_of("polygon", outline, size) for outline in outlines)


def masked(value: Mapping[str, Any], size: Size | None, **fields: Any) -> Annotation | Reason:
    """An object that is given by COCO's run lengths, or why there is none.

    Args:
        value: ``size`` and ``counts``, plain or compressed; other keys are not taken over.
        size: of the image, None if unknown.
        fields: of the annotation.

    Raises:
        BadItem: for run lengths that do not fit together, or not the image.
    """
    spec = {key: value[key] for key in ("size", "counts") if key in value}
    try:
        runs = parse_run_lengths(spec)
    except ValueError as error:
        if "mask is empty" in str(error):
            return Reason.DEGENERATE
        raise BadItem(f"segmentation: {error}") from error
    if size is not None and (runs.width, runs.height) != size:
        raise BadItem(f"segmentation is {runs.width}x{runs.height}, its image {size[0]}x{size[1]}")
    return Annotation({"mask": spec}, _around(runs), **fields)


def _around(runs: RunLengths) -> Box:
    """The box around a mask, without its pixels: a large one has few runs."""
    ends = np.cumsum(np.frombuffer(runs.counts, np.uint32).astype(np.int64))
    inside = np.diff(ends, prepend=0)[1::2] > 0
    first, last = ends[:-1:2][: len(inside)][inside], ends[1::2][inside] - 1  # pixels, down the columns
    left, right = first // runs.height, last // runs.height
    top, bottom = first % runs.height, last % runs.height
    wraps = left < right  # it runs from one column into the next
    top, bottom = np.where(wraps, 0, top), np.where(wraps, runs.height - 1, bottom)
    return float(left.min()), float(top.min()), float(right.max() + 1), float(bottom.max() + 1)


def pointed(
    kind: str, value: Any, size: Size | None, *, of_fractions: bool = False, **fields: Any
) -> Annotation | Reason:
    """An object that is a ``point`` or a ``scribble``, or why there is none.

    Args:
        kind: of the region.
        value: as a record holds it.
        size: of the image, None if unknown.
        of_fractions: see :func:`~pvit_ext.data.convert.clipping.clip_box`.
        fields: of the annotation.

    Raises:
        BadItem: for fractions where the source should have pixels.
    """
    region = Region.point(*value) if kind == "point" else Region.scribble(value)
    flat = [one for point in region.points for one in point]
    if not of_fractions:
        refuse_fractions(flat)
    elif size and kind == "point" and are_fractions(flat):  # of the top-left pixel: training would refuse its decimals
        return Annotation({kind: [flat[0] / size[0], flat[1] / size[1]], "normalized": True}, None, **fields)
    try:
        region.resolve(size) if size else region.check()
    except RegionError:
        return Reason.OUTSIDE
    return Annotation({kind: value}, None, **fields)
