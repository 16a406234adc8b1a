"""A bright patch at a region dominates that region's feature and no other's, through the whole model, in every view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.ops.roi_align import roi_align
from tests.encoders.test_tower_encoders import blinded
from tests.tiny import TINY_REGIONCLIP
from tests.tower_inputs import KINDS
from tests.tower_inputs import as_kind as as_pixels

SIDE, PATCH = 112, 7


@pvit_ext.register_region_encoder("test_tower_roi")
class TowerRoI(RegionEncoder):
    """Mean of the vision tower's last-but-one hidden layer inside the box."""

    name: ClassVar[str] = "test_tower_roi"
    feature_layers = (-2,)

    def __init__(self, config: RegionConfig, tower_config: Any) -> None:
        super().__init__()
        self.feature_dim, self.patch = tower_config.hidden_size, tower_config.patch_size

    def forward(self, inputs: RegionInputs) -> Tensor:
        (maps,) = inputs.feature_maps
        pooled = roi_align(maps, inputs.tower_boxes, inputs.image_index, 4, 1 / self.patch)  # (M, C, 4, 4)
        return pooled.mean((2, 3))[:, None]


def make_tower_see_brightness(tower: Any) -> None:
    """Channel 0 of a patch becomes its mean pixel, whatever the layer: no attention, no MLP, no position, no norm."""
    vision = getattr(tower.vision_tower, "vision_model", tower.vision_tower)
    with torch.no_grad():
        for name, parameter in vision.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "position_embedding.weight", "class_embedding", "bias")):
                parameter.zero_()
        embedding = vision.embeddings
        embedding.patch_embedding.weight.zero_()
        embedding.patch_embedding.weight[0] = 1 / (3 * PATCH * PATCH)
    vision.pre_layrnorm = torch.nn.Identity()


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


Loaded = tuple[Any, Any, Any]


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


def features(loaded: Loaded, images: Image.Image | list[Image.Image], regions: list[Region], token: int = 0) -> Tensor:
    """A token that the encoder gives for the regions of one prompt, on its way through the model's forward."""
    return features_of_each(loaded, [images], regions, token)[0]


def features_of_each(
    loaded: Loaded, images: Sequence[Image.Image | list[Image.Image]], regions: list[Region], token: int = 0
) -> Tensor:
    """The same (B, M, C) of one prompt for each image, or each list of them, in one batch."""
    tokenizer, model, processor = loaded
    queries = [Query(one, "Compare " + "<region>" * len(regions), regions) for one in images]
    prompts = [build_prompt(query, conversation(model), "q", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, prompts)
    seen: list[Tensor] = []
    handle = model.get_model().region_encoder.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        model(batch.pop("inputs"), **batch)
    handle.remove()
    return seen[0][:, token].unflatten(0, (len(queries), len(regions)))


# Asymmetric layouts inside the middle square, so that a centre crop keeps them: fractions of that square.
PLACES = [(0.05, 0.05, 0.35, 0.25), (0.6, 0.1, 0.95, 0.45), (0.1, 0.5, 0.3, 0.95), (0.55, 0.6, 0.8, 0.9)]
SIZES = [(96, 96), (180, 100), (100, 180)]


def boxes_on(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return [
        (left + int(a * side), top + int(b * side), left + int(c * side), top + int(d * side)) for a, b, c, d in PLACES
    ]


def draw(size: tuple[int, int], bright: tuple[int, int, int, int]) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x0, y0, x1, y1 = bright
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


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


def smooth(size: tuple[int, int]) -> Image.Image:
    """A picture without symmetry and without detail that a resize could move."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    value = 255 * (0.5 * x**2 + 0.3 * y + 0.2 * x * y)
    return Image.fromarray(np.repeat(value[..., None], 3, 2).astype(np.uint8))


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


# RegionCLIP, which has a view of its own


@pytest.fixture(scope="module")
def regionclip(llava_checkpoint: Path) -> Loaded:
    torch.manual_seed(0)
    options = {**TINY_REGIONCLIP, "shortest_edge": 192, "longest_edge": 320}
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=RegionConfig("regionclip", encoder_options=options), device="cpu"
    )
    return tokenizer, model, processor


def res4_brightness(loaded: Loaded, picture: Image.Image, regions: list[Region]) -> Tensor:
    """Mean over a region of what RoIAlign hands to RegionCLIP's head, (M, C)."""
    encoder = loaded[1].get_model().region_encoder
    pooled: list[Tensor] = []
    handle = encoder.backbone.layer4.register_forward_pre_hook(lambda _m, args: pooled.append(args[0]))
    features(loaded, picture, regions)
    handle.remove()
    return torch.cat(pooled).mean((2, 3))


@pytest.mark.parametrize("aspect", [None, "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_regionclip_pools_where_the_region_is(regionclip: Loaded, size: tuple[int, int], aspect: str | None) -> None:
    regionclip[1].config.image_aspect_ratio = aspect  # its own view does not care
    regions = [Region.box(*box) for box in boxes_on(size)]
    dark = res4_brightness(regionclip, draw(size, (0, 0, 0, 0)), regions)
    change = torch.stack(
        [(res4_brightness(regionclip, draw(size, box), regions) - dark).norm(dim=1) for box in boxes_on(size)]
    )
    others = change.masked_fill(torch.eye(4, dtype=torch.bool), 0)
    # res4's receptive field reaches beyond a region; the region itself still has to change most, both ways round
    assert (change.diag() > 2 * others.amax(0)).all(), change
    assert (change.diag() > 2 * others.amax(1)).all(), change


def test_regionclip_sees_what_a_centre_crop_cuts_away(regionclip: Loaded) -> None:
    regionclip[1].config.image_aspect_ratio = None
    edge = Region.box(0, 10, 30, 90)
    assert features(regionclip, smooth((180, 100)), [edge]).isfinite().all()


def test_region_object_is_not_changed_by_asking(regionclip: Loaded) -> None:
    region = Region.box(0.1, 0.1, 0.5, 0.9, normalized=True)
    before = replace(region)
    features(regionclip, smooth((60, 40)), [region])
    assert (region.points, region.normalized) == (before.points, before.normalized)
