"""LLaVA-1.6's anyres: tiles where LLaVA puts them, rows as LLaVA counts them, region features at full resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from llava.mm_utils import process_anyres_image, process_images
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.hosts.llava.image_layout import ImageLayout, count_crops
from pvit_ext.regions.region import Size
from tests.encoders.test_equivariance import boxes_on, draw, make_tower_see_brightness, smooth
from tests.encoders.test_tower_encoders import LOCAL, blinded
from tests.tiny import build_llava
from tests.tower_inputs import as_kind

SIDE, PATCH, CELLS = 56, 7, 8  # of a picture; the tiny tower reads 28 pixels, its checkpoint is built anew here
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56]]
SIZES = [(96, 96), (180, 90), (90, 180), (333, 70)]  # 2x2, 2x1, 1x2 and 3x1 tiles
MERGES = ["flat", "spatial", "spatial_unpad"]
Loaded = tuple[Any, Any, Any]

ENCODERS: dict[str, dict[str, Any]] = {
    "test_tower_roi": {},
    "osprey": {"position_grid": 16, **LOCAL["osprey"]},
    "ferret": {"points": 96, "groups": [32, 8], "neighbors": [12, 6]},
    "gpt4roi": {"pool": 4, **LOCAL["gpt4roi"]},
    "cross_attention": {"heads": 2, "head_dim": 8},
    "replay": {"grid": 4},
    "focal": {"context": 1.0, "least": 1, "shuffle": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """(tokenizer, model, processor) of a LLaVA-1.6 whose tower sees brightness."""
    folder = tmp_path_factory.mktemp("anyres") / "tiny"
    options = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": PINPOINTS, "tokenizer_model_max_length": 8192}
    build_llava(folder, tower_side=SIDE, mm_patch_merge_type="spatial_unpad", **options)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu")
    make_tower_see_brightness(model.get_vision_tower())
    return tokenizer, model, processor


@pytest.fixture(autouse=True)
def _settings(tiny: Loaded) -> Iterator[None]:
    yield
    config = tiny[1].config
    config.mm_patch_merge_type, config.tokenizer_model_max_length = "spatial_unpad", 8192
    config.image_aspect_ratio, config.tokenizer_padding_side = "anyres", "right"


def give(loaded: Loaded, name: str, **options: Any) -> Any:
    """Attach an encoder, blind to where a region lies."""
    torch.manual_seed(0)
    pvit_ext.attach(loaded[1], RegionConfig(name, encoder_options={**ENCODERS.get(name, {}), **options}))
    return blinded(loaded[1].get_model().region_encoder)


def batch_of(loaded: Loaded, queries: Sequence[Query]) -> dict[str, Any]:
    tokenizer, model, processor = loaded
    prompts = [build_prompt(query, conversation(model), "q", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, prompts)
    return {"input_ids": batch.pop("inputs"), "position_ids": None, "past_key_values": None, "labels": None, **batch}


def seen_by_encoder(loaded: Loaded, queries: Sequence[Query]) -> tuple[RegionInputs, Tensor]:
    """What the encoder gets and gives (M, T, C), on its way through LLaVA's splice."""
    seen: list[Any] = []
    encoder = loaded[1].get_model().region_encoder
    handle = encoder.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        loaded[1].prepare_inputs_labels_for_multimodal(**batch_of(loaded, queries))
    handle.remove()
    return seen[0]


def ask_for(image: Any, regions: Sequence[Region]) -> Query:
    return Query(image, "Compare " + "<region>" * len(regions), list(regions))


# Where the tiles lie


@pytest.mark.parametrize("size", [*SIZES, (57, 56), (1, 900), (901, 457)])
def test_view_is_where_llava_puts_the_pixels(tiny: Loaded, size: Size) -> None:
    processor, layout = tiny[2], ImageLayout.of(tiny[1])
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


