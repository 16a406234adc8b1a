"""Masks between a file, the page and a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.regions.extent import Size
from pvit_ext.regions.image import open_image, reading
from pvit_ext.regions.mask_values import mask_of_image
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.pictures import data_url


def read_mask(content: bytes, name: str, size: Size) -> dict[str, Any]:
    """A mask of the user's as a region of the page.

    Args:
        content: of a PNG of one channel.
        name: the user's name for it.
        size: (width, height) of the picture.

    Raises:
        RegionError: saying what is wrong, by the rules of :mod:`pvit_ext.regions.mask_values`.
    """
    with reading(name, "mask"), open_image(content) as image:
        pixels = mask_of_image(image)
    Region.mask(pixels).resolve(size, name)
    return {"mask": encode_mask(pixels)}


def mask_file(region: Region) -> str:
    """A mask as the file that ``pvit-ext ask --mask`` takes, in a data URL.

    Args:
        region: a mask.
    """
    assert region.pixels is not None
    return data_url(Image.fromarray(region.pixels.astype(np.uint8) * 255), "PNG")
