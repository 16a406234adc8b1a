"""RegionCLIP, which has an image of its own, pools where the region is, through the whole model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig
from tests.encoders.bright_patch import SIZES, Loaded, boxes_on, draw, features, smooth
from tests.tiny import TINY_REGIONCLIP

# RegionCLIP, which has a view of its own


@pytest.fixture(scope="module")
def regionclip(llava_checkpoint: Path) -> Loaded:
    torch.manual_seed(0)
    options = {**TINY_REGIONCLIP, "shortest_edge": 192, "longest_edge": 320}
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=RegionConfig("regionclip", encoder_options=options), device="cpu"
    )
    return tokenizer, model, processor


def res4_brightness(loaded: Loaded, picture: Image.Image, regions: list[Region]) -> Tensor:
    """Mean over a region of what RoIAlign hands to RegionCLIP's head, (M, C)."""
    encoder = loaded[1].get_model().region_encoder
    pooled: list[Tensor] = []
    handle = encoder.backbone.layer4.register_forward_pre_hook(lambda _m, args: pooled.append(args[0]))
    features(loaded, picture, regions)
    handle.remove()
    return torch.cat(pooled).mean((2, 3))


@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_regionclip_pools_where_the_region_is(regionclip: Loaded, size: tuple[int, int], aspect: str | None) -> None:
    regionclip[1].config.image_aspect_ratio = aspect  # its own view does not care
    regions = [Region.box(*box) for box in boxes_on(size)]
    dark = res4_brightness(regionclip, draw(size, (0, 0, 0, 0)), regions)
    change = torch.stack(
        [(res4_brightness(regionclip, draw(size, box), regions) - dark).norm(dim=1) for box in boxes_on(size)]
    )
    others = change.masked_fill(torch.eye(4, dtype=torch.bool), 0)
    # res4's receptive field reaches beyond a region; the region itself still has to change most, both ways round
    assert (change.diag() > 2 * others.amax(0)).all(), change
    assert (change.diag() > 2 * others.amax(1)).all(), change


def test_regionclip_sees_what_a_centre_crop_cuts_away(regionclip: Loaded) -> None:
    regionclip[1].config.image_aspect_ratio = None
    edge = Region.box(0, 10, 30, 90)
    assert features(regionclip, smooth((180, 100)), [edge]).isfinite().all()


def test_region_object_is_not_changed_by_asking(regionclip: Loaded) -> None:
    region = Region.box(0.1, 0.1, 0.5, 0.9, normalized=True)
    before = replace(region)
    features(regionclip, smooth((60, 40)), [region])
    assert (region.points, region.normalized) == (before.points, before.normalized)
