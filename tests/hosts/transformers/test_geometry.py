"""Equivariance of every family's views and cells, with the real processors: a painted box changes what lies under it.

Two things are compared with the box that a view maps, exact to a cell's share: the means of cells, which are what the
tower's first layer holds here, and the cells that its last layer but one changes most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from PIL import Image

from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.regions.region import RegionError
from tests.hosts.transformers.geometry import look, measure
from tests.hosts.transformers.zoo import (
    Pair,
    llava,
    llava_next,
    llava_onevision,
    pixtral,
    prompt,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    siglip,
)
from tests.hosts.transformers.zoo_of_others import gemma3, glm4v, internvl, mistral3, paligemma, vipllava

Make = Callable[..., Pair]
SQUARES: dict[str, Make] = {
    "llava": llava,
    "llava_pad": partial(llava, pad=True),
    "llava_siglip": partial(llava, tower=siglip),
    "llava_next": llava_next,
    "vipllava": vipllava,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "internvl": internvl,
}
"""Families whose tower sees images of one size."""
ANY_SIZE: dict[str, Make] = {
    "pixtral": pixtral,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "mistral3": mistral3,
    "glm4v": glm4v,
}
SMALL = [(160, 53), (53, 126), (97, 60), (71, 71)]
LARGE = [(40, 31), (640, 213), (211, 505), (97, 60), (501, 502)]


@pytest.mark.parametrize("name", [*SQUARES, *ANY_SIZE])
def test_a_painted_box_shows_under_the_mapped_box(name: str) -> None:
    pair = SQUARES[name](112, 14) if name in SQUARES else ANY_SIZE[name]()
    found = measure(pair, SMALL, 1)
    assert found.is_within(coverage=0.02, centre=0.01)
    assert found.boxes >= 3


@pytest.mark.parametrize("name", ["llava_next", "internvl"])
def test_base_views_of_tiled_images(name: str) -> None:
    found = measure(SQUARES[name](112, 14), SMALL, 1, tiled=False)
    assert found.is_within(coverage=0.02, centre=0.01)


def test_tiles_of_no_whole_number_of_cells() -> None:
    found = measure(llava_onevision(116, 14), SMALL, 1)  # 8 cells over 112 pixels
    assert found.is_within(coverage=0.2, centre=0.15)
    found = measure(llava_onevision(116, 14), SMALL, 1, tiled=False)
    assert found.is_within(coverage=0.02, centre=0.01)
    found = measure(llava_onevision(112, 14), SMALL, 1)  # no pixel without a cell: exact
    assert found.is_within(coverage=0.02, centre=0.01)


@pytest.mark.parametrize("make", [llava_next, llava_onevision])
def test_several_images_in_a_prompt(make: Make) -> None:
    found = measure(make(112, 14), SMALL, 1, together=True)
    assert found.is_within(coverage=0.02, centre=0.01)


@pytest.mark.parametrize("make", [llava, llava_next, internvl])
def test_a_neighbour_in_the_batch_changes_nothing(make: Make) -> None:
    pair = make(28, 7)
    one, other = (look(pair, Image.new("RGB", (61, 40), colour), -2).states for colour in ("black", "white"))
    assert not one.equal(other)
    assert one.equal(look(pair, Image.new("RGB", (61, 40), "black"), -2).states)


def test_tiles_that_a_call_changes_are_refused() -> None:
    model, processor = gemma3()
    image, text = Image.new("RGB", (90, 30)), prompt(processor, "what")
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 2}
    batch = processor(
        images=[[image]], text=[text], return_tensors="pt", pan_and_scan_min_ratio_to_activate=1.2, **crops
    )
    family = family_of(model.config)
    hidden = model.base_model.get_image_features(batch["pixel_values"], output_hidden_states=True).hidden_states
    views = family.views(processor, batch, [image.size], [1])
    with pytest.raises(RegionError, match=r"ran on 3 crops, but the images have 1.*do_pan_and_scan"):
        family.cells(model.base_model, batch, hidden, views, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SQUARES, *ANY_SIZE])
def test_real_sizes(name: str) -> None:
    pair = SQUARES[name](336, 14) if name in SQUARES else ANY_SIZE[name]()
    # InternVL makes twelve tiles of the smallest, of which each pixel then covers five cells, and what bicubic blurs.
    found = measure(pair, LARGE if name != "internvl" else LARGE[1:], 3)
    print(f"{name}: {found}")
    assert found.is_within(coverage=0.15, centre=0.02, top=0.98)


@pytest.mark.slow
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("make", [llava_next, llava_onevision])
def test_real_sizes_of_a_tower_that_sees_378_of_384_pixels(make: Make, tiled: bool) -> None:
    found = measure(make(384, 14), LARGE, 3, tiled=tiled)
    print(f"{make.__name__} {tiled=}: {found}")  # type: ignore[attr-defined]
    coverage, centre = (0.25, 0.17) if tiled else (0.15, 0.02)
    assert found.is_within(coverage, centre, top=0.98)
