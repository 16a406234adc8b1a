"""Masks in data files: a PNG in the image folder, or COCO run lengths; read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.regions.image import open_image, reading
from pvit_ext.regions.mask_values import mask_of_image
from pvit_ext.regions.region import Region, RegionError
from pvit_ext.regions.run_lengths import RunLengths, parse_run_lengths


@dataclass(frozen=True)
class PendingMask:
    """A mask that is still in its file.

    Args:
        source: path relative to the image folder, or run lengths.
        image: which image of the prompt it lies on.
    """

    source: str | RunLengths
    image: int = 0

    @classmethod
    def parse(cls, value: Any, image: int, name: str) -> PendingMask:
        """Read a mask from a record's JSON.

        Raises:
            RegionError: if it is neither a path nor run lengths.
        """
        if isinstance(value, str):
            return cls(value, image)
        if not isinstance(value, dict):
            known = 'a PNG path or run lengths {"size": [height, width], "counts": ...}'
            raise RegionError(f'{name}: a mask is {known}; lists of vertices go under "polygon"')
        try:
            return cls(parse_run_lengths(value), image)
        except ValueError as error:
            raise RegionError(f"{name}: {error}") from error

    def load(self, folder: str | None, name: str) -> Region:
        """The region, in the pixels of its image.

        Raises:
            RegionError: naming the record.
        """
        if isinstance(self.source, RunLengths):
            return Region.mask(self.source.decode(), image=self.image)
        if folder is None:
            raise RegionError(f"{name}: mask {self.source!r} is a file, give the image folder")
        with reading(name, f"mask {self.source}"), open_image(Path(folder, self.source)) as image:
            pixels = mask_of_image(image)
        return Region.mask(pixels, image=self.image)