def test_pinpoints_may_be_text(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ImageLayout.of(tiny[1])
    monkeypatch.setattr(tiny[1].config, "image_grid_pinpoints", str(PINPOINTS))
    assert [ImageLayout.of(tiny[1]).tiles(size) for size in SIZES] == [given.tiles(size) for size in SIZES]
    monkeypatch.setattr(tiny[1].config, "image_grid_pinpoints", None)
    with pytest.raises(ValueError, match="anyres needs image_grid_pinpoints"):
        ImageLayout.of(tiny[1]).tiles((96, 96))


def test_tiles_that_the_processor_would_crop_are_refused(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny[2], "size", {"shortest_edge": 64})
    with pytest.raises(ValueError, match="tiles have 56 pixels"):
        ImageLayout.of(tiny[1]).view((96, 96), tiled=True)


def random_maps(pictures: int, height: int = 2, width: int = 3) -> Tensor:
    return torch.randn(pictures, 5, height, width, generator=torch.Generator().manual_seed(pictures))


def test_joined_maps_equal_a_loop_over_tiles(tiny: Loaded) -> None:
    layout = ImageLayout.of(tiny[1])
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


def test_base_views_where_an_encoder_takes_no_tiles(tiny: Loaded) -> None:
    one = random_maps(5 + 3 + 1)
    (joined,), views = ImageLayout.of(tiny[1]).join([one], [5, 3, 1], [*SIZES[:2], (9, 9)], tiled=False)
    assert torch.equal(joined, one[[0, 5, 8]])
    assert {view.size for view in views} == {(SIDE, SIDE)}


def test_one_picture_an_image_is_handed_on_as_it_is(tiny: Loaded) -> None:
    one = random_maps(2)
    assert ImageLayout.of(tiny[1]).join([one], [1, 1], SIZES[:2])[0][0] is one


def test_crops_of_other_images_are_refused(tiny: Loaded) -> None:
    layout = ImageLayout.of(tiny[1])
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
def test_rows_are_those_of_llavas_splice(tiny: Loaded, merge: str, size: Size) -> None:
    model = tiny[1]
    model.config.mm_patch_merge_type = merge
    pixels = process_images([smooth(size)], tiny[2], model.config)
    with torch.no_grad():
        embeds = model.prepare_inputs_labels_for_multimodal(
            torch.tensor([[1, -200, 5]]), None, None, None, None, pixels, [size]
        )[4]
    assert embeds.shape[1] - 2 == ImageLayout.of(model).positions(size)


@pytest.mark.parametrize("merge", MERGES)
def test_region_rows_keep_their_place_among_tiles(tiny: Loaded, merge: str) -> None:
    """A 5-D tensor and a list of 4-D ones; image rows and text are stock LLaVA's, region rows the encoder's."""
    model = tiny[1]
    give(tiny, "osprey")
    model.config.mm_patch_merge_type = merge
    queries = [ask_for(smooth(size), [Region.box(5, 5, 50, 60)]) for size in ((96, 96), (90, 99))]
    batch = batch_of(tiny, queries)
    assert batch["images"].shape == (2, 5, 3, SIDE, SIDE)
    with torch.no_grad():
        embeds, mask = (model.prepare_inputs_labels_for_multimodal(**batch)[at] for at in (4, 2))
        as_list = model.prepare_inputs_labels_for_multimodal(**batch | {"images": list(batch["images"])})[4]
        assert torch.equal(embeds, as_list)
        for row, query in enumerate(queries):
            alone = batch_of(tiny, [query])
            region = (
                int((alone["input_ids"][0] == -300).nonzero()) + ImageLayout.of(model).positions(query.image.size) - 1
            )
            plain = alone["input_ids"].clone()
            plain[plain == -300] = 7
            stock = {**alone, "input_ids": plain, "regions": None, "region_extra": None}
            expected = model.prepare_inputs_labels_for_multimodal(**stock)[4][0]
            slots = model.region_module.positions_per_region
            rows = embeds[row, mask[row]]
            assert torch.equal(rows[:region], expected[:region])
            assert torch.equal(rows[region + slots :], expected[region + 1 :])


# Region features


def shares(loaded: Loaded, size: Size, kind: str = "box") -> Tensor:
    """(bright patch, region): how far each region's features moved from those of a dark picture to a white one's."""
    boxes = boxes_on(size)
    regions = [as_kind(kind, box, size) for box in boxes]
    pictures = [draw(size, box) for box in ((0, 0, 0, 0), (0, 0, *size), *boxes)]
    _, features = seen_by_encoder(loaded, [ask_for(picture, regions) for picture in pictures])
    dark, white, *bright = features.flatten(1).split(len(boxes))
    return torch.stack([(one - dark).norm(dim=1) / (white - dark).norm(dim=1) for one in bright])


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_bright_patch_dominates_its_own_region_and_no_other(tiny: Loaded, name: str, size: Size) -> None:
    give(tiny, name)
    for kind in ("box",) if name == "test_tower_roi" else ("box", "mask"):
        share = shares(tiny, size, kind)
        assert share.diag().min() > 0.3, share
        assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.02, share


@pytest.mark.parametrize("size", SIZES[:3])
def test_the_base_view_is_as_true(tiny: Loaded, size: Size) -> None:
    give(tiny, "test_tower_roi").reads_tiles = False
    share = shares(tiny, size)
    assert share.diag().min() > 0.3, share
    assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.05, share


@pytest.mark.parametrize("size", SIZES[1:3])
@pytest.mark.parametrize("name", ["test_tower_roi", "osprey", "replay"])
def test_flipping_picture_and_regions_changes_nothing(tiny: Loaded, name: str, size: Size) -> None:
    give(tiny, name)
    boxes = boxes_on(size)
    flipped = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in boxes]
    picture = smooth(size)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    queries = [
        ask_for(one, [Region.box(*box) for box in places])
        for one, places in ((picture, boxes), (mirrored, flipped), (mirrored, boxes))
    ]
    plain, mirror, wrong = seen_by_encoder(tiny, queries)[1].mean(1).split(len(boxes))  # replay's tokens are places
    assert (plain - mirror).norm() < 0.05 * (plain - wrong).norm()


