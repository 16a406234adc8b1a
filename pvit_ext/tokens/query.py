"""A question about regions of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from pvit_ext.regions.image import image_size, load_image
from pvit_ext.regions.image_source import describe
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.tokens.given_regions import is_list, read_regions


@dataclass
class Query:
    """One question.

    Args:
        image: path, PIL image, uint8 array (H, W, 3), bytes or binary stream, a list of several, or None.
        text: question with one ``<region>`` per region; ``<image>`` may say where the images go, else they come first.
        regions: in the order of their placeholders, those in ``history`` first; ``Region(..., image=k)`` for image k.
            Four numbers are a box in pixels; a bool array (H, W), run lengths or an image of one channel are a mask.
            An object of a data record, ``{"polygon": ...}``, is what it says there. One region needs no list. Arrays
            and tensors of boxes (N, 4) or masks (N, H, W) are N regions.
        history: earlier turns as (question, answer).
        task: name of its task for a model with adapters by task, such as ``region`` for a question that asks for a box;
            None for the usual one, by whether it has regions. Other models have no use for it.
        tags: of the images, a list of texts that stand before the first question; for a model that reads them.
        literal: text such as ``<bbox>`` is meant as it stands, as in the questions of a benchmark. Otherwise it is an
            error in a question about an image: no encoder reads it.
    """

    image: Any
    text: str
    regions: Any = ()
    history: Sequence[tuple[str, str]] = ()
    task: str | None = None
    tags: Any = None
    literal: bool = False

    def __post_init__(self) -> None:
        """Read a stream once: its size and its pixels are asked for at different times."""
        self.image = [_read(one) for one in self.image] if isinstance(self.image, (list, tuple)) else _read(self.image)

    def read_by(self, model: Any) -> Query:
        """The same question for a model that may read no tags, without them then.

        Args:
            model: of either host.
        """
        config = getattr(model, "region_config", None)
        return self if config is not None and config.lion_tags else replace(self, tags=None)

    def load_images(self) -> list[Image.Image]:
        """The query's images, upright RGB."""
        return [load_image(image) for image in self.sources()]

    def image_sizes(self) -> list[Size]:
        """(width, height) of the upright images, read from their headers."""
        return [image_size(image) for image in self.sources()]

    def turns(self, name: str) -> tuple[list[str], list[str | None]]:
        """Questions and answers of the conversation, the last answer None.

        Raises:
            RegionError: naming the query, for anything but text.
        """
        if not isinstance(self.text, str):
            raise RegionError(f"{name}: its text is {describe(self.text)}; give a string")
        history = [] if self.history is None else list(self.history)
        for turn in history:
            if not is_list(turn) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
                raise RegionError(f"{name}: its history holds {describe(turn)}; give (question, answer)")
        return [question for question, _ in history] + [self.text], [*(answer for _, answer in history), None]

    def all_regions(self, name: str) -> list[Region]:
        """The regions given beside the text.

        Raises:
            RegionError: naming the query and what is no region.
        """
        return read_regions(self.regions, name)

    def sources(self) -> list[Any]:
        """Its images as they were given."""
        images = self.image if isinstance(self.image, (list, tuple)) else [self.image]
        return [image for image in images if image is not None]


def _read(image: Any) -> Any:
    return image.read() if hasattr(image, "read") and not isinstance(image, (Image.Image, io.TextIOBase)) else image
