"""Masks that a source holds as pixels, as COCO's run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.annotation import Size


def encode_mask(pixels: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths of a mask: down the columns, the first run is background.

    Args:
        pixels: bool (H, W).
    """
    flat = np.concatenate([[False], pixels.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]]))
    return {"size": list(pixels.shape), "counts": counts.tolist()}


def pasted(part: NDArray[np.bool_], corner: tuple[int, int], size: Size) -> NDArray[np.bool_]:
    """A part of a mask at its place in the image, cut at its edges.

    Args:
        part: bool (h, w).
        corner: (x, y) of its first pixel.
        size: (width, height) of the image.

    Returns:
        bool (H, W).
    """
    mask = np.zeros((size[1], size[0]), bool)
    x, y = corner
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + part.shape[1], size[0]), min(y + part.shape[0], size[1])
    if x1 > x0 and y1 > y0:
        mask[y0:y1, x0:x1] = part[y0 - y : y1 - y, x0 - x : x1 - x]
    return mask
