"""The region processor: what a sample becomes for every kind of encoder, and who is named when it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.regions.view import View
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.tokens.region_module import RegionModule
from tests import samples  # noqa: F401  registers test_boxes
from tests.tiny import TINY_REGIONCLIP

WIDE, TALL = Image.new("RGB", (60, 40)), Image.new("RGB", (30, 50))
BOX, OTHER = Region.box(3, 4, 20, 30), Region.box(10, 2, 29, 38, image=1)
TEXTS = ["What is <region>?", "Like <Region><L100><L200><L700><L800></Region> or <region>."]


def processor(name: str, positions: int = 1, **options: Any) -> RegionProcessor:
    return RegionProcessor(
        pvit_ext.build_region_encoder(RegionConfig(name, encoder_options=options)), positions_per_region=positions
    )


def test_regions_are_resolved_once_in_the_order_of_their_placeholders() -> None:
    sample = processor("test_boxes")([WIDE, TALL], TEXTS, [BOX, OTHER], "query 4")
    assert sample.texts == ["What is <region>?", "Like <region> or <region>."]
    assert [region.name for region in sample.regions] == [f"query 4, region {number}" for number in range(3)]
    assert [region.size for region in sample.regions] == [(60, 40), (60, 40), (30, 50)]
    assert sample.regions[1].bounds((60, 40)) == (6, 8, 42, 32)
    assert sample.sizes == [(60, 40), (30, 50)]
    assert sample.images == [WIDE, TALL]
    again = processor("test_boxes")([WIDE, TALL], sample.texts, sample.regions, "other")
    assert all(one is other for one, other in zip(again.regions, sample.regions, strict=True))


def test_extra_is_there_for_images_with_a_region_only() -> None:
    sample = processor("regionclip", **TINY_REGIONCLIP)([TALL, WIDE], ["<region>"], [OTHER], "q")
    first, second = sample.extra
    assert first is None
    assert second is not None
    assert second["pixels"].ndim == 3


def test_an_encoder_without_tokens_writes_and_paints_instead() -> None:
    overlay = processor("overlay", positions=0)
    prompt = overlay.prompt(TEXTS, [BOX, OTHER], [(60, 40), (30, 50)], "q")
    assert prompt.texts[0] == "What is the object within the red rectangle?"
    assert (len(prompt.given), prompt.regions) == (3, [])
    sample = overlay.show(prompt, [WIDE, TALL])
    assert all(
        painted.getcolors() != plain.getcolors() for painted, plain in zip(sample.images, (WIDE, TALL), strict=True)
    )
    assert sample.extra == [None, None]


def test_without_an_encoder_regions_are_resolved_all_the_same() -> None:
    sample = RegionProcessor.of(None)([WIDE], ["<region>"], [BOX], "q")
    assert (sample.texts, len(sample.regions), sample.extra) == (["<region>"], 1, [None])


@pytest.mark.parametrize(
    ("name", "regions", "message"),
    [
        ("test_boxes", [BOX], r"^line 3: 2 <region> placeholders \(1 more written inline\) but 1 regions given"),
        ("test_boxes", [BOX, Region.box(1, 1, 9, 9, image=2)], r"^line 3, region 2: lies on image 2, .* 2 image"),
        ("test_boxes", [BOX, Region.box(40, 1, 59, 9, image=1)], r"^line 3, region 2"),
        ("only_boxes", [BOX, Region.point(3, 3)], r"^line 3, region 2: .*takes box, this is a point"),
        ("cannot_describe", [BOX, OTHER], r"^line 3: no words"),
    ],
)
def test_the_culprit_is_named(name: str, regions: list[Region], message: str) -> None:
    one = processor("test_boxes")
    assert one.encoder is not None
    if name == "only_boxes":
        one.encoder.region_kinds = frozenset({"box"})  # type: ignore[misc]
    if name == "cannot_describe":
        one.encoder.tokens_per_region, one.encoder.describe = 0, no_words  # type: ignore[method-assign]
    with pytest.raises(RegionError, match=message):
        one.prompt(TEXTS, regions, [(60, 40), (30, 50)], "line 3")


def no_words(*_: Any) -> list[str]:
    raise RegionError("no words")


def test_a_region_that_the_view_crops_away_is_named() -> None:
    view = View.resize((60, 40), (60, 40)).center_crop((20, 20))
    sample = processor("test_boxes")([WIDE], ["<region>"], [Region.box(1, 1, 9, 9)], "line 7")
    processor("test_boxes").check(sample.regions, [view], sample.sizes)  # it looks at no feature map
    with pytest.raises(RegionError, match=r"^line 7, region 0, .*crops"):
        processor("test_boxes", layers=[1]).check(sample.regions, [view], sample.sizes)


def test_positions_count_images_and_regions_up_to_a_token() -> None:
    module = RegionModule(RegionConfig("test_boxes", encoder_options={"tokens": 4}, delimiters=True), hidden_size=8)
    four = RegionProcessor.of(module)
    assert four.positions_per_region == 6
    ids = torch.tensor([1, -200, 5, -300, -200, -300])
    assert four.count_positions(ids, [10, 20]) == 2 + 10 + 20 + 2 * 6
    assert four.count_positions(ids[:4], [10, 20]) == 2 + 10 + 6
