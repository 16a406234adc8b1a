"""Which region stands at which placeholder of a batch, and on which of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvit_ext.prompt import IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX
from pvit_ext.regions.region import Region, RegionError, Size


class BoundRegions(NamedTuple):
    """The M regions of a batch in placeholder order: resolved, with the batch-wide image and the name of each."""

    regions: list[Region]
    image_index: list[int]
    owners: list[str]


def bind_to_images(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    regions: Sequence[Sequence[Region] | None],
    image_sizes: Sequence[Size] | None,
) -> BoundRegions:
    """Resolve every region against its image.

    LLaVA lets a sample without ``<image>`` consume one (dummy) image all the same; so does the count here.

    Raises:
        RegionError: naming the sample, for wrong counts, text-only samples with regions, or a bad region.
    """
    keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    placeholders = ((input_ids == REGION_TOKEN_INDEX) & keep).sum(1).tolist()
    images = ((input_ids == IMAGE_TOKEN_INDEX) & keep).sum(1).tolist()
    if len(regions) != len(placeholders):
        raise RegionError(f"regions holds {len(regions)} samples, input_ids {len(placeholders)}")
    bound = BoundRegions([], [], [])
    first_image = 0
    for sample, (found, count) in enumerate(zip(placeholders, images, strict=True)):
        given = regions[sample] or []
        if len(given) != found:
            raise RegionError(
                f"sample {sample}: {found} <region> in the prompt (after truncation), {len(given)} regions"
            )
        for number, region in enumerate(given):
            where = f"sample {sample}, region {number}"
            if not 0 <= region.image < count:
                raise RegionError(f"{where}: lies on image {region.image}, the prompt has {count} image(s)")
            size = _size_of(image_sizes, first_image + region.image, where)
            bound.regions.append(region.resolve(size, where))
            bound.image_index.append(first_image + region.image)
            bound.owners.append(where)
        first_image += max(count, 1)
    return bound


def _size_of(image_sizes: Sequence[Size] | None, image: int, where: str) -> Size:
    if image_sizes is None or image >= len(image_sizes):
        raise RegionError(f"{where}: image_sizes must give (width, height) for every image, got {image_sizes}")
    width, height = image_sizes[image]
    return int(width), int(height)
