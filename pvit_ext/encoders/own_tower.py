"""Region encoders with a frozen tower of their own, whose maps of an image may have been made before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.regions.region import ResolvedRegion, Size

PIXELS, STORED, MADE = "pixels", "stored_map", "made_map"
"""Keys of ``extra``: an image as the tower sees it, the number of its map in a store, or its map (C, H, W) itself."""
_ZEROS = -1
"""The number of a map of zeros."""


class StoredMaps(Protocol):
    """Maps of images that were made before; see :mod:`pvit_ext.data.cache`."""

    def number(self, name: str) -> int:
        """The number of an image's map.

        Args:
            name: of the image, as in the data file.

        Raises:
            RegionError: when there is none.
        """

    def read(self, number: int) -> Tensor:
        """A map (C, H, W) of the tower's dtype, channels-last, on the CPU."""


class TowerEncoder(RegionEncoder):
    """An encoder whose frozen tower makes one map of a whole image, whatever the regions on it.

    A subclass writes the first five methods, and gets its maps from :meth:`maps`, which makes or reads them.

    Attributes:
        stored_maps: set where a run has them.
    """

    frozen: ClassVar[bool] = True
    stored_maps: StoredMaps | None = None

    def pixels(self, image: Image.Image) -> Tensor:
        """What the tower sees of an upright RGB original, (3, h, w)."""
        raise NotImplementedError

    def run_tower(self, pixels: Tensor) -> Tensor:
        """Maps (B, C, H, W), channels-last, of :meth:`pixels` of images of one size (B, 3, h, w)."""
        raise NotImplementedError

    def view_size(self, source: Size) -> Size:
        """(width, height) of :meth:`pixels` of an image of this size."""
        raise NotImplementedError

    def map_shape(self, source: Size) -> tuple[int, int, int]:
        """(C, H, W) of the map of an image of this size."""
        raise NotImplementedError

    def tower_state(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """All that maps depend on beside the image: settings of preprocessing, and the tower's tensors by name."""
        raise NotImplementedError

    def dummy_pixels(self) -> Tensor:
        """Cheapest valid input of :meth:`run_tower` (3, h, w), for a batch without regions."""
        return self.pixels(Image.new("RGB", (16, 16)))

    def preprocess(self, image: Image.Image, regions: list[ResolvedRegion]) -> dict[str, Tensor]:
        """The pixels of an image, whatever the regions."""
        return {PIXELS: self.pixels(image)}

    def dummy_extra(self) -> dict[str, Tensor]:
        """Pixels, but in a run with stored maps a map of zeros.

        Under ZeRO-3 a rank that ran its tower alone would wait for the others for ever.
        """
        return {PIXELS: self.dummy_pixels()} if self.stored_maps is None else {STORED: torch.tensor(_ZEROS)}

    def passes(self, inputs: RegionInputs) -> list[tuple[Size, list[int]]]:
        """The images that have regions, in groups that :meth:`maps` takes, each with its view size.

        Maps that are there already are not joined: that would copy them.
        """
        groups: dict[tuple[Size, int | None], list[int]] = {}
        for image in sorted(set(inputs.image_numbers)):
            extra = _extra(inputs, image)
            if PIXELS in extra:
                height, width = extra[PIXELS].shape[1:]
                size = width, height
            else:
                size = self.view_size(inputs.image_sizes[image])
            groups.setdefault((size, None if PIXELS in extra else image), []).append(image)
        return [(size, images) for (size, _), images in groups.items()]

    def maps(self, images: Sequence[int], inputs: RegionInputs) -> Tensor:
        """Maps (B, C, H, W) of the images of one group of :meth:`passes`: made now, or read where they are stored."""
        extra = [_extra(inputs, image) for image in images]
        if MADE in extra[0]:
            made = [one[MADE] for one in extra]
            return made[0][None] if len(made) == 1 else torch.stack(made)
        if STORED not in extra[0]:
            pixels = torch.stack([one[PIXELS] for one in extra])
            # A map is the same alone and in any batch, stored or not. The CPU's kernels round by the size of a batch,
            # so there an image goes alone; a full-size tower loses no time by that.
            passes = pixels.split(1 if next(self.parameters()).device.type == "cpu" else len(pixels))
            return torch.cat([self.run_tower(part) for part in passes])
        sizes = [inputs.image_sizes[image] for image in images]
        found = [self._stored(int(one[STORED]), size) for one, size in zip(extra, sizes, strict=True)]
        return found[0][None] if len(found) == 1 else torch.stack(found)

    def _stored(self, number: int, source: Size) -> Tensor:
        weight = next(self.parameters())
        if number == _ZEROS:
            return weight.new_zeros(self.map_shape(source))
        if self.stored_maps is None:
            raise ValueError("the batch names stored maps, but the encoder has no store: set encoder.stored_maps")
        found = self.stored_maps.read(number)
        if found.dtype != weight.dtype:
            raise ValueError(
                f"the stored maps are {found.dtype}, the tower computes in {weight.dtype}: make them with that --dtype"
            )
        return found.to(weight.device)


def _extra(inputs: RegionInputs, image: int) -> dict[str, Tensor]:
    extra = inputs.extra[image] if image < len(inputs.extra) else None
    if extra is None or not {PIXELS, STORED, MADE} & {*extra}:
        raise ValueError(
            f"image {image} has regions but no pixels; put the encoder's preprocess(...) into extra[{image}]"
        )
    return extra
