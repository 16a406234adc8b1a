"""Masks in data files: a PNG in the image folder, or uncompressed COCO run lengths; read when they are needed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pvit_ext.regions.image import open_image, reading
from pvit_ext.regions.region import Region, RegionError

MAX_PIXELS = 2 * 89_478_485
"""Pillow's own limit for images, so that a few characters of run lengths cannot claim all memory."""


@dataclass(frozen=True)
class PendingMask:
    """A mask that is still in its file.

    Args:
        source: path relative to the image folder, or (height, width, run lengths); 4 bytes a run, not Python's 30.
        image: which image of the prompt it lies on.
    """

    source: str | tuple[int, int, array[int]]
    image: int = 0

    @classmethod
    def parse(cls, value: Any, image: int, where: str) -> PendingMask:
        """From a record's JSON.

        Raises:
            RegionError: if it is neither a path nor run lengths.
        """
        if isinstance(value, str):
            return cls(value, image)
        if not isinstance(value, dict) or set(value) != {"size", "counts"}:
            raise RegionError(f'{where}: a mask is a PNG path or {{"size": [height, width], "counts": [...]}}')
        return cls(_run_lengths(value["size"], value["counts"], where), image)

    def load(self, folder: str | None, where: str) -> Region:
        """The region, in the pixels of its image.

        Raises:
            RegionError: naming the record.
        """
        if isinstance(self.source, str):
            if folder is None:
                raise RegionError(f"{where}: mask {self.source!r} is a file, give the image folder")
            with reading(where, "mask"), open_image(Path(folder, self.source)) as image:
                image.load()
                array = np.asarray(image)
            if array.ndim != 2:
                bands = array.shape[-1]
                raise RegionError(f"{where}: mask {self.source} has {bands} channels; a mask has one, 0 is background")
            return Region.mask(array != 0, image=self.image)
        height, width, counts = self.source
        values = np.arange(len(counts)) % 2 == 1  # runs start with background
        return Region.mask(np.repeat(values, counts).reshape(width, height).T, image=self.image)  # columns first


def _run_lengths(size: Any, counts: Any, where: str) -> tuple[int, int, array[int]]:
    if isinstance(counts, str):
        raise RegionError(f"{where}: counts is compressed; decode it with pycocotools.mask to a PNG or a list")
    if not (_naturals(size) and _naturals(counts)) or len(size) != 2:
        raise RegionError(f"{where}: size is [height, width] and counts a list of run lengths, none negative")
    height, width = size
    if not 0 < height * width <= MAX_PIXELS or sum(counts) != height * width:
        raise RegionError(f"{where}: run lengths sum to {sum(counts)}, the mask is {width}x{height}")
    if not any(counts[1::2]):
        raise RegionError(f"{where}: mask is empty, mark at least one pixel")
    return height, width, array("I", counts)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
