"""The vision aggregator against the numbers of LION's own code (golden g9), and how a new one starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvit_ext.adapters.lion.aggregator import VisionAggregator, aggregator_for, boundaries
from pvit_ext.adapters.lion.tower_layers import different_depths, layers_at
from pvit_ext.config import AGGREGATOR_DEPTHS
from tests.goldens import rules

GOLDEN = Path(__file__).parents[2] / "goldens" / "g9_aggregator.safetensors"
SEED, CELLS, WIDTH = 9, 257, 64
_PARTS = {
    "own": "attention",
    "cross": "crossattention",
    "query": "self.query",
    "key": "self.key",
    "value": "self.value",
    "out": "output.dense",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """What the original computed."""
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def lion(golden: dict[str, Tensor]) -> VisionAggregator:
    """An aggregator with the golden's weights."""
    model = VisionAggregator(WIDTH, 48, (38, 28, 18), heads=16, inner=3072, appended=True)
    state = {name: _weight(name, tuple(tensor.shape), golden) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def _weight(name: str, shape: tuple[int, ...], golden: dict[str, Tensor]) -> Tensor:
    if not name.startswith("blocks."):
        part, kind = name.split(".")
        return golden[f"w.{ {'norm': 'ln_adapter', 'rise': 'adapter_proj.0', 'rows': 'adapter_proj.2'}[part] }.{kind}"]
    _, block, *path, kind = name.split(".")
    if len(path) == 1:
        own = {"rise": "intermediate.dense", "fall": "output.dense", "norm": "output.LayerNorm"}[path[0]]
    else:
        own = f"{_PARTS[path[0]]}.{'output.LayerNorm' if path[1] == 'norm' else _PARTS[path[1]]}"
    return rules.weight(f"fusion_adapter.blocks.{block}.{own}.{kind}", shape, SEED)


def _layers(images: int = 2) -> list[Tensor]:
    layers = (rules.normal(f"g9.inter{number}", (2, CELLS, WIDTH), SEED)[:images] for number in (38, 28, 18))
    return [layer.flatten(0, 1) for layer in layers]


def test_the_numbers_are_those_of_lions_code(lion: VisionAggregator, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        rows = lion(_layers(), boundaries(2, CELLS)).unflatten(0, (2, CELLS))[:, ::8]
    torch.testing.assert_close(rows, golden["out.aggregator"], atol=4e-6, rtol=0)
    assert golden["out.aggregator"].abs().max() > 1


def test_an_image_has_the_same_rows_beside_images_of_other_sizes(lion: VisionAggregator) -> None:
    layers = _layers()
    bounds = torch.tensor([0, CELLS, 2 * CELLS - 100])
    with torch.no_grad():
        alone = lion(_layers(1), boundaries(1, CELLS))
        beside = lion([layer[:-100] for layer in layers], bounds)
    torch.testing.assert_close(beside[:CELLS], alone, atol=1e-5, rtol=0)


def test_a_new_one_gives_zeros_and_learns_in_all_its_parts_within_three_steps() -> None:
    torch.manual_seed(0)
    model, layers = VisionAggregator(16, 8, (3, 2, 1), heads=2), [torch.randn(6, 16) for _ in range(3)]
    target, bounds = torch.randn(6, 8), boundaries(2, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert torch.equal(model(layers, bounds), torch.zeros(6, 8))
    touched: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        (model(layers, bounds) - target).square().mean().backward()
        touched |= {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
        optimizer.step()
    assert touched == {name for name, _ in model.named_parameters()}


def test_lions_own_start_is_norms_alone() -> None:
    model = VisionAggregator(16, 8, (3, 2, 1), heads=2, appended=True)
    late, *asked = (torch.randn(6, 16) for _ in range(3))
    expected = torch.nn.functional.layer_norm(late, (16,))
    x = late
    for block, layer in zip(model.blocks, asked, strict=True):
        x = block(x, layer, boundaries(2, 3))
    torch.testing.assert_close(x, expected, atol=1e-4, rtol=0)
    assert model([late, *asked], boundaries(2, 3)).abs().max() > 0


def test_layers_follow_the_depth() -> None:
    assert layers_at(AGGREGATOR_DEPTHS, 24) == [24 + 1 - 2, 24 + 1 - 7, 24 + 1 - 13]
    assert layers_at("1,0.5", 12) == [12, 6]


@pytest.mark.parametrize("depths", ["0.9", "0.4,0.9", "1.2,0.5", "0.5,-0.1", "late,early", ""])
def test_depths_that_do_not_fall_from_one_to_zero_are_refused(depths: str) -> None:
    with pytest.raises(ValueError, match="give two or more fractions"):
        layers_at(depths, 24)


def tower(layers: int, offers: bool) -> Any:
    if offers:
        return SimpleNamespace(aggregator_layers=layers, aggregator_width=16, aggregator_heads=2)
    return SimpleNamespace(num_hidden_layers=layers, hidden_size=16, num_attention_heads=2)


@pytest.mark.parametrize(
    ("layers", "offers", "depths", "said"),
    [
        (
            24,
            False,
            "1,1",
            "lion_aggregator_depths '1,1' read layer 24 of 24 twice: give fractions that name different",
        ),
        (24, False, "1,0.99,0.98", "read layer 24 of 24 3 times"),
        (24, False, "0.5,0.5", "read layer 12 of 24 twice"),
        (2, False, AGGREGATOR_DEPTHS, "read layer 1 of 2 twice"),
        (2, True, "1,0.5,0", "read layer 1 of 2 twice"),
        (1, True, None, "this tower has a single layer"),
        (1, True, "1,0", "this tower has a single layer"),
    ],
)
def test_a_new_aggregator_reads_no_layer_twice(layers: int, offers: bool, depths: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        different_depths(tower(layers, offers), depths)


@pytest.mark.parametrize(
    ("layers", "offers", "wanted", "found"),
    [
        (24, False, None, (23, 18, 12)),
        (2, False, "0.95,0.74", (2, 1)),
        (1, False, "0.95,0.49", (1, 0)),
        (2, True, "0.95,0.74", (1, 0)),
        (3, True, None, (2, 1, 0)),
    ],
)
def test_default_depths_of_a_small_tower(
    layers: int, offers: bool, wanted: str | None, found: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pvit_ext")
    assert (depths := different_depths(tower(layers, offers), None)) == wanted
    assert aggregator_for(tower(layers, offers), 8, depths, False).layers == found
    assert ("reads some twice" in caplog.text) == (wanted is not None)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="16 channels do not divide into 3"):
        VisionAggregator(16, 8, (3, 2, 1), heads=3)
