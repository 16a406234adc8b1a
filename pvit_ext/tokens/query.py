"""A question about regions of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pvit_ext.regions.image import image_size, load_image
from pvit_ext.regions.region import Region, Size


@dataclass
class Query:
    """One question.

    Args:
        image: path or PIL image, a list of several, or None.
        text: question with one ``<region>`` per region; ``<image>`` may say where the images go, else they come first.
        regions: in the order of their placeholders, those in ``history`` first; ``Region(..., image=k)`` for image k.
        history: earlier turns as (question, answer).
    """

    image: Any
    text: str
    regions: Sequence[Region] = ()
    history: Sequence[tuple[str, str]] = field(default_factory=list)

    def load_images(self) -> list[Image.Image]:
        """The query's images, upright RGB."""
        return [load_image(image) for image in self._sources()]

    def image_sizes(self) -> list[Size]:
        """(width, height) of the upright images, read from their headers."""
        return [image_size(image) for image in self._sources()]

    def _sources(self) -> list[Any]:
        images = self.image if isinstance(self.image, (list, tuple)) else [self.image]
        return [image for image in images if image is not None]
