"""Feature replay against the original's numbers (golden g7), and the share of a cell that a mask covers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.encoders.base import RegionInputs, build_region_encoder
from pvit_ext.encoders.coverage import mask_coverage
from pvit_ext.encoders.replay import Replay, build
from pvit_ext.regions.view import View

GOLDEN = Path(__file__).parents[1] / "goldens" / "g7_feature_replay.safetensors"
PATCH, HIDDEN = 7, 6
TOWER = SimpleNamespace(hidden_size=HIDDEN, num_hidden_layers=3, patch_size=PATCH)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def make(**options: Any) -> Replay:
    return build(RegionConfig("replay", encoder_options={"grid": 4, **options}), TOWER)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def golden_inputs(feature_map: Tensor) -> RegionInputs:
    with safe_open(GOLDEN, "pt") as file:
        facts = {key: json.loads(value) for key, value in file.metadata().items()}
    size = tuple(facts["view"])
    regions = [Region.box(*box, normalized=True).resolve(size) for box in facts["boxes_norm"]]
    return RegionInputs(regions, torch.zeros(2, dtype=torch.int64), [size], [feature_map], [View.resize(size, size)])


def original(**options: Any) -> Replay:
    tower = SimpleNamespace(hidden_size=24, num_hidden_layers=2, patch_size=14)
    return build(RegionConfig("replay", encoder_options={"stride": 28, **options}), tower)


def test_g7_replays_where_the_region_is(numbers: dict[str, Tensor]) -> None:
    tokens = original()(golden_inputs(numbers["in.merged_feature_map"]))
    assert tokens.shape == (2, 256, 24)
    assert relative(tokens[0], numbers["ref.single_scaled0"][0].flatten(1).T) < 1e-5
    assert relative(tokens[0], numbers["out.tokens0"]) > 0.5  # the original's boxes are scaled twice


def test_g7_legacy_geometry_gives_the_original_s_prompt_rows(numbers: dict[str, Tensor]) -> None:
    """The rows of ``inputs_embeds`` that the original fills, in its order."""
    tokens = original(legacy_geometry=True)(golden_inputs(numbers["in.merged_feature_map"]))
    for number in (0, 1):
        assert relative(tokens[number], numbers[f"out.tokens{number}"]) < 1e-5


@pytest.mark.parametrize("prefix", ["", "mllm.model.multi_modal_projector."])
def test_projector_loads_under_the_original_s_keys(numbers: dict[str, Tensor], prefix: str, tmp_path: Path) -> None:
    weights = {key: value for key, value in numbers.items() if key.startswith("mllm.")}
    assert len(weights) == 4
    rest = {} if not prefix else {"mllm.model.language_model.norm.weight": torch.ones(3)}
    named = {prefix + key.split("multi_modal_projector.")[1]: value for key, value in weights.items()}
    save_file(named | rest, tmp_path / "gar.safetensors")
    tower = SimpleNamespace(hidden_size=32, num_hidden_layers=2, patch_size=28)
    encoder = build(RegionConfig("replay", encoder_options={"projection": 24, "grid": 2}), tower)
    encoder.load_weights(str(tmp_path / "gar.safetensors"))
    x = torch.randn(1, 32, 32, 48)
    name = "mllm.model.multi_modal_projector.linear_"
    hidden = F.gelu(F.linear(x.permute(0, 2, 3, 1), weights[f"{name}1.weight"], weights[f"{name}1.bias"]))
    projected = F.linear(hidden, weights[f"{name}2.weight"], weights[f"{name}2.bias"]).permute(0, 3, 1, 2)
    narrow = SimpleNamespace(**vars(tower) | {"hidden_size": 24})
    plain = build(RegionConfig("replay", encoder_options={"grid": 2}), narrow)
    assert relative(encoder(golden_inputs(x)), plain(golden_inputs(projected))) < 1e-6


def test_weights_need_a_projection_and_all_of_its_keys(tmp_path: Path) -> None:
    save_file({"multi_modal_projector.linear_1.weight": torch.ones(8, HIDDEN)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="without the option projection"):
        make().load_weights(str(tmp_path / "part.safetensors"))
    with pytest.raises(ValueError, match=r"does not fit.*2\.bias"):
        make(projection=8).load_weights(str(tmp_path / "part.safetensors"))


SIZE, VIEW = (60, 40), View.pad_to_square((60, 40)).then(View.resize((60, 60), (56, 56)))


def inputs_of(regions: list[Region], maps: Tensor | None = None, image: int = 0) -> RegionInputs:
    index = torch.full((len(regions),), image, dtype=torch.int64)
    maps = torch.randn(image + 1, HIDDEN, 8, 8, generator=torch.Generator().manual_seed(0)) if maps is None else maps
    resolved = [region.resolve(SIZE) for region in regions]
    return RegionInputs(resolved, index, [SIZE] * len(maps), [maps], [VIEW] * len(maps))


def test_tokens_are_the_map_at_their_place_in_the_padded_view() -> None:
    """On a map of coordinates a token's feature is its place, by hand."""
    centres = (torch.arange(8) + 0.5) * PATCH
    maps = torch.zeros(1, HIDDEN, 8, 8)
    maps[0, 0], maps[0, 1] = centres[None], centres[:, None]
    box = (12.0, 4.0, 48.0, 36.0)
    tokens = make(grid=4, shape=False)(inputs_of([Region.box(*box)], maps))[0].view(4, 4, HIDDEN)
    x = (12 + 36 * (torch.arange(4) + 0.5) / 4) * 56 / 60
    y = (10 + 4 + 32 * (torch.arange(4) + 0.5) / 4) * 56 / 60
    torch.testing.assert_close(tokens[..., 0], x.expand(4, 4))
    torch.testing.assert_close(tokens[..., 1], y[:, None].expand(4, 4))


