"""How far a drawn region reaches in its image."""

from __future__ import annotations

from typing import Any

from pvit_ext.regions.raster import Box, Point, clip_polyline, contains, hull

Size = tuple[int, int]
"""(width, height) in pixels."""

STROKE_FRACTION = 0.01
"""Radius of a point's disc and of a scribble's stroke, as a fraction of the image's shorter side (at least 1 px)."""
MIN_SIDE = 0.01
"""Pixels. Encoders see boxes as float32, which steps by 0.004 px at the right edge of a 65,535 px image."""


def stroke_radius(size: Size) -> float:
    """Radius in pixels of a point's disc or a scribble's stroke on an image of this size."""
    return max(1.0, STROKE_FRACTION * min(size))


def has_area(box: Box, least: float) -> bool:
    """Whether a box has a width and a height, each of this many pixels at least."""
    width, height = box[2] - box[0], box[3] - box[1]
    return width > 0 and height > 0 and width >= least and height >= least


def extent_of(kind: str, points: tuple[Point, ...], size: Size) -> Box | None:
    """The smallest box around what lies inside the image, None if nothing does.

    Args:
        kind: of the region.
        points: in pixels, of one part.
        size: (width, height) of the image.
    """
    width, height = float(size[0]), float(size[1])
    radius = stroke_radius(size) if kind in ("point", "scribble") else 0.0
    ends: Any = points
    if kind != "box":
        outline = (*points, points[0]) if kind == "polygon" else points
        ends = [end for segment in clip_polyline(outline, (0.0, 0.0, width, height)) for end in segment]
        if radius and ends:  # a stroke just outside the image paints some of it, but does not count on its own
            around = (-radius, -radius, width + radius, height + radius)
            ends = [end for segment in clip_polyline(outline, around) for end in segment]
    if kind == "polygon":
        corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
        ends += [corner for corner in corners if contains(points, *corner)]
    if not ends:
        return None
    x0, y0, x1, y1 = hull(ends)
    found = max(x0 - radius, 0.0), max(y0 - radius, 0.0), min(x1 + radius, width), min(y1 + radius, height)
    return found if radius or has_area(found, MIN_SIDE) else None
