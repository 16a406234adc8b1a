"""Osprey against the original's numbers (golden g4a), and what is ours in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.grid_masks import sample_masks
from pvit_ext.encoders.osprey import Osprey, build, mask_mean
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests import tower_inputs as tower
from tests.goldens import rules
from tests.goldens.shapes import ruled_state_dict

GOLDEN = Path(__file__).parents[1] / "goldens" / "g4a_osprey.safetensors"
WIDTHS, STRIDES, SIDE = [192, 384, 768, 1536], [4, 8, 16, 32], 512
LARGE, LINE, SPECK, EMPTY = [0, 1, 3], 5, 2, 4
"""The golden's masks: of the line and the 3x3 speck the original loses all or some levels, of the empty one all."""


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Osprey:
    options = {"widths": WIDTHS, "strides": STRIDES, "hidden": 1024, "output_dim": 4096}
    encoder = build(
        RegionConfig("osprey", encoder_options=options),
        SimpleNamespace(hidden_size=8, num_hidden_layers=24, patch_size=14),
    )
    path = tmp_path_factory.mktemp("osprey") / "checkpoint.bin"
    weights = ruled_state_dict("g4a_osprey", "mask_extractor", 4)
    torch.save(
        {"model." + key: value for key, value in weights.items()} | {"model.embed_tokens.weight": torch.zeros(2)}, path
    )
    encoder.load_weights(str(path))
    return encoder


