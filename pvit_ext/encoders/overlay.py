"""Regions drawn on the image and named in the text: no parameters, no region tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.encoders.options import builder
from pvit_ext.regions.raster import Box, Mask, draw_polyline, outline
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 200, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (128, 0, 128),
    "orange": (255, 165, 0),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
"""Colours, in the order in which the regions of an image take them."""
USUAL_MARKS = {"box": "rectangle", "mask": "contour", "polygon": "contour", "point": "point", "scribble": "scribble"}
PLACES = {"arrow": "at the tip of", "mask": "under", "point": "at", "scribble": "under"}
OPACITY = 0.5
"""Opacity of the mark ``mask``; the other marks are opaque."""


@dataclass(frozen=True)
class OverlayOptions:
    """How regions are drawn.

    Args:
        mark: ``rectangle``, ``ellipse``, ``contour``, ``mask`` or ``arrow`` for every region; by default a box becomes
            a rectangle, a mask or polygon its contour, and a point or scribble is drawn as it is.
        width: of a line, as a fraction of the image's shorter side; at least 2 px.
        name: text for a region, with ``{place}`` ("within", "under", "at"), ``{color}`` and ``{mark}``.
    """

    mark: str | None = None
    width: float = 0.01
    name: str = "the object {place} the {color} {mark}"


class Overlay(RegionEncoder):
    """Paints regions before the vision tower sees them; ``<region>`` becomes "the object within the red rectangle".

    Different regions of an image get different colours; more regions than colours are an error.

    Source: ViP-LLaVA (arXiv 2312.00784).
    """

    name: ClassVar[str] = "overlay"
    tokens_per_region = 0
    feature_dim = 0

    def __init__(self, options: OverlayOptions) -> None:
        super().__init__()
        known = {"rectangle", "ellipse", "contour", "mask", "arrow"}
        if options.mark not in {None, *known} or not 0 < options.width < 0.5:
            raise ValueError(f"overlay draws {', '.join(sorted(known))} with lines below half the image, got {options}")
        try:
            options.name.format(place="", color="", mark="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"overlay's name has {{place}}, {{color}} and {{mark}}, got {options.name!r}") from error
        self.options = options

    def describe(self, regions: Sequence[ResolvedRegion], sizes: Sequence[Size]) -> list[str]:
        """The name of each region; see :meth:`RegionEncoder.describe`."""
        colors = [_colors([r for r in regions if r.image == image]) for image in range(len(sizes))]
        return [self._name(region, colors[region.image][_key(region)]) for region in regions]

    def paint(self, image: Image.Image, regions: Sequence[ResolvedRegion]) -> Image.Image:
        """A copy of the image with its regions drawn, the first one on top."""
        pixels, colors = np.array(image.convert("RGB")), _colors(regions)
        for region in reversed(regions):
            mark = self._mark(region)
            opacity, drawn = OPACITY if mark == "mask" else 1.0, self._draw(mark, region, image.size)
            color = opacity * np.array(COLORS[colors[_key(region)]])
            pixels[drawn] = np.rint(pixels[drawn] * (1 - opacity) + color).astype(np.uint8)
        return Image.fromarray(pixels)

    def _mark(self, region: ResolvedRegion) -> str:
        return self.options.mark or USUAL_MARKS[region.kind]

    def _name(self, region: ResolvedRegion, color: str) -> str:
        mark = self._mark(region)
        return self.options.name.format(place=PLACES.get(mark, "within"), color=color, mark=mark)

    def _draw(self, mark: str, region: ResolvedRegion, size: Size) -> Mask:
        """Pixels of the mark, bool (H, W)."""
        line = max(round(self.options.width * min(size)), 2)
        box = region.bounds(size)
        if mark == "rectangle":
            return outline(Region.box(*box).to_mask(size), line)
        if mark == "ellipse":
            return outline(_ellipse(box, size), line)
        if mark == "contour":
            return outline(region.to_mask(size), line)
        if mark == "arrow":
            return _arrow(box, size, line)
        if mark == "mask":
            return region.to_mask(size)
        return draw_polyline(region.points, size, line)  # a point or a scribble


def _key(region: ResolvedRegion) -> tuple[Any, ...]:
    return region.kind, region.points, region.parts, None if region.pixels is None else region.pixels.tobytes()


def _colors(regions: Sequence[ResolvedRegion]) -> dict[tuple[Any, ...], str]:
    """A colour for every different region of one image."""
    keys = list(dict.fromkeys(_key(region) for region in regions))
    if len(keys) > len(COLORS):
        raise RegionError(
            f"overlay tells the regions of an image apart by {len(COLORS)} colours, image {regions[0].image} has "
            f"{len(keys)} regions; ask about fewer at once, or use another encoder"
        )
    return dict(zip(keys, COLORS, strict=False))


def _ellipse(box: Box, size: Size) -> Mask:
    x, y = (
        (np.arange(size[axis]) + 0.5 - (box[axis] + box[axis + 2]) / 2) / max((box[axis + 2] - box[axis]) / 2, 1.0)
        for axis in (0, 1)
    )
    inside: Mask = x**2 + y[:, None] ** 2 <= 1
    return inside


def _arrow(box: Box, size: Size, line: int) -> Mask:
    """An arrow to the middle of the region; it comes from the image's middle, so that it is never cut off."""
    tip = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    away = np.array(size) / 2 - tip
    away = away / max(float(np.hypot(*away)), 1.0) if away.any() else np.array([0.0, 1.0])
    across, length = np.array([-away[1], away[0]]), 8 * line
    ends = [tip + length * (away * 2), tip + length * (away + across) / 2, tip + length * (away - across) / 2]
    strokes = [draw_polyline([tuple(tip), tuple(end)], size, line / 2) for end in ends]
    return strokes[0] | strokes[1] | strokes[2]


build = builder(Overlay, OverlayOptions, reads_tower=False)
