"""What becomes of a sample's images, texts and regions before tokenizer and vision tower see them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.region import RegionError, ResolvedRegion, Size
from pvit_ext.regions.view import View


def region_extra(encoder: Any, images: Sequence[Image.Image], regions: Sequence[ResolvedRegion]) -> list[Any]:
    """Per image of one sample the encoder's ``preprocess`` output, None for an image without a region."""
    extra: list[Any] = []
    for number, image in enumerate(images):
        here = _on_image(number, regions)
        extra.append(encoder.preprocess(image, here) if here and encoder is not None else None)
    return extra


def paint_regions(encoder: Any, images: Sequence[Image.Image], regions: Sequence[ResolvedRegion]) -> list[Image.Image]:
    """The images of one sample as the vision tower shall see them."""
    if encoder is None:
        return list(images)
    return [encoder.paint(image, _on_image(number, regions)) for number, image in enumerate(images)]


def write_regions(
    encoder: Any, texts: Sequence[str], regions: Sequence[ResolvedRegion], sizes: Sequence[Size], sample: str
) -> tuple[list[str], list[ResolvedRegion]]:
    """For an encoder with T = 0, put its words where ``<region>`` stands in the texts of one sample.

    Args:
        encoder: or None.
        texts: with one ``<region>`` per region, in order.
        regions: of the sample.
        sizes: (width, height) of its images.
        sample: its name in error messages.

    Returns:
        the texts, and the regions that the model gets.

    Raises:
        RegionError: for a region that the encoder cannot describe.
    """
    if encoder is None or encoder.tokens_per_region or not regions:
        return list(texts), list(regions)
    check_kinds(encoder, regions)
    try:
        words = iter(encoder.describe(regions, sizes))
    except RegionError as error:
        raise RegionError(f"{sample}: {error}") from error
    return [re.sub(re.escape(REGION_PLACEHOLDER), lambda _: next(words), text) for text in texts], []


def check_regions(encoder: Any, regions: Sequence[ResolvedRegion], size: Size, view: View) -> None:
    """Refuse in data workers, where a record can be named and replaced, what would end a step of training.

    Args:
        encoder: or None.
        regions: of one image.
        size: (width, height) of the image.
        view: of the vision tower.

    Raises:
        RegionError: for a kind that the encoder does not take, or a box that the view crops away.
    """
    if encoder is None:
        return
    check_kinds(encoder, regions)
    if encoder.feature_layers:
        index = torch.zeros(len(regions), dtype=torch.long)
        RegionInputs(list(regions), index, [size], views=[view]).tower_boxes  # noqa: B018


def _on_image(number: int, regions: Sequence[ResolvedRegion]) -> list[ResolvedRegion]:
    return [region for region in regions if region.image == number]


def check_kinds(encoder: RegionEncoder, regions: Sequence[ResolvedRegion]) -> None:
    """Refuse a kind that the encoder does not take.

    Raises:
        RegionError: naming the region.
    """
    for region in regions:
        if region.kind not in encoder.region_kinds:
            known = ", ".join(sorted(encoder.region_kinds))
            raise RegionError(f"{region.name}: the encoder {encoder.name!r} takes {known}, this is a {region.kind}")
