"""What a region encoder gets to see of a LLaVA batch, checked before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.prompt import REGION_TOKEN_INDEX
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.regions.view import View
from pvit_ext.tokens.binding import BoundRegions

Extra = list[dict[str, Tensor] | None]


def build_inputs(
    encoder: RegionEncoder,
    bound: BoundRegions,
    sizes: Sequence[Size] | None,
    maps: list[Tensor],
    crops: list[int],
    extra: Extra | None,
    layout: ImageLayout,
    device: torch.device,
) -> RegionInputs:
    """Inputs for the regions of a batch, or for one dummy region in a batch without any.

    Args:
        encoder: that will get them.
        bound: the M regions.
        sizes: B (width, height) of the upright originals.
        maps: one (crops, C_l, H_l, W_l) map per layer that the encoder reads, and perhaps one for cross layers.
        crops: of each image, more than one where it came as tiles.
        extra: per image the encoder's ``preprocess`` output, None where an image has no region.
        layout: of the images' crops.
        device: for the index.

    Raises:
        RegionError: when what the encoder needs is missing.
    """
    if not bound.regions:
        bound, sizes = BoundRegions([Region.box(4, 4, 12, 12).resolve((16, 16), "dummy region")], [0]), [(16, 16)]
        maps, crops, extra = [one[:1] for one in maps], [1], [encoder.dummy_extra()]
    sizes = list(sizes or [])
    encoder.check_kinds(bound.regions)
    encoder.check_extra(bound.regions, bound.image_index, extra)
    maps, context, views = maps[: len(encoder.feature_layers)], maps[len(encoder.feature_layers) :], list[View]()
    if maps:
        maps, views = layout.join(maps, crops, sizes, encoder.reads_tiles)
    if context:
        context = layout.join(context, crops, sizes, tiled=False)[0]
    index, context_map = torch.tensor(bound.image_index, device=device), context[0] if context else None
    return RegionInputs(bound.regions, index, sizes, maps, views, extra or [], context_map)


def check_complete(encoder: RegionEncoder | None, images: Any) -> RegionEncoder:
    """The encoder, if there is one for the regions that were given, and images for it."""
    if encoder is None:
        raise RegionError(
            "regions were given, but the model has no region encoder: pvit_ext.attach(model, ...) one, or load a "
            "checkpoint that has one"
        )
    if images is None:
        raise RegionError("regions were given, but no images: pass images=, one per <image> and per text-only sample")
    return encoder


def refuse_unbound(input_ids: Tensor | None) -> None:
    """Refuse a sentinel, which the embedding layer cannot read; a single id is the decoding loop, which has none."""
    if input_ids is not None and input_ids.shape[-1] > 1 and bool((input_ids == REGION_TOKEN_INDEX).any()):
        raise RegionError("the prompt has <region>, but no regions were given: pass regions=[[Region.box(...)], ...]")


WITHOUT_TOKENS = (
    "the encoder {!r} shows regions by text and pixels, so the model takes none: use pvit_ext.ask, or "
    "pvit_ext.tokens.processor before the prompt is tokenised and the image preprocessed"
)
