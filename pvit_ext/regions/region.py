"""Regions a user can point at: box, mask, point, polygon and scribble, in pixels of the original (upright) image.

Coordinates are continuous: pixel column ``i`` spans ``[i, i + 1)``, so an image of width ``w`` spans ``[0, w]``.

What happens to awkward input, everywhere in pvit-ext:

======================================  ==========================================================
not numbers, wrong shape                error when the region is made
not finite, or beyond ``MAX_PIXEL``     error
inverted                                error
empty: a side under ``MIN_SIDE``, no    error
pixel of a mask
completely outside the image            error; so is a box or polygon that only touches it
partly outside the image                clipped to the image; a polygon or scribble keeps its points
                                        (moving one would turn its edges)
smaller than one pixel                  kept exactly; its mask covers the pixels it crosses, so it
                                        is never empty
mask of another size than the image     error
mask of other values than two           error, see :mod:`pvit_ext.regions.mask_values`
fractions 0..1 without ``normalized``   error: all would mean the top-left pixel
pixels with ``normalized``              error: beyond ``MAX_FRACTION`` times the image
======================================  ==========================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pvit_ext.regions.extent import MIN_SIDE, Size, extent_of, has_area, stroke_radius
from pvit_ext.regions.mask_values import mask_of_values
from pvit_ext.regions.polygon import polygon_parts
from pvit_ext.regions.raster import (
    Box,
    Point,
    draw_polyline,
    fill_box,
    fill_polygon,
    hull,
    trace_polyline,
)
from pvit_ext.regions.run_lengths import parse_run_lengths

Kind = Literal["box", "mask", "point", "polygon", "scribble"]
MAX_FRACTION = 2
"""Sides of the image. A normalised polygon may leave its image, but not beyond this; larger numbers are pixels."""
FRACTIONS = (-0.1, 1.1)
"""Decimals in this range are fractions: detectors overshoot 0..1, and nobody points inside the top-left pixel."""
_FULL_IMAGE, _FEW_PIXELS = (0.0, 0.0, 1.0, 1.0), 16
"""The whole image as fractions, by any kind but one point. As pixels it is the top-left one, which nobody means, except
on a tiny image."""
NORMALIZED = 'normalized=True, "normalized": true in a data file, --normalized on the command line'
"""How fractions are said, in messages."""
_TOP_LEFT = f"lies in the top-left pixel; for fractions 0..1 say {NORMALIZED}"
MAX_PIXEL = 1e9
"""Pixels. No image is that large, and products of such coordinates are still exact enough in float64."""

_PAIRS, _NUMBERS = {list, tuple}, {int, float}


class RegionError(ValueError):
    """A region that cannot be used, with the sample that holds it."""


@dataclass(frozen=True, eq=False)
class Region:
    """One region of one image; made by :meth:`box`, :meth:`mask`, :meth:`point`, :meth:`polygon` or :meth:`scribble`.

    Args:
        kind: what the user drew.
        points: vertices, ``((x0, y0), (x1, y1))`` for a box; empty for a mask.
        parts: how many of the points each part of a polygon has; empty for a polygon of one part.
        pixels: bool (H, W), for a mask only.
        normalized: coordinates are fractions 0..1 of the original image instead of pixels.
        image: which image of the prompt the region lies on, counted from 0.
    """

    kind: Kind
    points: tuple[Point, ...] = ()
    pixels: NDArray[np.bool_] | None = None
    normalized: bool = False
    image: int = 0
    parts: tuple[int, ...] = ()

    @classmethod
    def box(cls, x0: float, y0: float, x1: float, y1: float, *, normalized: bool = False, image: int = 0) -> Region:
        """A box by its left, top, right and bottom edge."""
        return cls("box", _points([(x0, y0), (x1, y1)]), normalized=normalized, image=image)

    @classmethod
    def point(cls, x: float, y: float, *, normalized: bool = False, image: int = 0) -> Region:
        """A single point; as an area it is a small disc (:data:`STROKE_FRACTION`)."""
        return cls("point", _points([(x, y)]), normalized=normalized, image=image)

    @classmethod
    def polygon(cls, points: Sequence[Sequence[Any]], *, normalized: bool = False, image: int = 0) -> Region:
        """A closed polygon of three or more vertices, filled by the even-odd rule; or several, which are one region.

        Args:
            points: ``[(x, y), ...]``; several parts as ``[[(x, y), ...], ...]`` or COCO's ``[[x, y, x, y, ...], ...]``.
            normalized: coordinates are fractions 0..1 of the original image instead of pixels.
            image: which image of the prompt it lies on.
        """
        if (plain := _plain_points(points)) is not None:
            return cls("polygon", plain, normalized=normalized, image=image)
        parts = [_points(part) for part in polygon_parts(points)]
        lengths = tuple(map(len, parts)) if len(parts) > 1 else ()
        return cls("polygon", tuple(itertools.chain(*parts)), normalized=normalized, image=image, parts=lengths)

    @classmethod
    def scribble(cls, points: Sequence[Sequence[float]], *, normalized: bool = False, image: int = 0) -> Region:
        """An open stroke through the points."""
        return cls("scribble", _points(points), normalized=normalized, image=image)

    @classmethod
    def mask(cls, pixels: Any, *, image: int = 0) -> Region:
        """A mask of the image's own size.

        Args:
            pixels: array-like (H, W) by the rules of :mod:`pvit_ext.regions.mask_values`, or COCO run lengths
                ``{"size": [height, width], "counts": ...}`` as pycocotools and SAM write them.
            image: which image of the prompt it lies on.
        """
        try:
            array = parse_run_lengths(pixels).decode() if isinstance(pixels, dict) else mask_of_values(pixels)
        except ValueError as error:
            raise RegionError(str(error)) from error
        return cls("mask", pixels=array, image=image)

    def check(self, name: str = "region") -> None:
        """The part of :meth:`resolve` that needs no image.

        Raises:
            RegionError: for a region that is inverted, empty or not finite.
        """
        if self.image < 0:
            raise RegionError(f"{name}: images are counted from 0, got image {self.image}")
        if self.kind == "mask":
            if self.pixels is None or not self.pixels.any():
                raise RegionError(f"{name}: mask is empty, mark at least one pixel")
            return
        if not self.points or (self.kind == "polygon" and min(self.parts or (len(self.points),)) < 3):
            raise RegionError(f"{name}: {self} needs {'three' if self.kind == 'polygon' else 'one'} or more points")
        values = list(itertools.chain.from_iterable(self.points))
        xs, ys = values[::2], values[1::2]
        around = min(xs), min(ys), max(xs), max(ys)
        low, high = min(around), max(around)
        if not (math.isfinite(sum(values)) and low >= -MAX_PIXEL and high <= MAX_PIXEL):  # the sum: NaN has no order
            raise RegionError(f"{name}: {self} has a coordinate that is not finite, or beyond {MAX_PIXEL:g}")
        if self.kind == "box" and tuple(values) != around:
            raise RegionError(f"{name}: {self} is inverted; a box is left, top, right, bottom")
        if self.kind in ("box", "polygon") and not has_area(around, 0.0):
            raise RegionError(f"{name}: {self} is empty: it has no area")
        if self.normalized and max(-low, high) > MAX_FRACTION:
            raise RegionError(f"{name}: {self} is not in fractions 0..1 of an image; for pixels leave normalized out")
        if not self.normalized and high <= FRACTIONS[1] and are_fractions(values):
            raise RegionError(f"{name}: {self} {_TOP_LEFT}")

    def resolve(self, size: Size, name: str = "region") -> ResolvedRegion:
        """Check the region against its image and return it in pixels, clipped to the image.

        Args:
            size: (width, height) of the upright original image.
            name: names the region in error messages, these and later ones.

        Raises:
            RegionError: by the rules at the head of this module.
        """
        self.check(name)
        if self.pixels is not None:
            height, width = self.pixels.shape
            if (width, height) != tuple(size):
                raise RegionError(f"{name}: mask is {width}x{height}, its image {size[0]}x{size[1]}")
            return ResolvedRegion("mask", pixels=self.pixels, image=self.image, size=(width, height), name=name)
        if not self.normalized and max(size) > _FEW_PIXELS and hull(self.points) == _FULL_IMAGE:
            raise RegionError(f"{name}: {self} {_TOP_LEFT}")
        scale = size if self.normalized else (1, 1)
        points = tuple((x * scale[0], y * scale[1]) for x, y in self.points)
        if self.kind in ("box", "polygon") and not has_area(hull(points), MIN_SIDE):
            raise RegionError(f"{name}: {self} is empty: a side is shorter than {MIN_SIDE} pixels")
        width, height = size
        scaled = ResolvedRegion(
            self.kind, points, image=self.image, parts=self.parts, size=(int(width), int(height)), name=name
        )
        if (extent := scaled._extent(size)) is None:
            space = "normalised 0..1 of" if self.normalized else "pixels of"
            raise RegionError(f"{name}: {self} lies outside its image; give {space} the {size[0]}x{size[1]} image")
        return replace(scaled, points=(extent[:2], extent[2:])) if self.kind == "box" else scaled

    def bounds(self, size: Size) -> Box:
        """The smallest box (x0, y0, x1, y1) around a resolved region, in pixels of an image of this size."""
        if self.pixels is not None:
            rows, columns = np.flatnonzero(self.pixels.any(1)), np.flatnonzero(self.pixels.any(0))
            return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
        if (extent := self._extent(size)) is None:
            raise RegionError(f"{self} lies outside a {size[0]}x{size[1]} image; resolve it first")
        return extent

    def to_mask(self, size: Size) -> NDArray[np.bool_]:
        """Rasterise a resolved region to bool (H, W): pixels whose centre lies inside, never none."""
        if self.pixels is not None:
            return self.pixels
        if self.kind == "box":
            return fill_box(hull(self.points), size)
        if self.kind in ("point", "scribble"):
            return draw_polyline(self.points, size, stroke_radius(size))
        outlines = self.outlines()
        mask = np.logical_or.reduce([fill_polygon(points, size) for points in outlines])
        if not mask.any():  # thinner than a pixel
            mask = np.logical_or.reduce([trace_polyline((*points, points[0]), size) for points in outlines])
        return mask

    def outlines(self) -> list[tuple[Point, ...]]:
        """The points of each part of a polygon; for other kinds, all of them."""
        ends = list(itertools.accumulate(self.parts or (len(self.points),)))
        return [self.points[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _extent(self, size: Size) -> Box | None:
        """The smallest box around what lies inside the image, None if nothing does."""
        found = [extent for points in self.outlines() if (extent := extent_of(self.kind, points, size))]
        return hull(point for x0, y0, x1, y1 in found for point in ((x0, y0), (x1, y1))) if found else None

    def __str__(self) -> str:
        if self.pixels is not None:
            return f"mask of {int(self.pixels.sum())} pixels"
        values = [value for point in self.points[:4] for value in point]
        more = f" and {len(self.points) - 4} more points" if len(self.points) > 4 else ""
        parts = f" of {len(self.parts)} parts" if self.parts else ""
        return f"{self.kind}{parts}{' (normalised)' if self.normalized else ''} {values}{more}"


@dataclass(frozen=True, eq=False)
class ResolvedRegion(Region):
    """A region in pixels of its upright original image, checked and clipped; made by :meth:`Region.resolve`.

    Args:
        size: (width, height) of that image.
        name: for error messages, such as ``query 0, region 1``.
    """

    size: Size = (0, 0)
    name: str = "region"

    def resolve(self, size: Size, name: str = "region") -> ResolvedRegion:
        """The region itself, under the name it has.

        Raises:
            RegionError: for an image of another size.
        """
        if self.size != tuple(size):
            own, other = ("x".join(map(str, one)) for one in (self.size, size))
            raise RegionError(f"{self.name}: its image has {own} pixels, this one {other}; resolve the original region")
        return self


def are_fractions(values: Sequence[float]) -> bool:
    """Whether coordinates that should be pixels lie in :data:`FRACTIONS` and have decimals."""
    return min(values) >= FRACTIONS[0] and max(values) <= FRACTIONS[1] and any(value != int(value) for value in values)


def _plain_points(points: Any) -> tuple[Point, ...] | None:
    """Fast path for lists of pairs of numbers, which files hold by the million; None for all that needs a check."""
    if type(points) is not list or not set(map(type, points)) <= _PAIRS or set(map(len, points)) != {2}:
        return None
    values = list(itertools.chain.from_iterable(points))
    kinds = set(map(type, values))
    if kinds == {float}:
        return tuple(map(tuple, points))
    if not kinds <= _NUMBERS:
        return None
    try:
        return tuple((float(x), float(y)) for x, y in points)
    except OverflowError:  # an integer of hundreds of digits
        return None


def _points(points: Sequence[Sequence[float]]) -> tuple[Point, ...]:
    if (plain := _plain_points(points)) is not None:
        return plain
    try:
        pairs = [tuple(point) for point in points]
        if any(isinstance(value, (str, bytes, bool)) for pair in pairs for value in pair):
            raise TypeError("text and bool are no coordinates")
        return tuple((float(x), float(y)) for x, y in pairs)
    except (TypeError, ValueError, OverflowError) as error:
        raise RegionError(f"a region is built from (x, y) numbers, got {str(points)[:200]}") from error
