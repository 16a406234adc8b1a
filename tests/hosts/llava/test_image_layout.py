"""LLaVA-1.6's anyres: tiles where LLaVA puts them, rows as LLaVA counts them, region features at full resolution."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from llava.mm_utils import process_anyres_image, process_images
from torch import Tensor

from pvit_ext import RegionError
from pvit_ext.hosts.llava.image_layout import ImageLayout, count_crops
from pvit_ext.regions.region import Size
from tests.hosts.brightness import draw, smooth
from tests.hosts.llava.tiled import MERGES, PINPOINTS, SIDE, SIZES, Loaded

# Where the tiles lie


@pytest.mark.parametrize("size", [*SIZES, (57, 56), (1, 900), (901, 457)])
def test_view_is_where_llava_puts_the_pixels(anyres: Loaded, size: Size) -> None:
    processor, layout = anyres[2], ImageLayout.of(anyres[1])
    half = (size[0] // 2, 0, size[0], max(size[1] // 3, 1))
    pictures = process_anyres_image(draw(size, half), processor, PINPOINTS)
    columns, rows = layout.tiles(size)
    assert len(pictures) == 1 + columns * rows
    tiles = pictures[1:].unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (3, H, W)
    for pixels, view in ((pictures[0], layout.view(size)), (tiles, layout.view(size, tiled=True))):
        assert view.size == (pixels.shape[2], pixels.shape[1])
        bright = (pixels[0] > pixels[0].min() + (pixels[0].max() - pixels[0].min()) / 2).nonzero()
        top, left, bottom, right = [*bright.amin(0).tolist(), *(bright.amax(0) + 1).tolist()]
        expected = view.map_boxes(torch.tensor([half], dtype=torch.float32))[0]
        assert torch.tensor([left, top, right, bottom]).tolist() == pytest.approx(expected.tolist(), abs=1.01)


def test_pinpoints_may_be_text(anyres: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ImageLayout.of(anyres[1])
    monkeypatch.setattr(anyres[1].config, "image_grid_pinpoints", str(PINPOINTS))
    assert [ImageLayout.of(anyres[1]).tiles(size) for size in SIZES] == [given.tiles(size) for size in SIZES]
    monkeypatch.setattr(anyres[1].config, "image_grid_pinpoints", None)
    with pytest.raises(ValueError, match="anyres needs image_grid_pinpoints"):
        ImageLayout.of(anyres[1]).tiles((96, 96))


def test_tiles_that_the_processor_would_crop_are_refused(anyres: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyres[2], "size", {"shortest_edge": 64})
    with pytest.raises(ValueError, match="tiles have 56 pixels"):
        ImageLayout.of(anyres[1]).view((96, 96), tiled=True)


@pytest.mark.parametrize(
    ("aspect", "merge", "said"),
    [
        ("padd", "flat", "image_aspect_ratio 'padd' .* none of square, pad, anyres: LLaVA reads it as 'square'"),
        ("anyres_max_9", "spatial_unpad", "'anyres_max_9' .* as 'square', without the tiles that the forks .* make"),
        ("anyres", "spatial_unpadded", "mm_patch_merge_type .* none of flat, spatial, spatial_unpad: .* 's.*_unpad'"),
        ("anyres", "spatial_max", "mm_patch_merge_type 'spatial_max' .*: LLaVA reads it as 'spatial'"),
        ("anyres", "flatt", "mm_patch_merge_type 'flatt' .*: LLaVA refuses images"),
        ("anyres", "spatial", None), ("pad", "flat", None), ("square", "flat", None), (None, "flat", None),
        ("pad", "unread", None),
    ],
)  # fmt: skip
def test_words_that_llava_takes_for_others_are_told_once_a_model(
    anyres: Loaded, aspect: str | None, merge: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        model = copy.copy(anyres[1])
        model.config = copy.copy(model.config)
        model.config.image_aspect_ratio, model.config.mm_patch_merge_type = aspect, merge
        caplog.clear()
        assert ImageLayout.of(model) == ImageLayout.of(model)
        assert len(caplog.messages) == (said is not None)
        assert said is None or re.search(said, caplog.text)


def random_maps(pictures: int, height: int = 2, width: int = 3) -> Tensor:
    return torch.randn(pictures, 5, height, width, generator=torch.Generator().manual_seed(pictures))


def test_joined_maps_equal_a_loop_over_tiles(anyres: Loaded) -> None:
    layout = ImageLayout.of(anyres[1])
    pictures = [1 + math.prod(layout.tiles(size)) for size in SIZES]
    sizes, pictures = [*SIZES, (40, 40)], [*pictures, 1]  # the last is a text-only sample's dummy: one picture
    one = random_maps(sum(pictures))
    (joined,), views = layout.join([one], pictures, sizes)
    start = 0
    for image, (count, size) in enumerate(zip(pictures, sizes, strict=True)):
        columns, rows = layout.tiles(size) if count > 1 else (1, 1)
        tiles = one[start + (count > 1) : start + count]
        lines = [torch.cat(list(tiles[row * columns : (row + 1) * columns]), 2) for row in range(rows)]
        whole = torch.cat(lines, 1)  # (C, rows * H, columns * W)
        assert views[image].size == (columns * SIDE, rows * SIDE)
        assert torch.equal(joined[image, :, : whole.shape[1], : whole.shape[2]], whole)
        right = joined[image, :, : whole.shape[1], whole.shape[2] :]
        assert torch.equal(right, whole[:, :, -1:].expand_as(right))
        below = joined[image, :, whole.shape[1] :, : whole.shape[2]]
        assert torch.equal(below, whole[:, -1:].expand_as(below))
        start += count


def test_base_views_where_an_encoder_takes_no_tiles(anyres: Loaded) -> None:
    one = random_maps(5 + 3 + 1)
    (joined,), views = ImageLayout.of(anyres[1]).join([one], [5, 3, 1], [*SIZES[:2], (9, 9)], tiled=False)
    assert torch.equal(joined, one[[0, 5, 8]])
    assert {view.size for view in views} == {(SIDE, SIDE)}


def test_one_picture_an_image_is_handed_on_as_it_is(anyres: Loaded) -> None:
    one = random_maps(2)
    assert ImageLayout.of(anyres[1]).join([one], [1, 1], SIZES[:2])[0][0] is one


def test_crops_of_other_images_are_refused(anyres: Loaded) -> None:
    layout = ImageLayout.of(anyres[1])
    with pytest.raises(RegionError, match=r"^image 1 .* ran on 5 crops, .*'anyres' makes 3 of 180x90"):
        layout.join([random_maps(10)], [5, 5], SIZES[:2])
    with pytest.raises(RegionError, match=r"2 images, image_sizes has 1"):
        layout.join([random_maps(10)], [5, 5], SIZES[:1])


def test_crops_are_counted_in_every_form() -> None:
    one = torch.zeros(3, 4, 4)
    assert count_crops(one.expand(2, -1, -1, -1)) == [1, 1]
    assert count_crops(one.expand(2, 5, -1, -1, -1)) == [5, 5]
    assert count_crops([one, one.expand(3, -1, -1, -1)]) == [1, 3]


# The splice


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("size", [*SIZES, (57, 56), (31, 900)])
def test_rows_are_those_of_llavas_splice(anyres: Loaded, merge: str, size: Size) -> None:
    model = anyres[1]
    model.config.mm_patch_merge_type = merge
    pixels = process_images([smooth(size)], anyres[2], model.config)
    with torch.no_grad():
        embeds = model.prepare_inputs_labels_for_multimodal(
            torch.tensor([[1, -200, 5]]), None, None, None, None, pixels, [size]
        )[4]
    assert embeds.shape[1] - 2 == ImageLayout.of(model).positions(size)
