"""GPT4RoI against the original's numbers (golden g3a), and what is ours in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.gpt4roi.encoder import GPT4RoI, build
from pvit_ext.encoders.gpt4roi.enlarged import resize
from pvit_ext.encoders.gpt4roi.level_fusion import coordinates
from pvit_ext.ops.roi_align import roi_align
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests import tower_inputs as tower
from tests.goldens import rules
from tests.goldens.shapes import ruled_state_dict

GOLDEN = Path(__file__).parents[1] / "goldens" / "g3a_gpt4roi_narrow.safetensors"
ORIGINAL = {"hidden": 1024, "output_dim": 4096, "legacy_geometry": True}
SIDE, IMAGE = 224, (640, 480)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> GPT4RoI:
    encoder = build(
        RegionConfig("gpt4roi", encoder_options=ORIGINAL),
        SimpleNamespace(hidden_size=64, num_hidden_layers=24, patch_size=14),
    )
    path = tmp_path_factory.mktemp("gpt4roi") / "pytorch_model.bin"
    weights = ruled_state_dict("g3a_gpt4roi_narrow", "spi_module", 3)
    torch.save({"model." + key: value for key, value in weights.items()} | {"lm_head.weight": torch.zeros(2)}, path)
    encoder.load_weights(str(path))
    return encoder


def relative(a: Tensor, b: Tensor) -> float:
    """Of the worst row."""
    return float(((a.double() - b.double()).norm(dim=-1) / b.double().norm(dim=-1)).max())


def test_g3a(original: GPT4RoI, numbers: dict[str, Tensor]) -> None:
    assert original.feature_layers == (-11, -8, -5, -2)  # hidden states 14, 17, 20 and 23 of 25
    names = [f"g3a_gpt4roi_spi_narrow64.feat{level}" for level in range(4)]
    maps = [rules.normal(name, (2, 256, 64), 3).transpose(1, 2).unflatten(2, (16, 16)) for name in names]
    regions = [Region.box(*box, normalized=True).resolve(IMAGE) for box in numbers["in.boxes"].tolist()]
    index, view = torch.tensor([0, 0, 0, 0, 1, 1]), View.resize(IMAGE, (SIDE, SIDE))
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(original, name).register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
        for name in ("head", "position")
    ]
    with torch.no_grad():
        features = original(RegionInputs(regions, index, [IMAGE] * 2, maps, [view] * 2))
    for hook in hooks:
        hook.remove()
    assert relative(seen["position"], numbers["mid.position"]) < 1e-5
    assert relative(seen["head"], numbers["mid.flatten"]) < 1e-5
    assert features.shape == (6, 1, 4096)
    assert relative(features[:, 0], numbers["out"]) < 1e-5


def test_weights_go_back_to_the_original_layout(original: GPT4RoI) -> None:
    weights = ruled_state_dict("g3a_gpt4roi_narrow", "spi_module", 3)
    back = original.original_state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def tiny(**options: Any) -> GPT4RoI:
    torch.manual_seed(0)
    return build(RegionConfig("gpt4roi", encoder_options={"pool": 4, **options}), tower.TOWER)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(tiny(output_dim=8).original_state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"nothing was loaded. 2 of 41 unexpected: output.bias, output.weight"):
        tiny().load_weights(str(tmp_path / "weights.pt"))
    with pytest.raises(ValueError, match=r"1 of 43 of another shape: head.weight \(16, 256\) instead of \(16, 1024\)"):
        tiny(output_dim=8, pool=8).load_weights(str(tmp_path / "weights.pt"))
    tiny(output_dim=8).load_weights(str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("variant", ["full", "light"])
def test_boxes_meet_what_they_surround_on_every_level(variant: str) -> None:
    """On maps that hold each cell's own place, a box's mean is its centre; the original's is off at the border."""
    encoder, legacy = (tiny(variant=variant, rounds=0, legacy_geometry=value) for value in (False, True))
    places = (torch.arange(16.0) + 0.5) * tower.PATCH  # centres of cells, view pixels
    ramp = torch.stack([places.expand(16, 16), places[:, None].expand(16, 16)])[None]  # (1, 2, 16, 16)
    boxes = torch.tensor([[6.0, 8, 30, 20], [40, 44, 60, 58], [30.0, 3, 34, 61]])
    for scale in encoder.scales:
        large = resize(ramp, (16 * scale, 16 * scale))
        pooled, off = (
            roi_align(large, one._cells(boxes, large, scale), torch.zeros(3, dtype=torch.int64), 4, 1.0, 2).mean((2, 3))
            for one in (encoder, legacy)
        )
        centres = torch.stack([boxes[:, ::2].mean(1), boxes[:, 1::2].mean(1)], 1)
        torch.testing.assert_close(pooled, centres, rtol=0, atol=0.02)
        if scale > 1:
            assert (off - centres).abs().max() > 0.5


