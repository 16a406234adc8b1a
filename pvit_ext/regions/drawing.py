"""Draws regions on their image: outlined, coloured, and numbered as in the question."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pvit_ext.regions.raster import outline
from pvit_ext.regions.region import Region, Size

COLOURS = ((230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (0, 190, 190), (240, 50, 230))
"""RGB of regions 1, 2, ...; they repeat after the last."""
LINE = 3
"""Width of an outline, pixels of the drawing."""
_SIZED_FONT = {"size": 18} if "size" in inspect.signature(ImageFont.load_default).parameters else {}  # Pillow 10.1 on


def draw_regions(
    image: Image.Image, regions: Sequence[Region], longest: int = 512, numbers: Sequence[int] | None = None
) -> Image.Image:
    """The resized image with each region's outline (or point, or stroke) in its colour, and its number beside it.

    Args:
        image: upright RGB.
        regions: resolved, in pixels of the image.
        longest: longer side of the drawing, pixels.
        numbers: of the regions, by default 1, 2, ...; a region's number decides its colour.
    """
    numbers = range(1, len(regions) + 1) if numbers is None else numbers
    factor = longest / max(image.size)
    size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
    pixels = np.array(image.resize(size))
    areas = [_area(region, image.size, size) for region in regions]
    for region, area, number in zip(regions, areas, numbers, strict=True):
        pixels[area if region.kind in ("point", "scribble") else outline(area, LINE)] = colour_of(number)
    drawing = Image.fromarray(pixels)
    for number, area in zip(numbers, areas, strict=True):
        _write_number(drawing, number, area)
    return drawing


def colour_of(number: int) -> tuple[int, int, int]:
    """RGB of the region with this number, counted from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


def _area(region: Region, source: Size, size: Size) -> NDArray[np.bool_]:
    """The region's mask on the resized image, bool (H, W), never empty."""
    if region.pixels is not None:
        mask = Image.fromarray(region.pixels.astype(np.float32)).resize(size, Image.Resampling.BOX)
        return np.asarray(mask) > 0
    points = tuple((x * size[0] / source[0], y * size[1] / source[1]) for x, y in region.points)
    return replace(region, points=points).to_mask(size)


def _write_number(drawing: Image.Image, number: int, area: NDArray[np.bool_]) -> None:
    """Write a number on the region's colour, above the region's left end, or below it if there is no room above."""
    text, font, draw = str(number), ImageFont.load_default(**_SIZED_FONT), ImageDraw.Draw(drawing)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = int(right - left) + 5, int(bottom - top) + 5
    columns, rows = np.flatnonzero(area.any(0)), np.flatnonzero(area.any(1))
    x = min(int(columns[0]), drawing.width - width)
    y = int(rows[0]) - height if rows[0] >= height else min(int(rows[-1]) + 1, drawing.height - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour_of(number))
    draw.text((x + 2 - left, y + 2 - top), text, fill="white", font=font)
