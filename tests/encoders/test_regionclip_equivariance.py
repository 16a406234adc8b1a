"""RegionCLIP, which has an image of its own, pools where the region is, through the whole model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pvit_ext import Region, RegionConfig
from tests.hosts.brightness import draw, features, smooth
from tests.hosts.tiny_hosts import Parts, load
from tests.tiny import TINY_REGIONCLIP
from tests.tower_inputs import SIZES, boxes_on


@pytest.fixture(scope="module")
def regionclip(llava_checkpoint: Path) -> Parts:
    torch.manual_seed(0)
    options = {**TINY_REGIONCLIP, "shortest_edge": 192, "longest_edge": 320}
    return load(llava_checkpoint, region_config=RegionConfig("regionclip", encoder_options=options))


def res4_brightness(loaded: Parts, picture: Image.Image, regions: list[Region]) -> Tensor:
    """Mean over a region of what RoIAlign hands to RegionCLIP's head, (M, C)."""
    encoder = loaded.model.get_model().region_encoder
    pooled: list[Tensor] = []
    handle = encoder.backbone.layer4.register_forward_pre_hook(lambda _m, args: pooled.append(args[0]))
    features(loaded, picture, regions)
    handle.remove()
    return torch.cat(pooled).mean((2, 3))


@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_regionclip_pools_where_the_region_is(regionclip: Parts, size: tuple[int, int], aspect: str | None) -> None:
    regionclip.model.config.image_aspect_ratio = aspect  # its own view does not care
    regions = [Region.box(*box) for box in boxes_on(size)]
    dark = res4_brightness(regionclip, draw(size, (0, 0, 0, 0)), regions)
    change = torch.stack(
        [(res4_brightness(regionclip, draw(size, box), regions) - dark).norm(dim=1) for box in boxes_on(size)]
    )
    others = change.masked_fill(torch.eye(4, dtype=torch.bool), 0)
    # res4's receptive field reaches beyond a region; the region itself still has to change most, both ways round
    assert (change.diag() > 2 * others.amax(0)).all(), change
    assert (change.diag() > 2 * others.amax(1)).all(), change


def test_regionclip_sees_what_a_centre_crop_cuts_away(regionclip: Parts) -> None:
    regionclip.model.config.image_aspect_ratio = None
    edge = Region.box(0, 10, 30, 90)
    assert features(regionclip, smooth((180, 100)), [edge]).isfinite().all()


def test_region_object_is_not_changed_by_asking(regionclip: Parts) -> None:
    region = Region.box(0.1, 0.1, 0.5, 0.9, normalized=True)
    before = replace(region)
    features(regionclip, smooth((60, 40)), [region])
    assert (region.points, region.normalized) == (before.points, before.normalized)
