"""Regions of LLaVA-1.6: at full resolution among tiles, alike in every batch, named where they are cut off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.regions.region import Size
from tests.hosts.brightness import draw, smooth
from tests.hosts.llava.tiled import (
    CELLS,
    ENCODERS,
    MERGES,
    SIDE,
    SIZES,
    Loaded,
    ask_for,
    batch_of,
    give,
    seen_by_encoder,
)
from tests.tower_inputs import as_kind, boxes_on


@pytest.mark.parametrize("merge", MERGES)
def test_region_rows_keep_their_place_among_tiles(anyres: Loaded, merge: str) -> None:
    """A 5-D tensor and a list of 4-D ones; image rows and text are stock LLaVA's, region rows the encoder's."""
    model = anyres[1]
    give(anyres, "osprey")
    model.config.mm_patch_merge_type = merge
    queries = [ask_for(smooth(size), [Region.box(5, 5, 50, 60)]) for size in ((96, 96), (90, 99))]
    batch = batch_of(anyres, queries)
    assert batch["images"].shape == (2, 5, 3, SIDE, SIDE)
    with torch.no_grad():
        embeds, mask = (model.prepare_inputs_labels_for_multimodal(**batch)[at] for at in (4, 2))
        as_list = model.prepare_inputs_labels_for_multimodal(**batch | {"images": list(batch["images"])})[4]
        assert torch.equal(embeds, as_list)
        for row, query in enumerate(queries):
            alone = batch_of(anyres, [query])
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
def test_a_bright_patch_dominates_its_own_region_and_no_other(anyres: Loaded, name: str, size: Size) -> None:
    give(anyres, name)
    for kind in ("box",) if name == "test_tower_roi" else ("box", "mask"):
        share = shares(anyres, size, kind)
        assert share.diag().min() > 0.3, share
        assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.02, share


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("name", ["test_tower_roi", "gpt4roi"])
def test_the_base_view_is_as_true(anyres: Loaded, name: str, size: Size) -> None:
    if name == "gpt4roi":
        assert not give(anyres, name, tiles=False).reads_tiles
    else:
        give(anyres, name).reads_tiles = False
    share = shares(anyres, size)
    assert share.diag().min() > 0.3, share
    assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.05, share


@pytest.mark.parametrize("size", SIZES[1:3])
@pytest.mark.parametrize("name", ["test_tower_roi", "osprey", "replay"])
def test_flipping_picture_and_regions_changes_nothing(anyres: Loaded, name: str, size: Size) -> None:
    give(anyres, name)
    boxes = boxes_on(size)
    flipped = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in boxes]
    picture = smooth(size)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    queries = [
        ask_for(one, [Region.box(*box) for box in places])
        for one, places in ((picture, boxes), (mirrored, flipped), (mirrored, boxes))
    ]
    plain, mirror, wrong = seen_by_encoder(anyres, queries)[1].mean(1).split(len(boxes))  # replay's tokens are places
    assert (plain - mirror).norm() < 0.05 * (plain - wrong).norm()


@pytest.fixture
def colourful(anyres: Loaded) -> Iterator[None]:
    """The tower sees more than brightness: a layer norm of that channel alone is the same for every brightness."""
    tower = anyres[1].get_vision_tower().vision_tower
    weight = getattr(tower, "vision_model", tower).embeddings.patch_embedding.weight.data
    before, noise = weight.clone(), torch.Generator().manual_seed(0)
    weight[1:] = torch.randn(weight[1:].shape, generator=noise) * weight[0].abs().max()
    yield
    weight.copy_(before)


@pytest.mark.usefixtures("colourful")
@pytest.mark.parametrize("name", ENCODERS)
def test_a_region_is_the_same_alone_and_beside_other_tilings(anyres: Loaded, name: str) -> None:
    give(anyres, name, **{"gpt4roi": {"rounds": 2}, "cross_attention": {"context": 1}}.get(name, {}))
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
    together = seen_by_encoder(anyres, batch)[1]
    alone = torch.cat([seen_by_encoder(anyres, [query])[1] for query in batch if query.regions])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.pdist(together.flatten(1)).min() > 1e-2
    assert len(together) == 9


def test_cross_layers_see_base_views_whatever_the_tiling_of_others(anyres: Loaded) -> None:
    pvit_ext.attach(anyres[1], RegionConfig("osprey", encoder_options=ENCODERS["osprey"], cross_layers=1))
    projector, seen = anyres[1].get_model().region_projector, list[Any]()
    torch.nn.init.ones_(projector.cross_layers.blocks[0].gates.weight)
    handle = projector.cross_layers.register_forward_hook(lambda _m, args, out: seen.append((args[1], out - args[0])))
    queries = [ask_for(smooth(size), [Region.box(3, 4, 50, 60)]) for size in SIZES]
    with torch.no_grad():
        for batch in (queries, *([query] for query in queries)):
            anyres[1].prepare_inputs_labels_for_multimodal(**batch_of(anyres, batch))
    handle.remove()
    pvit_ext.attach(anyres[1], RegionConfig("text"))  # its attach keeps no layers for the next
    assert seen[0][0].shape[-2:] == (CELLS, CELLS)
    torch.testing.assert_close(seen[0][1], torch.cat([change for _, change in seen[1:]]), rtol=1e-4, atol=1e-5)
    assert seen[0][1].abs().max() > 1e-3


def test_a_training_batch_without_regions_runs_every_region_module(anyres: Loaded) -> None:
    """Its dummy region lies on the first base view; the prompt is what it is without."""
    model, encoder = anyres[1], give(anyres, "osprey")
    batch = batch_of(anyres, [Query(smooth((180, 90)), "Red?"), Query(None, "Red?")])
    with torch.no_grad():
        expected = model.prepare_inputs_labels_for_multimodal(**batch)[4]
    embeds = model.train().prepare_inputs_labels_for_multimodal(**batch)[4]
    model.eval()
    embeds.sum().backward()
    assert torch.equal(embeds, expected)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    model.zero_grad()


def test_tiles_show_what_the_base_view_blurs(anyres: Loaded) -> None:
    """Two columns of 12 pixels in 224: one cell of the base view, two of the tiles."""
    encoder = give(anyres, "test_tower_roi")
    size, left, right = (224, 112), (98, 20, 112, 100), (112, 20, 126, 100)
    regions = [Region.box(*left), Region.box(*right)]
    inputs, features = seen_by_encoder(anyres, [ask_for(draw(size, right), regions)])
    assert inputs.feature_maps[0].shape[-2:] == (CELLS, 2 * CELLS)
    assert inputs.views[0].size == (2 * SIDE, SIDE)
    encoder.reads_tiles = False
    coarse, blurred = seen_by_encoder(anyres, [ask_for(draw(size, right), regions)])
    assert coarse.feature_maps[0].shape[-2:] == (CELLS, CELLS)
    contrast, less = ((one[1] - one[0])[0, 0] for one in (features, blurred))
    assert contrast > less > 0


def test_ferrets_legacy_geometry_reads_the_base_view(anyres: Loaded) -> None:
    give(anyres, "ferret", legacy_geometry=True)
    inputs, _ = seen_by_encoder(anyres, [ask_for(smooth(SIZES[1]), [Region.box(5, 5, 90, 60)])])
    assert inputs.feature_maps[0].shape[-2:] == (CELLS, CELLS)


# Generation and truncation


def test_a_prompt_that_is_too_long_names_the_query(anyres: Loaded) -> None:
    give(anyres, "osprey")
    short, long = (ask_for(smooth(size), [Region.box(5, 5, 30, 50)]) for size in ((112, 56), (96, 96)))
    ids = batch_of(anyres, [short])["input_ids"].shape[1] - 1 + anyres[1].region_module.positions_per_region - 1
    anyres[1].config.tokenizer_model_max_length = limit = ids + ImageLayout.of(anyres[1]).positions((96, 96)) - 1
    tokenizer, model, processor = anyres
    assert len(pvit_ext.ask(model, tokenizer, processor, [short], max_new_tokens=1)) == 1
    with pytest.raises(RegionError, match=rf"query 1: its prompt takes {limit + 1} positions, .* is {limit}"):
        pvit_ext.ask(model, tokenizer, processor, [short, long], max_new_tokens=1)


def test_a_region_cut_off_behind_the_tiles_names_the_sample(anyres: Loaded) -> None:
    give(anyres, "osprey")
    batch = batch_of(anyres, [ask_for(smooth((96, 96)), [Region.box(5, 5, 30, 50)])])
    anyres[1].config.tokenizer_model_max_length = 5 * CELLS**2
    with pytest.raises(RegionError, match=r"^q, region 0: cut off"):
        anyres[1].prepare_inputs_labels_for_multimodal(**batch)
