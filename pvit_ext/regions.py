"""Regions a user can point at: box, mask, point, polygon and scribble, in pixels of the original (upright) image.

Coordinates are continuous: pixel column ``i`` spans ``[i, i + 1)``, so an image of width ``w`` spans ``[0, w]``.

What happens to awkward input, everywhere in pvit-ext:

=====================================  ==========================================================
not finite, not numbers, wrong shape   error
inverted or empty (zero area, no True)  error
completely outside the image           error
partly outside the image               clipped to the image
smaller than one pixel                 kept exactly; its mask covers the pixel of its centre
mask of another size than the image    error
=====================================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["box", "mask", "point", "polygon", "scribble"]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Size = tuple[int, int]
"""(width, height) in pixels."""

STROKE_FRACTION = 0.01
"""Radius of a point's disc and of a scribble's stroke, as a fraction of the image's shorter side (at least 1 px)."""


class RegionError(ValueError):
    """A region that cannot be used, with the sample that holds it."""


@dataclass(frozen=True, eq=False)
class Region:
    """One region of one image; :meth:`box`, :meth:`mask`, :meth:`point`, :meth:`polygon`, :meth:`scribble` build it.

    Args:
        kind: what the user drew.
        points: vertices, ``((x0, y0), (x1, y1))`` for a box; empty for a mask.
        pixels: bool (H, W), for a mask only.
        normalized: coordinates are fractions 0..1 of the original image instead of pixels.
        image: which image of the prompt the region lies on, counted from 0.
    """

    kind: Kind
    points: tuple[Point, ...] = ()
    pixels: NDArray[np.bool_] | None = None
    normalized: bool = False
    image: int = 0

    @classmethod
    def box(cls, x0: float, y0: float, x1: float, y1: float, *, normalized: bool = False, image: int = 0) -> Region:
        """A box by its left, top, right and bottom edge."""
        return cls("box", _points([(x0, y0), (x1, y1)]), normalized=normalized, image=image)

    @classmethod
    def point(cls, x: float, y: float, *, normalized: bool = False, image: int = 0) -> Region:
        """A single point; as an area it is a small disc (:data:`STROKE_FRACTION`)."""
        return cls("point", _points([(x, y)]), normalized=normalized, image=image)

    @classmethod
    def polygon(cls, points: Sequence[Sequence[float]], *, normalized: bool = False, image: int = 0) -> Region:
        """A closed polygon of three or more vertices, filled by the even-odd rule."""
        return cls("polygon", _points(points), normalized=normalized, image=image)

    @classmethod
    def scribble(cls, points: Sequence[Sequence[float]], *, normalized: bool = False, image: int = 0) -> Region:
        """An open stroke through the points."""
        return cls("scribble", _points(points), normalized=normalized, image=image)

    @classmethod
    def mask(cls, pixels: Any, *, image: int = 0) -> Region:
        """A mask of the image's own size, bool (H, W); anything array-like of bool, or of 0 and 1."""
        array = np.asarray(pixels)
        if array.ndim != 2:
            raise RegionError(f"a mask has shape (height, width), got {array.shape}")
        if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
            raise RegionError(f"a mask holds bool, or 0 and 1, got {array.dtype} from {array.min()} to {array.max()}")
        return cls("mask", pixels=array.astype(np.bool_), image=image)

    def resolve(self, size: Size, where: str = "region") -> Region:
        """Check the region against its image and return it in pixels, clipped to the image.

        Args:
            size: (width, height) of the upright original image.
            where: names the sample in error messages.

        Raises:
            RegionError: by the rules at the head of this module.
        """
        if self.kind == "mask":
            return self._resolve_mask(size, where)
        width, height = size
        scale = (width, height) if self.normalized else (1, 1)
        points = tuple((x * scale[0], y * scale[1]) for x, y in self.points)
        if not all(math.isfinite(value) for point in points for value in point):
            raise RegionError(f"{where}: {self} has a coordinate that is not finite")
        _check_shape(self.kind, points, f"{where}: {self}")
        x0, y0, x1, y1 = _hull(points)
        if x1 < 0 or y1 < 0 or x0 > width or y0 > height or (self.kind == "box" and not _overlaps(points, size)):
            space = "normalised 0..1 of" if self.normalized else "pixels of"
            raise RegionError(f"{where}: {self} lies outside its image; give {space} the {width}x{height} image")
        clipped = tuple((min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for x, y in points)
        return replace(self, points=clipped, normalized=False)

    def _resolve_mask(self, size: Size, where: str) -> Region:
        assert self.pixels is not None
        height, width = self.pixels.shape
        if (width, height) != size:
            raise RegionError(f"{where}: mask is {width}x{height}, its image {size[0]}x{size[1]}")
        if not self.pixels.any():
            raise RegionError(f"{where}: mask is empty, mark at least one pixel")
        return self

    def bounds(self, size: Size) -> Box:
        """The smallest box (x0, y0, x1, y1) around a resolved region, in pixels of an image of this size."""
        if self.kind == "mask":
            assert self.pixels is not None
            rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
            return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
        x0, y0, x1, y1 = _hull(self.points)
        grow = stroke_radius(size) if self.kind in ("point", "scribble") else 0.0
        return max(x0 - grow, 0.0), max(y0 - grow, 0.0), min(x1 + grow, float(size[0])), min(y1 + grow, float(size[1]))

    def to_mask(self, size: Size) -> NDArray[np.bool_]:
        """Rasterise a resolved region to bool (H, W): pixels whose centre lies inside, never none."""
        if self.kind == "mask":
            assert self.pixels is not None
            return self.pixels
        width, height = size
        x0, y0, x1, y1 = self.bounds(size)
        left, top = min(int(x0), width - 1), min(int(y0), height - 1)
        right, bottom = max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[top:bottom, left:right] = self._inside(x, y, size)
        if not mask.any():
            mask[min(int((y0 + y1) / 2), height - 1), min(int((x0 + x1) / 2), width - 1)] = True
        return mask

    def _inside(self, x: NDArray[np.float64], y: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
        if self.kind == "box":
            (x0, y0), (x1, y1) = self.points
            return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        if self.kind == "polygon":
            return _inside_polygon(self.points, x, y)
        return _near_polyline(self.points, x, y, stroke_radius(size))

    def __str__(self) -> str:
        if self.kind == "mask":
            assert self.pixels is not None
            return f"mask of {int(self.pixels.sum())} pixels"
        values = [value for point in self.points for value in point]
        return f"{self.kind}{' (normalised)' if self.normalized else ''} {values}"


def stroke_radius(size: Size) -> float:
    """Radius in pixels of a point's disc or a scribble's stroke on an image of this size."""
    return max(1.0, STROKE_FRACTION * min(size))


def _points(points: Sequence[Sequence[float]]) -> tuple[Point, ...]:
    try:
        pairs = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError) as error:
        raise RegionError(f"a region is built from (x, y) numbers, got {points!r}") from error
    if any(isinstance(value, (str, bytes, bool)) for point in points for value in point):
        raise RegionError(f"a region is built from (x, y) numbers, got {points!r}")
    return pairs


def _check_shape(kind: Kind, points: tuple[Point, ...], where: str) -> None:
    x0, y0, x1, y1 = _hull(points) if points else (0.0, 0.0, 0.0, 0.0)
    if kind == "box":
        (x0, y0), (x1, y1) = points
        if x1 < x0 or y1 < y0:
            raise RegionError(f"{where} is inverted; a box is left, top, right, bottom")
    if kind == "polygon" and len(points) < 3:
        raise RegionError(f"{where} needs three or more points")
    if kind == "scribble" and not points:
        raise RegionError(f"{where} needs one or more points")
    if kind in ("box", "polygon") and (x1 <= x0 or y1 <= y0):
        raise RegionError(f"{where} is empty: it has no area")


def _hull(points: tuple[Point, ...]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _overlaps(points: tuple[Point, ...], size: Size) -> bool:
    x0, y0, x1, y1 = _hull(points)
    return x1 > 0 and y1 > 0 and x0 < size[0] and y0 < size[1]


def _inside_polygon(points: tuple[Point, ...], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    inside = np.zeros(x.shape, dtype=np.bool_)
    for (xa, ya), (xb, yb) in zip(points, points[1:] + points[:1], strict=True):
        if ya == yb:
            continue
        crosses = (ya <= y) != (yb <= y)
        inside ^= crosses & (x < xa + (y - ya) * (xb - xa) / (yb - ya))
    return inside


def _near_polyline(
    points: tuple[Point, ...], x: NDArray[np.float64], y: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    near = np.zeros(x.shape, dtype=np.bool_)
    for (xa, ya), (xb, yb) in zip(points, points[1:] or points, strict=False):
        dx, dy = xb - xa, yb - ya
        along = np.clip(((x - xa) * dx + (y - ya) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        near |= (x - xa - along * dx) ** 2 + (y - ya - along * dy) ** 2 <= radius**2
    return near
