"""One rule for the values of a mask, from an array or a file.

======================================  ==========================================================
bool                                    True is region
integers                                0 is background, and there is one other value, whichever:
                                        0 and 1, 0 and 255. More are several labels, soft edges or
                                        the noise of a lossy file: error
floats                                  0 and 1 only; probabilities: error
several channels                        error, even if they are equal
palette                                 by index, as integers: 0 is background and must be black, and
                                        there is one other; a second black in use: error
lossy (JPEG, also in TIFF; JPEG 2000,   error: its noise around edges would count as region
AVIF)
======================================  ==========================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")
"""Formats that change values; they may be told to keep them, which their files do not say."""


def mask_of_values(values: Any) -> NDArray[np.bool_]:
    """A mask, bool (H, W), by the rules at the head of this module.

    Args:
        values: array-like (H, W).

    Raises:
        ValueError: saying which rule is broken and what to do.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a mask is an array of shape (height, width), got {type(values).__name__}") from error
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a mask has shape (height, width), got {array.shape}")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"a mask holds bool, or 0 and one other number; this one is {array.dtype}")
    other = 1 if array.dtype.kind == "f" else array.max() or array.min()
    inside: NDArray[np.bool_] = array == other
    if bool((inside | (array == 0)).all()):
        return inside & (array != 0)
    if array.dtype.kind == "f":
        raise ValueError("a mask of floats holds 0 and 1; this one has other values: threshold it, as in mask > 0.5")
    several = np.unique(array)
    raise ValueError(
        f"a mask has 0 and one other value; this one has {len(several)}, up to {several[-1]}: pick one label, as in "
        "mask == 3, or threshold soft edges, as in mask > 127"
    )


def mask_of_image(image: Image.Image) -> NDArray[np.bool_]:
    """A mask, bool (H, W), from an open image file, by the rules at the head of this module.

    Raises:
        ValueError: saying which rule is broken and what to do.
    """
    if (lossy := _lossy(image)) is not None:
        raise ValueError(
            f"a mask in a {lossy} file has noise around its edges, which would count as region: save it as PNG "
            "where it is made, or threshold it (> 127) into one"
        )
    bands = len(image.getbands())
    if bands != 1:
        raise ValueError(f"it has {bands} channels ({image.mode}); a mask has one, 0 is background: save one of them")
    image.load()
    if image.mode == "P":
        return _of_palette(image)
    return mask_of_values(np.asarray(image))


def _lossy(image: Image.Image) -> str | None:
    """The compression of an open file that changes values; None for any other."""
    if image.format in _LOSSY:
        return image.format
    inside = str(image.info.get("compression", ""))
    return f"{image.format} with JPEG inside" if "jpeg" in inside else None


def _of_palette(image: Image.Image) -> NDArray[np.bool_]:
    index = np.asarray(image)
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    black = ~colours.any(1).reshape(index.shape)
    if not np.array_equal(black, index == 0):
        raise ValueError(
            "its palette does not tell background from region: index 0, and it alone, must be black; save the mask "
            "with one channel, 0 and 255"
        )
    return mask_of_values(index)
