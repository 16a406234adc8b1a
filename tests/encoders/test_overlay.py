"""Regions drawn on the image: where, in which colour, under which name, and that the tower sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.encoders.overlay import COLORS, Overlay
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from tests.tower_inputs import KINDS, SIZES, as_kind, boxes_on

SIZE, BOX = (96, 80), (20, 10, 60, 50)
MARKS = ["rectangle", "ellipse", "contour", "mask", "arrow"]


def overlay(**options: Any) -> Overlay:
    encoder = pvit_ext.build_region_encoder(RegionConfig("overlay", encoder_options=options))
    assert isinstance(encoder, Overlay)
    return encoder


def drawn(encoder: Overlay, regions: list[Region], size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) on a grey image."""
    grey = Image.new("RGB", size, (100, 100, 100))
    pixels = np.array(encoder.paint(grey, [region.resolve(size) for region in regions]))
    assert (np.array(grey) == 100).all()  # a copy is painted
    return pixels


def changed(pixels: np.ndarray) -> np.ndarray:
    return (pixels != 100).any(2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", [None, *MARKS])
def test_marks_lie_at_their_region_only(mark: str | None, kind: str, size: tuple[int, int]) -> None:
    encoder = overlay(mark=mark)
    for box in boxes_on(size):
        painted = changed(drawn(encoder, [as_kind(kind, box, size)], size))
        rows, columns = painted.nonzero()
        near = 2 + 2 * (mark == "arrow") * 16  # its shaft starts outside
        assert columns.min() >= box[0] - near
        assert columns.max() < box[2] + near
        assert rows.min() >= box[1] - near
        assert rows.max() < box[3] + near
        assert painted.any()


def test_a_rectangle_is_exactly_the_edge_of_its_box() -> None:
    painted = changed(drawn(overlay(), [Region.box(*BOX)]))
    expected = np.zeros((80, 96), dtype=bool)
    expected[10:50, 20:60] = True
    expected[12:48, 22:58] = False
    assert np.array_equal(painted, expected)
    whole = changed(drawn(overlay(), [Region.box(0, 0, *SIZE)]))  # drawn along the border of the image too
    assert whole[:2].all()
    assert whole[:, -2:].all()
    assert not whole[2:-2, 2:-2].any()


@pytest.mark.parametrize("mark", [None, "ellipse", "contour", "mask"])
@pytest.mark.parametrize("kind", ["box", "mask", "polygon", "point"])
def test_flipping_the_region_flips_the_drawing(kind: str, mark: str | None) -> None:
    encoder = overlay(mark=mark)
    flipped = (SIZE[0] - BOX[2], BOX[1], SIZE[0] - BOX[0], BOX[3])
    one, other = (drawn(encoder, [as_kind(kind, box, SIZE)]) for box in (BOX, flipped))
    assert np.array_equal(one, other[:, ::-1])


def test_mask_is_blended_with_the_image() -> None:
    pixels = drawn(overlay(mark="mask"), [Region.box(*BOX)])
    assert pixels[20, 30].tolist() == [178, 50, 50]


def test_colours_follow_the_order_on_each_image_and_equal_regions_share_theirs() -> None:
    encoder = overlay()
    regions = [Region.box(*BOX), Region.point(5, 5, image=1), Region.point(9, 9), Region.box(*BOX)]
    names = encoder.describe([region.resolve(SIZE) for region in regions], [SIZE, SIZE])
    assert names == [
        "the object within the red rectangle",
        "the object at the red point",
        "the object at the green point",
        "the object within the red rectangle",
    ]
    pixels = drawn(encoder, [regions[0], regions[2], regions[3]])
    assert tuple(pixels[10, 30]) == COLORS["red"]
    assert tuple(pixels[9, 9]) == COLORS["green"]
    assert overlay(name="{color} {mark}").describe([regions[2]], [SIZE]) == ["red point"]


@pytest.mark.parametrize("options", [{"mark": "star"}, {"width": 0}, {"name": "{shape}"}, {"colour": "red"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="overlay"):
        overlay(**options)


@pytest.fixture
def with_overlay(llava_checkpoint: Path) -> Any:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=RegionConfig("overlay"), device="cpu"
    )
    return model, tokenizer, processor


def test_tower_sees_the_drawing_and_the_prompt_names_it(with_overlay: Any) -> None:
    model, tokenizer, processor = with_overlay
    picture = Image.new("RGB", SIZE, (100, 100, 100))
    regions = [Region.box(*BOX), Region.point(80, 70)]
    by_region = Query(picture, "Is <region> like <region>?", regions)
    painted = overlay().paint(picture, regions)
    by_hand = Query(painted, "Is the object within the red rectangle like the object at the green point?")
    batches = [
        collate(model, tokenizer, processor, [query], [build_prompt(query, conversation(model), "q", model)])
        for query in (by_region, by_hand)
    ]
    assert torch.equal(batches[0]["inputs"], batches[1]["inputs"])
    assert torch.equal(batches[0]["images"], batches[1]["images"])
    assert batches[0]["regions"] == [[]]
    answers = pvit_ext.ask(model, tokenizer, processor, [by_region, by_hand], max_new_tokens=4)
    assert answers[0] == answers[1]


def test_more_regions_than_colours_are_refused_by_name(with_overlay: Any) -> None:
    many = [Region.box(i, i, i + 9, i + 9) for i in range(len(COLORS) + 1)]
    query = Query(Image.new("RGB", SIZE), "<region>" * len(many), many)
    with pytest.raises(RegionError, match=r"^query 0: overlay tells .* by 9 colours, image 0 has 10 regions"):
        pvit_ext.ask(*with_overlay, [query])