def ellipse() -> Region:
    y, x = np.mgrid[:40, :60]
    return Region.mask(((x - 30) / 20) ** 2 + ((y - 20) / 15) ** 2 <= 1)


def thin_line() -> Region:
    mask = np.zeros((40, 60), dtype=bool)
    mask[np.arange(40), np.arange(40)] = True
    return Region.mask(mask)


@pytest.mark.parametrize("region", [ellipse(), thin_line(), Region.polygon([(5, 5), (50, 8), (20, 35)])])
def test_shares_count_the_pixels_of_the_mask(region: Region) -> None:
    """On the mask's bounding box, cut where pixels touch a cell, by a loop over cells and pixels."""
    inputs, grid = inputs_of([region]), 3
    shares = mask_coverage(inputs, grid)[0]
    mask = inputs.mask(0)
    x0, y0, x1, y1 = inputs.boxes[0].tolist()
    for row in range(grid):
        for column in range(grid):
            left, right = (x0 + (x1 - x0) * (column + i) / grid for i in (0, 1))
            top, bottom = (y0 + (y1 - y0) * (row + i) / grid for i in (0, 1))
            touched = [
                mask[j, i]
                for j in range(40)
                for i in range(60)
                if min(i + 1, right) - max(i, left) > 0.05 and min(j + 1, bottom) - max(j, top) > 0.05
            ]
            assert shares[row, column].item() == pytest.approx(float(np.mean(touched)))
    assert 0 < shares.mean() < 1


def test_shape_is_nothing_at_the_start_and_then_tells_a_mask_from_its_box() -> None:
    inputs = inputs_of([ellipse(), Region.box(10, 5, 51, 36)])  # the box around the mask
    encoder, without = make(), make(shape=False)
    assert torch.equal(encoder(inputs), without(inputs))
    torch.testing.assert_close(*without(inputs))
    torch.nn.init.ones_(encoder.shape.weight)
    mask, box = (encoder(inputs) - without(inputs))[..., 0]
    torch.testing.assert_close(box, torch.ones(16))
    torch.testing.assert_close(mask, mask_coverage(inputs, 4)[0].flatten(), atol=1e-6, rtol=0)
    assert mask[0] < 0.6 < mask[5]


def test_mask_outside_the_view_is_an_error() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[:, [0, 59]] = True  # its box lies across the view, none of its pixels does
    crop = View.resize(SIZE, SIZE).center_crop((28, 28))
    inputs = RegionInputs(
        [Region.mask(mask).resolve(SIZE, "region 0")], torch.tensor([0]), [SIZE], [torch.zeros(1, HIDDEN, 4, 4)], [crop]
    )
    with pytest.raises(RegionError, match=r"^region 0, image 0 .* crops all of the mask of 80 pixels away; use"):
        make()(inputs)
    assert make(shape=False)(inputs).shape == (1, 16, HIDDEN)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_regions(count: int) -> None:
    boxes = np.random.default_rng(0).uniform((0, 0, 31, 21), (29, 19, 60, 40), (count, 4))
    inputs = inputs_of([Region.box(*box) for box in boxes])
    encoder = make(projection=8)
    features = encoder(inputs)
    assert features.shape == (count, 16, 8)
    assert features.isfinite().all()
    assert torch.equal(features, encoder(inputs))


def test_a_region_is_the_same_alone_and_in_any_batch() -> None:
    regions = [Region.box(3, 4, 20, 39), ellipse(), Region.point(50, 20), Region.scribble([(3, 3), (50, 30)])]
    maps = torch.randn(3, HIDDEN, 8, 8)
    encoder = make(projection=8)
    torch.nn.init.ones_(encoder.shape.weight)
    index = torch.tensor([2, 0, 2, 1])
    batch = encoder(RegionInputs([r.resolve(SIZE) for r in regions], index, [SIZE] * 3, [maps], [VIEW] * 3))
    for number, region in enumerate(regions):
        alone = encoder(inputs_of([region], maps[index[number] :][:1]))
        torch.testing.assert_close(batch[number : number + 1], alone, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_map_and_every_parameter() -> None:
    maps = torch.randn(1, HIDDEN, 8, 8, requires_grad=True)
    encoder = make(projection=8)
    encoder(inputs_of([ellipse()], maps)).square().sum().backward()
    assert maps.grad is not None
    assert maps.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_boxes_stay_float32_under_half_precision() -> None:
    maps = torch.randn(1, HIDDEN, 8, 8).bfloat16()
    box = Region.box(10.3, 4.7, 41.1, 33.9)
    with torch.autocast("cpu", torch.bfloat16):
        half = make().bfloat16()(inputs_of([box], maps))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, make()(inputs_of([box], maps.float())).bfloat16())


def test_options_of_another_type_are_told_as_such() -> None:
    with pytest.raises(ValueError, match="'encoder_options' is an object or null, got"):
        build_region_encoder(RegionConfig("replay", encoder_options="{}"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "a grid of 1 or more"),
        ({"size": 4}, "unknown replay options .*size.*known: grid"),
        ({"layer": 9}, "got .9."),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
