"""Pascal VOC's SegmentationObject: a palette PNG whose index is the number of the object in the XML, from 1.

255 is a contour that belongs to none. A mask is taken where it agrees with the object's box.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pvit_ext.data.convert.annotation import Annotation, Size
from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.data.convert.notes import BadItem, Notes
from pvit_ext.data.convert.shapes import masked
from pvit_ext.data.tasks.layout import overlap

_NONE = 255
_AGREES = 0.5
"""The least overlap of a box and the box around its mask, which is some pixels smaller: it has no contour."""


def load_segments(xml: Path, size: Size | None) -> NDArray[np.uint8] | None:
    """The objects' numbers, uint8 (H, W), 0 for background; None for an image that has none.

    Args:
        xml: in ``Annotations``; ``SegmentationObject`` lies beside that folder.
        size: of the image, None if unknown.

    Raises:
        BadItem: for a PNG of another kind or size.
    """
    path = xml.parent.parent / "SegmentationObject" / f"{xml.stem}.png"
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise BadItem(f"it holds no palette, its mode is {image.mode}; expected an index a pixel", path.name)
            indices = np.asarray(image)
    except (OSError, ValueError) as error:
        if isinstance(error, BadItem):
            raise
        raise BadItem(f"it cannot be read: {error}", path.name) from error
    found = indices.shape[1], indices.shape[0]
    if size is not None and found != size:
        raise BadItem(f"it is {found[0]}x{found[1]}, its image {size[0]}x{size[1]}", path.name)
    return np.where(indices == _NONE, 0, indices).astype(np.uint8)


def with_mask(item: Annotation, number: int, segments: NDArray[np.uint8], notes: Notes) -> Annotation:
    """The object with its mask, or as it is, with a count, where there is none that agrees with its box.

    Args:
        item: with its box.
        number: of the object in the XML, from 1.
        segments: see :func:`load_segments`.
        notes: takes the count.
    """
    pixels = segments == number
    if not pixels.any():
        notes.count("objects without a segment, kept as boxes")
        return item
    found = masked(encode_mask(pixels), None)
    if not isinstance(found, Annotation) or found.box is None or item.box is None:
        return item
    if overlap(found.box, item.box) < _AGREES:
        notes.count("segments that do not agree with their box, kept as boxes")
        return item
    return replace(item, region=found.region)
