"""A bright patch at a region dominates that region's feature and no other's, through a model of each host, in every
view; what is seen is the same in any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.regions.region import Size
from tests.encoders.test_tower_encoders import blinded
from tests.hosts.brightness import (
    CONFIG,
    VIEWS,
    draw,
    features,
    features_of_each,
    features_of_queries,
    make_looking,
    smooth,
)
from tests.hosts.tiny_hosts import Parts
from tests.tower_inputs import KINDS, SIZES, as_kind, boxes_on

SLOW_VIEWS = ("transformers/llava_siglip", "transformers/llava_onevision")
DARK = (0, 0, 0, 0)


@pytest.fixture(
    scope="module", params=[pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW_VIEWS)) for one in VIEWS]
)
def looking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return make_looking(request.param, tmp_path_factory)


@pytest.fixture
def attached(looking: Parts) -> Iterator[Parts]:
    """A test may attach another encoder."""
    yield looking
    pvit_ext.attach(looking.model, CONFIG, processor=looking.processor)


def region_of(kind: str, box: tuple[int, int, int, int], size: Size) -> Region:
    if kind != "normalized":
        return as_kind(kind, box, size)
    x0, y0, x1, y1 = box
    return Region.box(x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1], normalized=True)


# every kind on a wide image, boxes and masks on all
ALL = [(kind, size) for kind in (*KINDS, "normalized") for size in SIZES]
SLOW = [(kind, size) for kind, size in ALL if kind not in ("box", "mask") and size != SIZES[1]]


@pytest.mark.parametrize(
    ("kind", "size"), [pytest.param(*one, marks=[pytest.mark.slow] * (one in SLOW)) for one in ALL]
)
def test_a_bright_patch_dominates_its_region_only(looking: Parts, kind: str, size: Size) -> None:
    regions = [region_of(kind, box, size) for box in boxes_on(size)]
    pictures = [draw(size, bright) for bright in (DARK, (0, 0, *size), *boxes_on(size))]
    dark, white, *bright = features_of_each(looking, pictures, regions)[..., 0]  # (M,) each
    share = (torch.stack(bright) - dark[0]) / (white[0] - dark[0])  # (patch, region): 0 dark, 1 fully bright
    on, off = share.diag(), share[~torch.eye(4, dtype=torch.bool)]
    assert on.min() > 0.6, share  # the cells at its border are bright in part
    assert off.abs().max() < 0.05, share


ENCODERS: dict[str, dict[str, Any]] = {
    "osprey": {"position_token": False},
    "ferret": {"points": 96, "groups": [32, 8], "neighbors": [12, 6]},
    "gpt4roi": {"pool": 4, "rounds": 0},
    "replay": {"grid": 3},
    "cross_attention": {"heads": 2, "head_dim": 8},
    "focal": {"context": 1.0, "least": 1, "shuffle": 1},  # nothing beside the region
}
EVERY = [(name, size, kind) for name in ENCODERS for size in SIZES for kind in KINDS]
QUICK = [(name, SIZES[1], "mask") for name in ("osprey", "replay", "focal")]


@pytest.mark.parametrize(
    ("name", "size", "kind"), [pytest.param(*one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in EVERY]
)
def test_every_encoder_sees_its_own_region_only(attached: Parts, name: str, size: Size, kind: str) -> None:
    torch.manual_seed(0)
    pvit_ext.attach(attached.model, RegionConfig(name, encoder_options=ENCODERS[name]), processor=attached.processor)
    blinded(attached.model.region_module.region_encoder)
    regions = [as_kind(kind, box, size) for box in boxes_on(size)]
    pictures = [draw(size, bright) for bright in (DARK, (0, 0, *size), *boxes_on(size))]
    dark, white, *bright = features_of_each(attached, pictures, regions, -1)
    share = torch.stack([(one - dark).norm(dim=1) / (white - dark).norm(dim=1) for one in bright])  # (patch, region)
    assert share.diag().min() > 0.3, share
    assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.05, share


@pytest.mark.parametrize("size", SIZES)
def test_flipping_image_and_boxes_changes_nothing(looking: Parts, size: Size) -> None:
    picture, boxes = smooth(size), boxes_on(size)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flipped = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in boxes]
    plain = features(looking, picture, [Region.box(*box) for box in boxes])
    mirror = features(looking, mirrored, [Region.box(*box) for box in flipped])
    spread = plain[:, 0].max() - plain[:, 0].min()
    assert (plain - mirror).abs().max() < 0.02 * spread
    wrong = features(looking, mirrored, [Region.box(*box) for box in boxes])
    assert (plain - wrong).abs().max() > 0.2 * spread


def test_a_region_of_the_second_image_reads_the_second_image(looking: Parts) -> None:
    box, other = boxes_on(SIZES[1])[1], boxes_on(SIZES[2])[1]
    dark, bright = draw(SIZES[1], DARK), draw(SIZES[2], other)
    first, second = features(looking, [dark, bright], [Region.box(*other, image=1), Region.box(*box)])[:, 0]
    assert first > second + 1


def test_a_feature_is_the_same_alone_and_in_any_batch(looking: Parts) -> None:
    queries = [Query(smooth(size), "<region>" * 2, [Region.box(*box) for box in boxes_on(size)[:2]]) for size in SIZES]
    alone = torch.cat([features_of_queries(looking, [query]) for query in queries])
    queries.insert(1, Query(None, "Red?"))
    torch.testing.assert_close(features_of_queries(looking, queries), alone, rtol=1e-5, atol=1e-5)
