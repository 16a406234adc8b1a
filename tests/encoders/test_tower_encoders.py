"""What every encoder on the vision tower's features promises: place, batch invariance, determinism, gradients."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from pvit_ext.config import RegionConfig
from pvit_ext.encoders import base, cross_attention, osprey, replay
from pvit_ext.encoders.base import RegionEncoder, RegionInputs, build_region_encoder
from pvit_ext.encoders.ferret import encoder as ferret
from pvit_ext.encoders.gpt4roi import encoder as gpt4roi
from pvit_ext.regions.region import Region, RegionError
from tests import tower_inputs as tower

ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "osprey": (osprey.build, {"position_grid": 16}),
    "ferret": (ferret.build, {"points": 96, "groups": [32, 8], "neighbors": [12, 6]}),
    "gpt4roi": (gpt4roi.build, {"pool": 4, "rounds": 2}),
    "gpt4roi light": (gpt4roi.build, {"variant": "light", "rounds": 2}),
    "replay": (replay.build, {"grid": 3}),
    "cross_attention": (cross_attention.build, {"tokens": 2, "heads": 2, "head_dim": 8}),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> RegionEncoder:
    return made(request.param)


def made(name: str, seed: int = 0, **options: Any) -> RegionEncoder:
    torch.manual_seed(seed)
    builder, defaults = ENCODERS[name]
    encoder: RegionEncoder = builder(RegionConfig(name.split()[0], encoder_options=defaults | options), tower.TOWER)
    return encoder


def local(name: str) -> RegionEncoder:
    """An encoder without what mixes places or tells them apart on purpose: fusion, and where the region lies."""
    return blinded(made(name, **LOCAL.get(name.split()[0], {})))


LOCAL: dict[str, dict[str, Any]] = {"osprey": {"position_token": False}, "gpt4roi": {"rounds": 0}}


def blinded(encoder: Any) -> Any:
    """The encoder, blind to where a region lies."""
    with torch.no_grad():
        if isinstance(encoder, gpt4roi.GPT4RoI):
            encoder.position[-1].weight.zero_(), encoder.position[-1].bias.zero_()
            for project in encoder.fusion.inputs:
                project.weight[:, -2:] = 0
        if isinstance(encoder, cross_attention.CrossAttention):
            for position in (encoder.box_position, encoder.cell_position):
                position.weight.zero_(), position.bias.zero_()
    return encoder


def batch(seed: int = 0) -> list[tuple[np.ndarray, list[Region]]]:
    generator = np.random.RandomState(seed)
    sizes, counts = [(96, 64), (60, 100), (80, 80), (60, 100)], [2, 0, 3, 1]
    samples = []
    for size, count in zip(sizes, counts, strict=True):
        regions = [tower.as_kind(tower.KINDS[n], tower.boxes_on(size)[n], size) for n in range(count)]
        samples.append((generator.uniform(size=size[::-1]).astype(np.float32), regions))
    return samples


# Place


@pytest.mark.parametrize("kind", tower.KINDS)
@pytest.mark.parametrize("size", tower.SIZES)
@pytest.mark.parametrize("view", tower.VIEWS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_bright_patch_changes_its_own_region_and_no_other(name: str, view: str, size: Any, kind: str) -> None:
    encoder, boxes = local(name), tower.boxes_on(size)
    regions = [tower.as_kind(kind, box, size) for box in boxes]
    pictures = [tower.draw(size, bright) for bright in (None, (0, 0, *size), *boxes)]
    with torch.no_grad():
        features = encoder(tower.inputs_of(encoder, [(picture, regions) for picture in pictures], view))
    dark, white, *bright = features.flatten(1).split(len(boxes))
    share = torch.stack([(one - dark).norm(dim=1) / (white - dark).norm(dim=1) for one in bright])  # (patch, region)
    assert share.diag().min() > 0.3, share
    assert share[~torch.eye(4, dtype=torch.bool)].max() < 0.02, share


@pytest.mark.parametrize("kind", ["box", "mask", "polygon"])
@pytest.mark.parametrize(
    ("name", "view"),
    [
        *itertools.product(["osprey", "gpt4roi", "gpt4roi light"], tower.VIEWS),
        *(("cross_attention", view) for view in ("square", "pad")),  # the crop is half a pixel off: other cells touch
    ],
)
def test_flipping_picture_and_regions_changes_nothing(name: str, view: str, kind: str) -> None:
    encoder, size = local(name), (180, 100)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 4:
                parameter.copy_((parameter + parameter.flip(3)) / 2)
        if name == "gpt4roi":  # a view of the weight: its columns are cells
            cells = encoder.head.weight.unflatten(1, (-1, 4, 4))
            cells.copy_((cells + cells.flip(3)) / 2)
    boxes = tower.boxes_on(size)
    flipped = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in boxes]
    picture = tower.smooth(size)
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    samples = [(picture, boxes), (mirrored, flipped), (mirrored, boxes)]
    regions = [(one, [tower.as_kind(kind, box, size) for box in places]) for one, places in samples]
    with torch.no_grad():
        plain, mirror, wrong = encoder(tower.inputs_of(encoder, regions, view)).flatten(1).split(len(boxes))
    assert (plain - mirror).norm() < 0.05 * (plain - wrong).norm()


def test_regions_of_the_second_image_read_the_second_image(encoder: RegionEncoder) -> None:
    size, box = (96, 96), tower.boxes_on((96, 96))[1]
    samples = [(tower.draw(size, None), [Region.box(*box)]), (tower.draw(size, box), [Region.box(*box)])]
    inputs = tower.inputs_of(encoder, samples)
    inputs.image_index = torch.tensor([1, 0])
    with torch.no_grad():
        features = encoder(inputs)
        expected = encoder(tower.inputs_of(encoder, samples)).flip(0)
    torch.testing.assert_close(features, expected)
    assert (features[0] - features[1]).norm() > 1e-2


def test_a_region_that_the_crop_cuts_away_is_named(encoder: RegionEncoder) -> None:
    size = (180, 100)  # the crop keeps columns 40 to 140
    inside, outside = Region.box(60, 20, 90, 50), Region.box(0, 10, 30, 90)
    inputs = tower.inputs_of(encoder, [(tower.smooth(size), [inside, outside])], "crop")
    inputs.regions = [region.resolve(size, f"sample 7, region {n}") for n, region in enumerate([inside, outside])]
    with pytest.raises(RegionError, match=r"^sample 7, region 1, image 0 of the batch: .*64x64 view crops .*=pad"):
        encoder(inputs)
    assert encoder(tower.inputs_of(encoder, [(tower.smooth(size), [inside, outside])], "pad")).isfinite().all()


def test_small_regions_are_never_lost(encoder: RegionEncoder) -> None:
    """Each lies in one cell and misses its centre; the cell is bright or dark."""
    size = (256, 256)  # 16 pixels a cell
    pixel = np.zeros((256, 256), dtype=bool)
    pixel[97, 162] = True
    regions = [
        Region.box(161.2, 97.1, 161.6, 97.3),
        Region.mask(pixel),
        Region.polygon([(161, 97), (163, 97), (162, 98.5)]),
    ]
    with torch.no_grad():
        lit = (tower.draw(size, (160, 96, 176, 112)), regions)
        bright, dark = encoder(tower.inputs_of(encoder, [lit, (tower.draw(size, None), regions)])).split(3)
    assert ((bright - dark).flatten(1).norm(dim=1) > 1e-3).all()


# The batch


def test_a_region_is_the_same_alone_and_in_any_batch(encoder: RegionEncoder) -> None:
    samples = batch()
    with torch.no_grad():
        together = encoder(tower.inputs_of(encoder, samples, noise=0.5))
        alone = [encoder(tower.inputs_of(encoder, [(p, [r])], noise=0.5)) for p, rs in samples for r in rs]
        order = [3, 1, 2, 0]
        shuffled = encoder(tower.inputs_of(encoder, [samples[i] for i in order], noise=0.5))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(shuffled, together[[5, 2, 3, 4, 0, 1]], rtol=1e-5, atol=2e-6)
    assert torch.pdist(together.flatten(1)).min() > 1e-2  # the comparison above can fail: these features differ


def test_forward_is_deterministic(encoder: RegionEncoder) -> None:
    samples = batch()
    first, again = (encoder(tower.inputs_of(encoder, samples, noise=0.5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(encoder.eval()(tower.inputs_of(encoder, samples, noise=0.5)), first)


def test_no_region_one_and_many(encoder: RegionEncoder) -> None:
    picture = np.random.RandomState(0).uniform(size=(70, 90)).astype(np.float32)
    shape = (encoder.tokens_per_region, encoder.feature_dim)
    many = [Region.box(i % 40, i % 31, i % 40 + 5 + i % 43, i % 31 + 4 + i % 33) for i in range(500)]
    with torch.no_grad():
        assert encoder(tower.inputs_of(encoder, [(picture, [])])).shape == (0, *shape)
        features = encoder(tower.inputs_of(encoder, [(picture, many)]))
        one = encoder(tower.inputs_of(encoder, [(picture, many[497:498])]))
    assert features.shape == (500, *shape)
    torch.testing.assert_close(features[497:498], one, rtol=1e-5, atol=2e-6)


# Gradients and dtypes


def test_gradients_reach_every_parameter_and_the_maps_where_they_ask_for_it(encoder: RegionEncoder) -> None:
    assert not encoder.frozen
    inputs = tower.inputs_of(encoder, batch(), noise=0.5)
    encoder(inputs).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    inputs.feature_maps = [one.requires_grad_() for one in inputs.feature_maps]
    encoder(inputs).square().sum().backward()
    for one in inputs.feature_maps:
        assert one.grad[0].any()
        assert not one.grad[1].any()  # this image has no region


def test_bfloat16_rounds_values_and_never_places(encoder: RegionEncoder) -> None:
    """Regions of 30 pixels at 3,900: bf16 steps by 16 there, and by 0.25 on the tower's 64 pixels."""
    size, places = (4000, 4000), [(3901, 3850, 3931, 3881), (3610, 3700, 3650, 3729)]
    inputs = tower.inputs_of(encoder, [(tower.smooth(size), [Region.box(*place) for place in places])], noise=0.5)
    with torch.no_grad():
        exact = encoder(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            cast = encoder(inputs)
        inputs.feature_maps = [one.bfloat16() for one in inputs.feature_maps]
        half = encoder.to(torch.bfloat16)(inputs)
    assert half.dtype == torch.bfloat16
    for rounded in (cast, half):
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


def test_dummy_region_is_valid(encoder: RegionEncoder) -> None:
    """What a rank runs whose batch has no region: any image's map, and the view of a 16x16 picture."""
    maps = [torch.randn(1, 16, 16, 16) for _ in encoder.feature_layers]
    view = tower.view_of("crop", (16, 16))
    inputs = RegionInputs([Region.box(4, 4, 12, 12)], torch.tensor([0]), [(16, 16)], maps, [view], [None])
    assert encoder(inputs).isfinite().all()


@pytest.mark.parametrize("name", ENCODERS)
def test_maps_need_not_be_square(name: str) -> None:
    encoder = local(name)
    inputs = tower.inputs_of(encoder, [(tower.smooth((80, 80)), [Region.box(50, 60, 79, 78)])])
    inputs.feature_maps = [torch.randn(1, 16, 12, 20) for _ in encoder.feature_layers]
    inputs.views = [dataclasses.replace(tower.view_of("square", (80, 80)), size=(80, 48), scale=(1.0, 0.6))]
    with torch.no_grad():
        before = encoder(inputs)
        for one in inputs.feature_maps:
            one[:, :, :6, :10] += 1
        torch.testing.assert_close(encoder(inputs), before)
        for one in inputs.feature_maps:
            one[:, :, 9:, 13:] += torch.randn(16, 1, 1)
        assert (encoder(inputs) - before).norm() > 0.1


# Configuration


@pytest.mark.parametrize("name", ENCODERS)
def test_builds_by_name_and_refuses_what_it_does_not_know(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, options = ENCODERS[name]
    name = name.split()[0]
    monkeypatch.setitem(base.REGION_ENCODERS, name, builder)
    config = RegionConfig(name, encoder_options=options)
    assert build_region_encoder(config, tower.TOWER).feature_dim > 0
    with pytest.raises(ValueError, match=rf"unknown {name} options \['depth'\]; known: \w+"):
        builder(RegionConfig(name, encoder_options={"depth": 3}), tower.TOWER)
    with pytest.raises(
        ValueError, match=rf"{name}' reads the vision tower's features; its config lacks \['hidden_size'"
    ):
        builder(RegionConfig(name), None)
    wrong = {"layer": -10} if name in ("ferret", "replay", "cross_attention") else {"layers": [-2, -10]}
    with pytest.raises(ValueError, match=r"the tower has hidden layers -9 to 8, got \["):
        builder(RegionConfig(name, encoder_options=wrong), tower.TOWER)


@pytest.mark.parametrize(
    ("depth", "layers"), [(24, (-11, -8, -5, -2)), (12, (-5, -4, -3, -2)), (3, (-4, -3, -2)), (1, (-2,))]
)
def test_default_layers(depth: int, layers: tuple[int, ...]) -> None:
    config = dataclasses.asdict(RegionConfig("osprey", encoder_options={"position_grid": 4}))
    small = type(tower.TOWER)(hidden_size=16, num_hidden_layers=depth, patch_size=4)
    assert osprey.build(RegionConfig(**config), small).feature_layers == layers
    assert gpt4roi.build(RegionConfig("gpt4roi", encoder_options={"pool": 2}), small).feature_layers == layers


# Through LLaVA


@pytest.mark.parametrize("name", ENCODERS)
def test_in_a_llava_model(name: str, llava_checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import pvit_ext
    from tests import samples

    builder, options = ENCODERS[name]
    monkeypatch.setitem(base.REGION_ENCODERS, name.split()[0], builder)
    torch.manual_seed(0)
    config = RegionConfig(name.split()[0], encoder_options=options)
    _, model, _, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), region_config=config, device="cpu")
    asked = [["I", 5, Region.box(1, 2, 30, 15), 6], [7, 8, "I", 9], ["I", Region.point(20, 10), Region.box(2, 2, 9, 9)]]
    inputs = samples.collate([samples.Sample(one) for one in asked], left=False)
    model.train()(**inputs).loss.backward()
    for key, parameter in model.get_model().region_encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
