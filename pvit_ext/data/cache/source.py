"""What a cache stores: what a frozen tower makes of one image at a time."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.regions.region import Size

BLANK = ""
"""The name under which is stored what stands for the image of a record without one."""


class Made(NamedTuple):
    """What a tower makes of an image.

    Args:
        tensors: in the order in which they are stored.
        about: what else a run needs to know of the image, in plain JSON types.
    """

    tensors: list[Tensor]
    about: dict[str, Any]


class StoredTower(Protocol):
    """A frozen tower with its preprocessing."""

    @property
    def dtype(self) -> torch.dtype:
        """That it computes in."""

    def key(self) -> dict[str, Any]:
        """All that its output depends on but the image; see :func:`~pvit_ext.data.cache.key.key_of`."""

    def bytes_of(self, size: Size) -> int:
        """About how many bytes the output for an image of this (width, height) takes."""

    def make(self, image: Image.Image | None) -> Made:
        """Run it on an upright RGB original; on what stands for one, in a record without, where there is None."""


class TowerSource(Protocol):
    """What workers make a tower of; it is sent to them pickled."""

    @property
    def all_images(self) -> bool:
        """Whether a run needs images without a region too, and :data:`BLANK`."""

    def open(self, device: str) -> StoredTower:
        """The tower with its weights on a device."""

    def outline(self) -> StoredTower:
        """The tower as far as :meth:`StoredTower.bytes_of` needs it."""
