"""A bright patch at a region dominates that region's feature and no other's, through the whole model, in every view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from tests.encoders.bright_patch import (
    SIDE,
    SIZES,
    Loaded,
    boxes_on,
    draw,
    features,
    features_of_each,
    make_tower_see_brightness,
    smooth,
)
from tests.encoders.test_tower_encoders import blinded
from tests.tower_inputs import KINDS
from tests.tower_inputs import as_kind as as_pixels


def widen(folder: Path, source: Path) -> Path:
    """The tiny checkpoint with a finer tower: 16x16 patches."""
    import json
    import shutil

    from transformers import CLIPVisionConfig, CLIPVisionModel

    shutil.copytree(source, folder)
    tower = folder / "tower"
    config = CLIPVisionConfig.from_pretrained(tower)
    config.image_size = SIDE
    CLIPVisionModel(config).save_pretrained(tower)
    processor = json.loads((tower / "preprocessor_config.json").read_text())
    processor |= {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (tower / "preprocessor_config.json").write_text(json.dumps(processor))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(values | {"mm_vision_tower": str(tower), "tokenizer_model_max_length": 2048})
    )
    return folder


@pytest.fixture(scope="module")
def tower_roi(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = widen(tmp_path_factory.mktemp("fine") / "tiny", llava_checkpoint)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(folder), region_config=RegionConfig("test_tower_roi"), device="cpu"
    )
    make_tower_see_brightness(model.get_vision_tower())
    return tokenizer, model, processor


@pytest.fixture(params=["square", "crop", "pad"])
def tower_view(request: pytest.FixtureRequest, tower_roi: Loaded) -> Iterator[Loaded]:
    """The three views a tower can have of an image."""
    _, model, processor = tower_roi
    before = processor.size, processor.do_center_crop
    model.config.image_aspect_ratio = "pad" if request.param == "pad" else None
    if request.param == "square":
        processor.size, processor.do_center_crop = {"height": SIDE, "width": SIDE}, False
    yield tower_roi
    processor.size, processor.do_center_crop = before


def as_kind(kind: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Region:
    if kind != "normalized":
        return as_pixels(kind, box, size)
    x0, y0, x1, y1 = box
    return Region.box(x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1], normalized=True)


# every kind on a wide image, boxes and masks on all
ALL = [(kind, size) for kind in ("box", "normalized", "mask", "point", "polygon", "scribble") for size in SIZES]
SLOW = [(kind, size) for kind, size in ALL if kind not in ("box", "mask") and size != SIZES[1]]


@pytest.mark.parametrize(
    ("kind", "size"), [pytest.param(*one, marks=[pytest.mark.slow] * (one in SLOW)) for one in ALL]
)
def test_bright_patch_dominates_its_region_only(tower_view: Loaded, kind: str, size: tuple[int, int]) -> None:
    regions = [as_kind(kind, box, size) for box in boxes_on(size)]
    pictures = [draw(size, bright) for bright in ((0, 0, 0, 0), (0, 0, *size), *boxes_on(size))]
    dark, white, *bright = features_of_each(tower_view, pictures, regions)[..., 0]  # (M,) each
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
def test_every_encoder_sees_its_own_region_only(
    tower_view: Loaded, name: str, size: tuple[int, int], kind: str
) -> None:
    model, before = tower_view[1], tower_view[1].region_config
    torch.manual_seed(0)
    pvit_ext.attach(model, RegionConfig(name, encoder_options=ENCODERS[name]))
    blinded(model.get_model().region_encoder)
    regions = [as_kind(kind, box, size) for box in boxes_on(size)]
    pictures = [draw(size, bright) for bright in ((0, 0, 0, 0), (0, 0, *size), *boxes_on(size))]
    dark, white, *bright = features_of_each(tower_view, pictures, regions, -1)
    pvit_ext.attach(model, before)
    share = torch.stack([(one - dark).norm(dim=1) / (white - dark).norm(dim=1) for one in bright])  # (patch, region)
    assert share.diag().min() > 0.3, share
    assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.05, share


@pytest.mark.parametrize("size", SIZES)
def test_flipping_image_and_boxes_changes_nothing(tower_view: Loaded, size: tuple[int, int]) -> None:
    picture = smooth(size)
    boxes = boxes_on(size)
    flipped = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in boxes]
    plain = features(tower_view, picture, [Region.box(*box) for box in boxes])
    mirror = features(
        tower_view, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), [Region.box(*box) for box in flipped]
    )
    spread = plain[:, 0].max() - plain[:, 0].min()
    assert (plain - mirror).abs().max() < 0.02 * spread
    wrong = features(
        tower_view, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), [Region.box(*box) for box in boxes]
    )
    assert (plain - wrong).abs().max() > 0.2 * spread


def test_region_of_the_second_image_reads_the_second_image(tower_view: Loaded) -> None:
    size, box = SIZES[1], boxes_on(SIZES[1])[1]
    dark, bright = draw(size, (0, 0, 0, 0)), draw(SIZES[2], boxes_on(SIZES[2])[1])
    regions = [Region.box(*boxes_on(SIZES[2])[1], image=1), Region.box(*box)]
    first, second = features(tower_view, [dark, bright], regions)[:, 0]
    assert first > second + 1


def test_region_that_the_centre_crop_cuts_away_is_named(tower_roi: Loaded) -> None:
    tower_roi[1].config.image_aspect_ratio = None
    inside, outside = Region.box(60, 20, 90, 50), Region.box(0, 10, 30, 90)  # the crop keeps columns 40 to 140
    message = r"^q, region 1, image 0 .*112x112 view crops the region \[0.0, 10.0, 30.0, 90.0\] away.*=pad"
    with pytest.raises(RegionError, match=message):
        features(tower_roi, smooth((180, 100)), [inside, outside])
    tower_roi[1].config.image_aspect_ratio = "pad"
    assert features(tower_roi, smooth((180, 100)), [inside, outside]).isfinite().all()


def test_region_partly_cut_by_the_crop_keeps_its_visible_part(tower_roi: Loaded) -> None:
    tower_roi[1].config.image_aspect_ratio = None
    picture = draw((180, 100), (40, 20, 60, 60))
    regions = [Region.box(10, 20, 60, 60), Region.box(44 / (201 / 180), 20, 60, 60)]  # the view's column 0 is its 44th
    whole, visible = features(tower_roi, picture, regions)
    torch.testing.assert_close(whole, visible)


def test_a_feature_is_the_same_alone_and_in_any_batch(tower_view: Loaded) -> None:
    tokenizer, model, processor = tower_view
    queries = [Query(smooth(size), "<region>" * 2, [Region.box(*box) for box in boxes_on(size)[:2]]) for size in SIZES]
    queries.insert(1, Query(None, "Red?"))
    alone = torch.cat([features(tower_view, q.image, list(q.regions)) for q in queries if q.regions])
    prompts = [build_prompt(query, conversation(model), "q", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, prompts)
    seen: list[Tensor] = []
    handle = model.get_model().region_encoder.register_forward_hook(lambda _m, _a, out: seen.append(out[:, 0]))
    with torch.no_grad():
        model(batch.pop("inputs"), **batch)
    handle.remove()
    torch.testing.assert_close(seen[0], alone, rtol=1e-5, atol=1e-5)


def test_maps_are_the_hidden_states_of_the_tower(tower_roi: Loaded) -> None:
    """No second pass, any layer, no stale hooks; LLaVA's own features are what they were."""
    from pvit_ext.hosts.llava.tower import capture_feature_maps

    tower = tower_roi[1].get_vision_tower()
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
