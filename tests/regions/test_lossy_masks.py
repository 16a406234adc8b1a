"""Masks in files whose compression changes values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvit_ext.regions.mask_values import mask_of_image
from tests.regions.test_masks import disc


def test_jpeg_in_a_tiff_file_is_lossy_too(tmp_path: Path) -> None:
    image = Image.fromarray(disc().astype(np.uint8) * 255)
    image.save(tmp_path / "lossy.tif", compression="jpeg")
    image.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    with Image.open(tmp_path / "lossy.tif") as lossy, pytest.raises(ValueError, match="TIFF with JPEG inside file has"):
        mask_of_image(lossy)
    with Image.open(tmp_path / "lzw.tif") as exact:
        assert np.array_equal(mask_of_image(exact), disc())


def test_avif_is_lossy() -> None:
    image = Image.fromarray(disc().astype(np.uint8) * 255)
    image.format = "AVIF"  # Pillow reads it where it was built so
    with pytest.raises(ValueError, match="a mask in a AVIF file has noise"):
        mask_of_image(image)
