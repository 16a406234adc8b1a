"""Which region stands at which placeholder of a batch, and on which of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvit_ext.prompt import IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size


class BoundRegions(NamedTuple):
    """The M regions of a batch in placeholder order, each with its image's number in the batch."""

    regions: list[ResolvedRegion]
    image_index: list[int]


def bind_to_images(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    regions: Sequence[Sequence[Region] | None],
    image_sizes: Sequence[Size] | None,
) -> BoundRegions:
    """Give every region its image in the batch, and resolve the unresolved ones.

    As in LLaVA, a sample without ``<image>`` consumes one (dummy) image.

    Raises:
        RegionError: naming the sample, for wrong counts, text-only samples with regions, or a bad region.
    """
    keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    placeholders = ((input_ids == REGION_TOKEN_INDEX) & keep).sum(1).tolist()
    images = ((input_ids == IMAGE_TOKEN_INDEX) & keep).sum(1).tolist()
    if len(regions) != len(placeholders):
        raise RegionError(f"regions holds {len(regions)} samples, input_ids {len(placeholders)}")
    bound = BoundRegions([], [])
    first_image = 0
    for sample, (found, count) in enumerate(zip(placeholders, images, strict=True)):
        given = regions[sample] or []
        if len(given) != found:
            raise RegionError(
                f"sample {sample}: {found} <region> in the prompt (after truncation), {len(given)} regions"
            )
        for number, region in enumerate(given):
            name = region.name if isinstance(region, ResolvedRegion) else f"sample {sample}, region {number}"
            if not 0 <= region.image < count:
                raise RegionError(f"{name}: lies on image {region.image}, the prompt has {count} image(s)")
            size = _size_of(image_sizes, first_image + region.image, name)
            bound.regions.append(region.resolve(size, name))
            bound.image_index.append(first_image + region.image)
        first_image += max(count, 1)
    return bound


def _size_of(image_sizes: Sequence[Size] | None, image: int, name: str) -> Size:
    if image_sizes is None or image >= len(image_sizes):
        raise RegionError(f"{name}: image_sizes must give (width, height) for every image, got {image_sizes}")
    return image_sizes[image]
