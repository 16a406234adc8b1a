"""Images that a judge is shown: a region's surroundings, its mask, or the image with its regions drawn.

They are cut out or drawn where they are sent, so that stored replies are scored without the images.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from pvit_ext.data.generate.request import ImagePart
from pvit_ext.data.schema import Spec
from pvit_ext.evaluation.sample import Sample
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import load_image
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region, ResolvedRegion, Size

SMALLEST = 56
"""Pixels of the side of a box that is cut out with its surroundings; a smaller one is enlarged."""
View = Literal["whole", "crop", "mask", "drawn"]


@dataclass(frozen=True)
class JudgeImage(ImagePart):
    """One image of a message.

    Args:
        sample: whose first image it is of.
        view: the image as it is, the region with as much again on each side, the region's mask there, or the image
            with all regions drawn and numbered.
        region: number of the region, from 0.
    """

    sample: Sample = field(default_factory=lambda: Sample("", (), "", ""))
    view: View = "whole"
    region: int = 0

    def mark(self) -> dict[str, Any]:
        """What tells it from any other."""
        return super().mark() | {"view": self.view, "region": self.region, "of": list(map(_identity, self._shown()))}

    def data_url(self) -> str:
        """The image as a PNG in a data URL."""
        image, stream = self._render(), io.BytesIO()
        image.thumbnail((self.side, self.side))
        image.save(stream, "PNG")
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()

    def _render(self) -> Image.Image:
        image = load_image(self.file)
        if self.view == "whole":
            return image
        regions = self._resolved(image.size)
        if self.view == "drawn":
            return draw_regions(image, regions, min(self.side, max(image.size)))
        mask = regions[self.region].to_mask(image.size)
        box = surroundings(regions[self.region].bounds(image.size), image.size)
        shown = image if self.view == "crop" else Image.fromarray(mask.astype(np.uint8) * 255)
        return shown.crop(box)

    def _resolved(self, size: Size) -> list[ResolvedRegion]:
        return [region.resolve(size, self.sample.name) for region in self.sample.different_regions()]

    def _shown(self) -> Sequence[Spec]:
        if self.view == "whole":
            return []
        specs = list({id(spec): spec for spec in self.sample.specs}.values())
        return specs if self.view == "drawn" else [specs[self.region]]


def _identity(spec: Spec) -> str:
    if isinstance(spec, Region) and spec.pixels is not None:
        return hashlib.sha256(repr(spec.pixels.shape).encode() + spec.pixels.tobytes()).hexdigest()
    return repr(spec)


def surroundings(box: Box, size: Size) -> tuple[int, int, int, int]:
    """The box with as much again on each side, at least :data:`SMALLEST` pixels, as GAR's scripts cut it out.

    Args:
        box: pixels.
        size: (width, height) of its image, which it is clipped to.
    """
    found = []
    for k in (0, 1):
        side = max(box[2 + k] - box[k], SMALLEST)
        start = int((box[k] + box[2 + k]) / 2 - side / 2)
        found.append((max(int(start - side), 0), min(int(start + 2 * side), size[k])))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def image_of(sample: Sample, side: int, view: View = "whole", region: int = 0) -> JudgeImage:
    """An image of a sample.

    Args:
        sample: with the image.
        side: longer side when it is sent, pixels.
        view, region: see :class:`JudgeImage`.
    """
    return JudgeImage(sample.images[0], side, sample=sample, view=view, region=region)
