"""What a region encoder gets to see of a batch, checked before it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.anyres import ImageLayout
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.injection import BoundRegions
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions import Region, RegionError, Size
from pvit_ext.views import View

Extra = list[dict[str, Tensor] | None]


def build_inputs(
    encoder: RegionEncoder,
    bound: BoundRegions,
    sizes: Sequence[Size] | None,
    maps: list[Tensor],
    pictures: list[int],
    extra: Extra | None,
    layout: ImageLayout,
    device: torch.device,
) -> RegionInputs:
    """Inputs for the regions of a batch; for a batch without any, of one dummy region.

    Args:
        encoder: that will get them.
        bound: the M regions.
        sizes: B (width, height) of the upright originals.
        maps: one (pictures, C_l, H_l, W_l) map per layer that the encoder reads, and perhaps one for cross layers.
        pictures: of each image, more than one where it came as tiles.
        extra: per image the encoder's ``preprocess`` output, None where an image has no region.
        layout: of the images' pictures.
        device: for the index.

    Raises:
        RegionError: when what the encoder needs is missing.
    """
    if not bound.regions:
        bound, sizes = BoundRegions([Region.box(4, 4, 12, 12)], [0], ["dummy region"]), [(16, 16)]
        maps, pictures, extra = [one[:1] for one in maps], [1], [encoder.dummy_extra()]
    sizes = [(int(width), int(height)) for width, height in sizes or []]
    _check_kinds(encoder, bound.regions, bound.owners)
    _check_extra(encoder, bound, extra)
    maps, context, views = maps[: len(encoder.feature_layers)], maps[len(encoder.feature_layers) :], list[View]()
    if maps:
        maps, views = layout.join(maps, pictures, sizes, encoder.reads_tiles)
    if context:
        context = layout.join(context, pictures, sizes, tiled=False)[0]
    index, whole = torch.tensor(bound.image_index, device=device), context[0] if context else None
    return RegionInputs(bound.regions, index, sizes, maps, views, extra or [], bound.owners, whole)


def region_extra(encoder: Any, images: Sequence[Image.Image], regions: Sequence[Region], where: str) -> list[Any]:
    """Per image of one sample the encoder's ``preprocess`` output, None for an image without a region."""
    extra: list[Any] = []
    for number, image in enumerate(images):
        here = _on_image(number, image, regions, where)
        extra.append(encoder.preprocess(image, here) if here and encoder is not None else None)
    return extra


def paint_regions(
    encoder: Any, images: Sequence[Image.Image], regions: Sequence[Region], where: str
) -> list[Image.Image]:
    """The images of one sample as the image tower shall see them."""
    if encoder is None:
        return list(images)
    return [encoder.paint(image, _on_image(number, image, regions, where)) for number, image in enumerate(images)]


def write_regions(
    encoder: Any, texts: Sequence[str], regions: Sequence[Region], sizes: Sequence[Size], where: str
) -> tuple[list[str], list[Region]]:
    """For an encoder with T = 0, put its words where ``<region>`` stands in the texts of one sample.

    Args:
        encoder: or None.
        texts: with one ``<region>`` per region, in order.
        regions: of the sample.
        sizes: (width, height) of its images.
        where: names the sample in error messages.

    Returns:
        the texts, and the regions that are left for the model.

    Raises:
        RegionError: for a region that the encoder cannot describe.
    """
    if encoder is None or encoder.tokens_per_region or not regions:
        return list(texts), list(regions)
    if outside := [region.image for region in regions if region.image >= len(sizes)]:
        raise RegionError(f"{where}: a region lies on image {outside[0]}, there are {len(sizes)} image(s)")
    resolved = [region.resolve(sizes[region.image], where) for region in regions]
    _check_kinds(encoder, resolved, [f"{where}, region {number}" for number in range(len(resolved))])
    try:
        words = iter(encoder.describe(resolved, sizes))
    except RegionError as error:
        raise RegionError(f"{where}: {error}") from error
    return [re.sub(re.escape(REGION_PLACEHOLDER), lambda _: next(words), text) for text in texts], []


def check_regions(encoder: Any, regions: Sequence[Region], size: Size, view: View, where: str) -> None:
    """Refuse in data workers, where a record can be named and replaced, what would end a step of training.

    Args:
        encoder: or None.
        regions: resolved, of one image.
        size: (width, height) of the image.
        view: of the image tower.
        where: names the record.

    Raises:
        RegionError: for a kind that the encoder does not take, or a box that the view crops away.
    """
    owners = [f"{where}: region {number}" for number in range(len(regions))]
    if encoder is None:
        return
    _check_kinds(encoder, regions, owners)
    if encoder.feature_layers:
        index = torch.zeros(len(regions), dtype=torch.long)
        RegionInputs(list(regions), index, [size], views=[view], owners=owners).tower_boxes  # noqa: B018


def _on_image(number: int, image: Image.Image, regions: Sequence[Region], where: str) -> list[Region]:
    return [region.resolve(image.size, where) for region in regions if region.image == number]


def _check_kinds(encoder: RegionEncoder, regions: Sequence[Region], owners: Sequence[str]) -> None:
    for region, owner in zip(regions, owners, strict=True):
        if region.kind not in encoder.region_kinds:
            known = ", ".join(sorted(encoder.region_kinds))
            raise RegionError(f"{owner}: the encoder {encoder.name!r} takes {known}, this is a {region.kind}")


def _check_extra(encoder: RegionEncoder, bound: BoundRegions, extra: Extra | None) -> None:
    if type(encoder).preprocess is RegionEncoder.preprocess:
        return
    for image, owner in zip(bound.image_index, bound.owners, strict=True):
        if extra is None or image >= len(extra) or not extra[image]:
            raise RegionError(
                f"{owner}, image {image} of the batch: the encoder {encoder.name!r} needs its own pixels; pass "
                "region_extra=, per image of the batch encoder.preprocess(image, regions on it), or None where no "
                "region lies (pvit_ext.ask and the training data do so)"
            )
