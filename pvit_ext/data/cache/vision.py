"""What a frozen vision tower made of images, in the place of the tower and of their pixels.

Pixels are zeros of their shape, and images blanks of their size, where nothing looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.data.cache.key import name_of
from pvit_ext.data.cache.nested import put_together
from pvit_ext.data.cache.source import BLANK

_NUMBER = "pvit_ext_stored_image"
_FEW = 64
"""Values of a tensor that are kept themselves: sizes and grids, and no pixels."""


class StoredOutputs(Protocol):
    """Outputs of a vision tower by an image's number."""

    def number(self, name: str) -> int:
        """The number of an image, by its name.

        Raises:
            RegionError: when there is no output for it.
        """

    def about_image(self, number: int) -> dict[str, Any]:
        """What is known of an image beside the tensors; see :meth:`~pvit_ext.data.cache.source.StoredTower.make`."""

    def tensors(self, number: int) -> list[Tensor]:
        """What the tower made of it."""


class StoredVision:
    """Outputs of a vision tower in a cache.

    Args:
        cache: of all images of a run.
        axis: along which the tower's output for a batch is that of its images one after the other.
    """

    def __init__(self, cache: StoredOutputs, axis: int) -> None:
        self.cache, self.axis = cache, axis

    def blank(self, name: str) -> Image.Image:
        """An image of the size of one in the data file, which nobody looks at.

        Raises:
            RegionError: when it is not stored.
        """
        about = self.cache.about_image(self.cache.number(name))
        return self.mark(Image.new("1", tuple(about["size"])), name)

    def mark(self, image: Image.Image, name: str = BLANK) -> Image.Image:
        """Note on an image which one it is, by default the one of a record without images."""
        image.info[_NUMBER] = self.cache.number(name)
        return image

    def prepared(self, image: Image.Image) -> dict[str, Any]:
        """What the host's image processor made of a marked image, its pixels zeros."""
        return unpacked(self.cache.about_image(number_of(image))["prepared"])

    def output(self, numbers: Sequence[int], device: torch.device) -> Any:
        """What the tower returns for a batch of images."""
        each = [self.cache.tensors(number) for number in numbers]
        form = self.cache.about_image(numbers[0])["form"]
        return put_together(form, [_joined(parts, self.axis).to(device) for parts in zip(*each, strict=True)])


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def number_of(image: Image.Image) -> int:
    """Of an image that :meth:`StoredVision.mark` has marked."""
    return int(image.info[_NUMBER])


def packed(prepared: dict[str, Any]) -> dict[str, Any]:
    """What an image processor made, in plain JSON types; of pixels the shape alone."""
    return {name: _packed(value) for name, value in prepared.items()}


def unpacked(values: dict[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`packed`, with zeros for pixels."""
    return {name: _unpacked(value) for name, value in values.items()}


def _packed(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return {"value": value}
    few = value.numel() <= _FEW
    return {"dtype": name_of(value.dtype), **({"values": value.tolist()} if few else {"shape": [*value.shape]})}


def _unpacked(value: dict[str, Any]) -> Any:
    if "value" in value:
        return value["value"]
    dtype: torch.dtype = getattr(torch, value["dtype"])
    return torch.tensor(value["values"], dtype=dtype) if "values" in value else torch.zeros(value["shape"], dtype=dtype)