@pytest.fixture(scope="module")
def maps() -> list[Tensor]:
    return [
        rules.normal(f"g4.res{i + 2}", (2, w, SIDE // s, SIDE // s), 4)
        for i, (w, s) in enumerate(zip(WIDTHS, STRIDES, strict=True))
    ]


def masks_of(numbers: dict[str, Tensor]) -> np.ndarray:
    return np.unpackbits(numbers["in.masks_bits"].numpy(), axis=2).astype(bool)  # (6, 512, 512)


def inputs_of(masks: np.ndarray, index: list[int], maps: list[Tensor]) -> RegionInputs:
    regions, view = [Region.mask(mask).resolve((SIDE, SIDE)) for mask in masks], View.resize((SIDE, SIDE), (SIDE, SIDE))
    return RegionInputs(regions, torch.tensor(index), [(SIDE, SIDE)] * 2, maps, [view] * 2)


def relative(a: Tensor, b: Tensor) -> float:
    """Of the worst row."""
    return float(((a.double() - b.double()).norm(dim=-1) / b.double().norm(dim=-1)).max())


def test_g4a_tokens(original: Osprey, maps: list[Tensor], numbers: dict[str, Tensor]) -> None:
    masks = masks_of(numbers)
    with torch.no_grad():
        tokens = original(inputs_of(masks[[*LARGE, 1, 0]], [0, 0, 0, 1, 1], maps))  # the second image has two of them
    rows = [*LARGE, 6, 7]
    assert tokens.shape == (5, 2, 4096)
    assert relative(tokens[:, 0], numbers["out.mask_token"][rows]) < 1e-5
    assert relative(tokens[:, 1], numbers["out.position_token"][rows]) < 1e-5


def test_g4a_small_masks(original: Osprey, maps: list[Tensor], numbers: dict[str, Tensor]) -> None:
    """Levels where the original sees something are equal; where it sees nothing, ours has one cell."""
    masks = masks_of(numbers)[[SPECK, LINE]]
    inputs = inputs_of(masks, [0, 0], maps)
    for level, stride in enumerate(STRIDES):
        cells = sample_masks(inputs, (SIDE // stride,) * 2, (stride, stride)) > 0
        for number, golden in enumerate((SPECK, LINE)):
            pooled = maps[level][0][:, cells[number]].mean(1)
            expected = numbers[f"mid.pooled{level}"][golden]
            if expected.any():
                assert relative(pooled, expected) < 1e-5
            else:
                assert int(cells[number].sum()) == 1
                y, x = (int(axis) for axis in cells[number].nonzero()[0])
                assert masks[number][y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].any()
    assert not numbers["mid.pooled3"][SPECK].any()  # the quirk is in the golden
    with torch.no_grad():
        assert relative(original(inputs)[:, 1], numbers["out.position_token"][[SPECK, LINE]]) < 1e-5


def test_g4a_from_pooled_features_on(original: Osprey, numbers: dict[str, Tensor]) -> None:
    """All of the original's masks, the empty one too: only biases are left of it."""
    with torch.no_grad():
        levels = [linear(numbers[f"mid.pooled{i}"]) for i, linear in enumerate(original.levels)]
        tokens = original.mask_token(torch.stack(levels).sum(0))
    assert not numbers["mid.pooled0"][EMPTY].any()
    assert relative(tokens, numbers["out.mask_token"][:6]) < 1e-5


def test_weights_go_back_to_the_original_layout(original: Osprey, tmp_path: Path) -> None:
    weights = ruled_state_dict("g4a_osprey", "mask_extractor", 4)
    back = original.original_state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    other = tiny(position_token=True)
    save_file(other.state_dict(), tmp_path / "own.safetensors")
    again = tiny(seed=1, position_token=True)
    again.load_weights(str(tmp_path / "own.safetensors"))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in again.state_dict().items())


def tiny(seed: int = 0, **options: object) -> Osprey:
    torch.manual_seed(seed)
    return build(RegionConfig("osprey", encoder_options={"position_grid": 4, **options}), tower.TOWER)


def test_weights_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    encoder = tiny()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    given = encoder.original_state_dict()
    cases = {
        "1 of 16 missing: levels.1.weight": {k: v for k, v in given.items() if k != "mask_extractor.res3.weight"},
        "1 of 16 unexpected: res9.weight": given | {"mask_extractor.res9.weight": torch.zeros(1)},
        r"1 of 16 of another shape: levels.0.weight \(3, 3\)": given
        | {"mask_extractor.res2.weight": torch.zeros(3, 3)},
        "16 of 16 missing": {},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=f"does not fit this .*, nothing was loaded. {message}"):
            encoder.load_weights(str(tmp_path / "weights.pt"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("grid", [(7, 5), (16, 16), (112, 112)])
def test_sampled_masks_equal_torchs_resize(grid: tuple[int, int]) -> None:
    masks = np.random.RandomState(0).uniform(size=(3, 90, 130)) > 0.4
    view = View.resize((130, 90), (64, 48))
    inputs = RegionInputs(
        [Region.mask(mask) for mask in masks], torch.zeros(3, dtype=torch.int64), [(130, 90)], views=[view]
    )
    expected = F.interpolate(torch.from_numpy(masks).float()[None], grid, mode="bilinear")[0]
    torch.testing.assert_close(sample_masks(inputs, grid), expected, rtol=1e-4, atol=1e-4)


def test_a_cropped_or_padded_view_reads_the_same_pixels() -> None:
    """Against the picture of the mask, put through the view pixel by pixel."""
    mask = np.zeros((100, 180), dtype=bool)
    mask[20:85, 30:150] = True
    for kind in tower.VIEWS:
        view = tower.view_of(kind, (180, 100))
        inputs = RegionInputs([Region.mask(mask)], torch.tensor([0]), [(180, 100)], views=[view])
        shown = tower.feature_map(mask.astype(np.float32), view, patch=1, width=1)[0].abs()  # a pixel a cell
        assert float((sample_masks(inputs, (64, 64))[0] - shown).abs().mean()) < 0.02


def test_mask_mean_equals_the_dense_mean() -> None:
    torch.manual_seed(0)
    maps, masks, index = torch.randn(2, 6, 9, 11), torch.rand(4, 9, 11) > 0.7, torch.tensor([0, 1, 1, 0])
    region, cell = masks.flatten(1).nonzero(as_tuple=True)
    pooled = mask_mean(maps, index[region] * 99 + cell, masks.flatten(1).sum(1))
    dense = torch.einsum("mchw,mhw->mc", maps[index], masks / masks.sum((1, 2), keepdim=True))
    torch.testing.assert_close(pooled, dense)


def test_levels_widths_and_strides_have_to_agree() -> None:
    with pytest.raises(ValueError, match="osprey reads 4 layers, but has 2 widths and 4 strides"):
        tiny(widths=[8, 8])
    encoder = tiny(layers=[-2, 3], position_token=False)
    assert (encoder.feature_layers, encoder.tokens_per_region) == ((-2, 3), 1)
