"""What LLaVA's tower shows of regions at the edge of its view, and its hidden states.

That a bright patch dominates its region's feature on either host is in tests/hosts/test_equivariance.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pvit_ext import Region, RegionError
from tests.hosts.brightness import SIDE, draw, features, make_looking, smooth
from tests.hosts.tiny_hosts import Parts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_looking("llava/crop", tmp_path_factory)


@pytest.fixture
def tower_roi(made: Parts) -> Iterator[Parts]:
    yield made
    made.model.config.image_aspect_ratio = None


def test_region_that_the_centre_crop_cuts_away_is_named(tower_roi: Parts) -> None:
    inside, outside = Region.box(60, 20, 90, 50), Region.box(0, 10, 30, 90)  # the crop keeps columns 40 to 140
    message = r"^query 0, region 1, image 0 .*112x112 view crops the region \[0.0, 10.0, 30.0, 90.0\] away.*=pad"
    with pytest.raises(RegionError, match=message):
        features(tower_roi, smooth((180, 100)), [inside, outside])
    tower_roi.model.config.image_aspect_ratio = "pad"
    assert features(tower_roi, smooth((180, 100)), [inside, outside]).isfinite().all()


def test_region_partly_cut_by_the_crop_keeps_its_visible_part(tower_roi: Parts) -> None:
    picture = draw((180, 100), (40, 20, 60, 60))
    regions = [Region.box(10, 20, 60, 60), Region.box(44 / (201 / 180), 20, 60, 60)]  # the view's column 0 is its 44th
    whole, visible = features(tower_roi, picture, regions)
    torch.testing.assert_close(whole, visible)


def test_maps_are_the_hidden_states_of_the_tower(tower_roi: Parts) -> None:
    """No second pass, any layer, no stale hooks; LLaVA's own features are what they were."""
    from pvit_ext.hosts.llava.tower import capture_feature_maps

    tower = tower_roi.model.get_vision_tower()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
        plain = tower(pixels)
        with capture_feature_maps(tower, (-2, 1)) as maps:
            seen = tower(pixels)
        tower(pixels)
    assert torch.equal(plain, seen)
    assert len(maps) == 2
    for layer, one in zip((-2, 1), maps, strict=True):
        assert one.shape == (2, 32, 16, 16)
        assert torch.equal(one.flatten(2).transpose(1, 2), states[layer][:, 1:])
    with pytest.raises(KeyError), capture_feature_maps(tower, (-2,)):
        raise KeyError
    assert not tower.vision_tower._forward_hooks