@pytest.fixture
def colourful(tiny: Loaded) -> Iterator[None]:
    """The tower sees more than brightness: a layer norm of that channel alone is the same for every brightness."""
    tower = tiny[1].get_vision_tower().vision_tower
    weight = getattr(tower, "vision_model", tower).embeddings.patch_embedding.weight.data
    before, noise = weight.clone(), torch.Generator().manual_seed(0)
    weight[1:] = torch.randn(weight[1:].shape, generator=noise) * weight[0].abs().max()
    yield
    weight.copy_(before)


@pytest.mark.usefixtures("colourful")
@pytest.mark.parametrize("name", ENCODERS)
def test_a_region_is_the_same_alone_and_beside_other_tilings(tiny: Loaded, name: str) -> None:
    give(tiny, name, **{"gpt4roi": {"rounds": 2}, "cross_attention": {"context": 1}}.get(name, {}))
    noise = np.random.default_rng(0)
    # noise at a brightness of each picture's own, brighter to the right: noise alone has one mean wherever it is pooled
    ramps = [np.linspace(n / 8, 0.5 + n / 8, w)[:, None] for n, (w, _) in enumerate(SIZES)]  # (W, 1)
    pictures = [
        Image.fromarray((noise.integers(0, 255, (h, w, 3)) * ramp).astype(np.uint8))
        for (w, h), ramp in zip(SIZES, ramps, strict=True)
    ]
    # to the very edge of the tiles, where a map of the batch goes on and a map alone ends
    queries = [
        ask_for(p, [Region.box(p.width // 2, p.height // 3, p.width, p.height), Region.box(0, 0, 20, 31)])
        for p in pictures
    ]
    two = Query(pictures[:2], "And <region>?", [Region.box(3, 4, 90, 99, image=1)])
    batch = [*queries[:2], Query(None, "Red?"), two, *queries[2:]]
    together = seen_by_encoder(tiny, batch)[1]
    alone = torch.cat([seen_by_encoder(tiny, [query])[1] for query in batch if query.regions])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.pdist(together.flatten(1)).min() > 1e-2
    assert len(together) == 9


def test_cross_layers_see_base_views_whatever_the_tiling_of_others(tiny: Loaded) -> None:
    pvit_ext.attach(tiny[1], RegionConfig("osprey", encoder_options=ENCODERS["osprey"], cross_layers=1))
    projector, seen = tiny[1].get_model().region_projector, list[Any]()
    torch.nn.init.ones_(projector.cross_layers.blocks[0].gates.weight)
    handle = projector.cross_layers.register_forward_hook(lambda _m, args, out: seen.append((args[1], out - args[0])))
    queries = [ask_for(smooth(size), [Region.box(3, 4, 50, 60)]) for size in SIZES]
    with torch.no_grad():
        for batch in (queries, *([query] for query in queries)):
            tiny[1].prepare_inputs_labels_for_multimodal(**batch_of(tiny, batch))
    handle.remove()
    pvit_ext.attach(tiny[1], RegionConfig("text"))  # its attach keeps no layers for the next
    assert seen[0][0].shape[-2:] == (CELLS, CELLS)
    torch.testing.assert_close(seen[0][1], torch.cat([change for _, change in seen[1:]]), rtol=1e-4, atol=1e-5)
    assert seen[0][1].abs().max() > 1e-3


def test_a_training_batch_without_regions_runs_every_region_module(tiny: Loaded) -> None:
    """Its dummy region lies on the first base view; the prompt is what it is without."""
    model, encoder = tiny[1], give(tiny, "osprey")
    batch = batch_of(tiny, [Query(smooth((180, 90)), "Red?"), Query(None, "Red?")])
    with torch.no_grad():
        expected = model.prepare_inputs_labels_for_multimodal(**batch)[4]
    embeds = model.train().prepare_inputs_labels_for_multimodal(**batch)[4]
    model.eval()
    embeds.sum().backward()
    assert torch.equal(embeds, expected)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    model.zero_grad()


def test_tiles_show_what_the_base_view_blurs(tiny: Loaded) -> None:
    """Two columns of 12 pixels in 224: one cell of the base view, two of the tiles."""
    encoder = give(tiny, "test_tower_roi")
    size, left, right = (224, 112), (98, 20, 112, 100), (112, 20, 126, 100)
    regions = [Region.box(*left), Region.box(*right)]
    inputs, features = seen_by_encoder(tiny, [ask_for(draw(size, right), regions)])
    assert inputs.feature_maps[0].shape[-2:] == (CELLS, 2 * CELLS)
    assert inputs.views[0].size == (2 * SIDE, SIDE)
    encoder.reads_tiles = False
    coarse, blurred = seen_by_encoder(tiny, [ask_for(draw(size, right), regions)])
    assert coarse.feature_maps[0].shape[-2:] == (CELLS, CELLS)
    contrast, less = ((one[1] - one[0])[0, 0] for one in (features, blurred))
    assert contrast > less > 0


def test_ferrets_legacy_geometry_reads_the_base_view(tiny: Loaded) -> None:
    give(tiny, "ferret", legacy_geometry=True)
    inputs, _ = seen_by_encoder(tiny, [ask_for(smooth(SIZES[1]), [Region.box(5, 5, 90, 60)])])
    assert inputs.feature_maps[0].shape[-2:] == (CELLS, CELLS)


# Generation and truncation


def test_a_prompt_that_is_too_long_names_the_query(tiny: Loaded) -> None:
    give(tiny, "osprey")
    short, long = (ask_for(smooth(size), [Region.box(5, 5, 30, 50)]) for size in ((112, 56), (96, 96)))
    ids = batch_of(tiny, [short])["input_ids"].shape[1] - 1 + tiny[1].region_module.positions_per_region - 1
    tiny[1].config.tokenizer_model_max_length = limit = ids + ImageLayout.of(tiny[1]).positions((96, 96)) - 1
    tokenizer, model, processor = tiny
    assert len(pvit_ext.ask(model, tokenizer, processor, [short], max_new_tokens=1)) == 1
    with pytest.raises(RegionError, match=rf"query 1: its prompt takes {limit + 1} positions, .* is {limit}"):
        pvit_ext.ask(model, tokenizer, processor, [short, long], max_new_tokens=1)


def test_a_region_cut_off_behind_the_tiles_names_the_sample(tiny: Loaded) -> None:
    give(tiny, "osprey")
    batch = batch_of(tiny, [ask_for(smooth((96, 96)), [Region.box(5, 5, 30, 50)])])
    tiny[1].config.tokenizer_model_max_length = 5 * CELLS**2
    with pytest.raises(RegionError, match=r"^q, region 0: cut off"):
        tiny[1].prepare_inputs_labels_for_multimodal(**batch)