def test_projecting_before_enlarging_is_exact() -> None:
    torch.manual_seed(0)
    small, conv = torch.randn(1, 6, 5, 7), torch.nn.Conv2d(8, 4, 1)
    large = resize(small, (20, 28))
    expected = conv(torch.cat([large, coordinates(large)], 1))
    torch.testing.assert_close(resize(conv(torch.cat([small, coordinates(small)], 1)), (20, 28)), expected)


def test_pooled_head_gives_tokens_on_a_grid() -> None:
    encoder = tiny(head="pooled", tokens=4, rounds=0)
    assert encoder.tokens_per_region == 4
    assert encoder.head.in_features == 16
    box = (20, 20, 76, 76)
    quarters = [(20, 20, 48, 48), (48, 20, 76, 48), (20, 48, 48, 76), (48, 48, 76, 76)]
    pictures = [tower.draw((96, 96), bright) for bright in (None, *quarters)]
    with torch.no_grad():
        dark, *bright = encoder(tower.inputs_of(encoder, [(picture, [Region.box(*box)]) for picture in pictures]))
    change = torch.stack([(one - dark).norm(dim=1) for one in bright])  # (lit quarter, token)
    assert (change.argmax(1) == torch.arange(4)).all()


def test_variants_and_heads() -> None:
    light = tiny(variant="light")
    assert (light.scales, light.options.width, light.options.head) == ((1, 1, 1, 1), 4, "pooled")
    assert tiny(variant="light", width=8, head="flatten").head.in_features == 8 * 16
    assert (light.reads_tiles, tiny().reads_tiles, tiny(tiles=True).reads_tiles) == (True, False, True)
    assert tiny(layers=[-4, -2]).scales == (2, 1)
    wrong: dict[str, dict[str, Any]] = {
        "unknown gpt4roi variant 'tiny'; known: full, light": {"variant": "tiny"},
        "unknown gpt4roi head 'max'; known: flatten, pooled": {"head": "max"},
        r"reads 4 layers and needs a scale of 1 or more for each, got \[2, 1\]": {"scales": [2, 1]},
        "width is a multiple of 4, got 6": {"width": 6},
        "1 token, or a square number with head='pooled', got 3": {"tokens": 3, "head": "pooled"},
        "1 token, or a square number with head='pooled', got 4": {"tokens": 4},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            tiny(**options)


def test_before_training_what_is_pooled_outweighs_where() -> None:
    """On features of about unit length, as the quickstart's tower has them, neither embedding of place drowns them."""
    torch.manual_seed(0)
    encoder = build(
        RegionConfig("gpt4roi", encoder_options={"pool": 4, "scales": [1, 1, 1, 1]}),
        SimpleNamespace(hidden_size=64, num_hidden_layers=24, patch_size=14),
    )
    boxes = torch.tensor([[10.0, 20, 80, 90], [100, 30, 190, 200]])
    with torch.no_grad():
        one, other = (encoder.encode([m / 8] * 4, boxes, boxes / 224, torch.zeros(2).long()) for m in maps_of_noise(2))
        moved = encoder.position(boxes / 224)
    assert (one - other).norm(dim=-1).min() > 2 * (moved[0] - moved[1]).norm()
    assert not any(project.weight[:, -2:].any() for project in encoder.fusion.inputs)  # CoordConv's channels


def maps_of_noise(count: int) -> list[Tensor]:
    return [torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]
