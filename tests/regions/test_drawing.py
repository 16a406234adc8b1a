"""Outlines, colours and numbers of drawn regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext import Region
from pvit_ext.prompt import number_regions
from pvit_ext.regions.drawing import COLOURS, draw_regions

IMAGE_SIZE = (90, 60)


def mask(*boxes: tuple[int, int, int, int]) -> Region:
    pixels = np.zeros((60, 90), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = True
    return Region.mask(pixels)


@pytest.mark.parametrize(
    ("region", "drawn", "clear"),
    [
        (Region.box(10, 20, 50, 40), [(10.2, 30), (49.8, 30), (30, 20.2), (30, 39.8)], [(30, 30), (51, 30)]),
        (mask((10, 20, 50, 40), (60, 5, 80, 50)), [(10.2, 30), (60.2, 30), (79.8, 30)], [(30, 30), (55, 30)]),
        (mask((30, 30, 31, 31)), [(30.5, 30.5)], [(32, 32)]),
        (Region.point(45, 30), [(45, 30)], [(47, 32)]),
        (Region.polygon([(10, 10), (80, 10), (45, 50)]), [(45, 10.2), (45, 49)], [(45, 25), (12, 48)]),
        (Region.scribble([(10, 50), (80, 50)]), [(30, 50), (79, 50)], [(30, 45)]),
        (Region.box(0, 0, 90, 60), [(0.2, 30), (89.8, 30), (45, 0.2), (45, 59.8)], [(45, 30)]),
    ],
)
def test_every_kind_of_region_is_outlined(region: Region, drawn: list[Any], clear: list[Any]) -> None:
    image = Image.new("RGB", IMAGE_SIZE, "black")
    picture = draw_regions(image, [region])
    scale = picture.width / image.width
    assert all(picture.getpixel((int(x * scale), int(y * scale))) == COLOURS[0] for x, y in drawn)
    assert all(picture.getpixel((int(x * scale), int(y * scale))) == (0, 0, 0) for x, y in clear)
    assert image.getextrema() == ((0, 0),) * 3  # the image itself stays


def test_regions_have_their_own_colours_and_numbers() -> None:
    image = Image.new("RGB", (900, 60), "black")
    boxes = [Region.box(100 * n + 10, 30, 100 * n + 90, 50) for n in range(9)]
    picture = draw_regions(image, boxes, longest=900)
    assert [picture.getpixel((100 * n + 50, 49)) for n in range(9)] == [*COLOURS, *COLOURS][:9]
    labels = [picture.crop((100 * n + 10, 10, 100 * n + 30, 30)) for n in range(9)]
    assert all((255, 255, 255) in [colour for _, colour in label.getcolors(400) or []] for label in labels)
    assert len({label.convert("1").tobytes() for label in labels}) == 9
    assert number_regions(["<region> or <region>?", "<region>"]) == ["[1] or [2]?", "[3]"]


def test_a_pixel_of_a_large_image_is_still_seen() -> None:
    pixels = np.zeros((3000, 4000), dtype=bool)
    pixels[1000, 2000] = True
    picture = draw_regions(Image.new("RGB", (4000, 3000)), [Region.mask(pixels)])
    assert picture.getpixel((256, 128)) == COLOURS[0]
