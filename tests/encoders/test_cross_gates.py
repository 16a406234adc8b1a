"""Gated cross layers: the identity at first, then attention to every patch of the own image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pvit_ext.ops.cross_attention import CrossLayers
from tests.encoders.grid import HIDDEN, random_maps

# Gated layers behind any encoder


def make_layers(opened: bool, feature_dim: int = 20, layers: int = 2) -> CrossLayers:
    torch.manual_seed(1)
    module = CrossLayers(feature_dim, HIDDEN, layers, head_dim=8)
    if opened:
        for block in module.blocks:
            nn.init.constant_(block.gates.weight, 0.7)
    return module


def layer_inputs(count: int = 7, tokens: int = 3, images: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    index = torch.randint(0, images, (count,), generator=generator)
    boxes = torch.rand(count, 4, generator=generator)
    return torch.randn(count, tokens, 20, generator=generator), random_maps(images), index, boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closed_gates_are_the_identity(dtype: torch.dtype) -> None:
    features, maps, index, boxes = layer_inputs()
    module = make_layers(opened=False)
    assert torch.equal(module(features.to(dtype), maps, index, boxes), features.to(dtype))
    assert torch.equal(module.to(dtype)(features, maps.to(dtype), index, boxes), features)
    opened = make_layers(opened=True)
    assert (opened(features, maps, index, boxes) - features).abs().min(2).values.max() > 1e-3
    opened.reset()
    assert torch.equal(opened(features, maps, index, boxes), features)


def by_hand(module: CrossLayers, features: Tensor, maps: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """Region by region and head by head, the softmax written out."""
    results = []
    for x, image, box in zip(features, index, boxes, strict=True):
        patches = module.norm_patches(maps[image].flatten(1).T)
        position = module.position(box[None]).to(x)
        for block in module.blocks:
            queries = block.query(block.norm_attention(x) + position)
            keys, values = block.key_value(patches).chunk(2, 1)
            heads = []
            for part in range(block.heads):
                rows = slice(part * 8, part * 8 + 8)
                heads.append((queries[:, rows] @ keys[:, rows].T / 8**0.5).softmax(1) @ values[:, rows])
            x = x + block.gates.weight[0] * block.out(torch.cat(heads, 1))
            x = x + block.gates.weight[1] * block.mlp(block.norm_mlp(x))
        results.append(x)
    return torch.stack(results)


def test_open_gates_attend_to_every_patch_of_the_own_image() -> None:
    module = make_layers(opened=True).double()
    features, maps, index, boxes = layer_inputs()
    args = features.double(), maps.double(), index, boxes
    torch.testing.assert_close(module(*args), by_hand(module, *args), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_layers_take_any_number_of_regions_and_no_batch_changes_one(count: int) -> None:
    module = make_layers(opened=True)
    features, maps, index, boxes = layer_inputs(count)
    batch = module(features, maps, index, boxes)
    assert batch.shape == features.shape
    assert torch.equal(batch, module(features, maps, index, boxes))
    for n in range(min(count, 5)):
        alone = module(features[n : n + 1], maps[index[n]][None], torch.tensor([0]), boxes[n : n + 1])
        torch.testing.assert_close(batch[n : n + 1], alone, rtol=1e-5, atol=1e-5)


def test_gates_open_first_then_the_rest_learns() -> None:
    features, maps, index, boxes = layer_inputs()

    def moved(module: CrossLayers) -> set[str]:
        module(features, maps, index, boxes).square().sum().backward()
        return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-7}

    assert moved(make_layers(opened=False)) == {"blocks.0.gates.weight", "blocks.1.gates.weight"}
    module = make_layers(opened=True)
    assert moved(module) == {name for name, _ in module.named_parameters()}


def test_layers_survive_a_state_dict() -> None:
    opened, fresh, args = make_layers(opened=True), make_layers(opened=False), layer_inputs()
    fresh.load_state_dict(opened.state_dict())
    assert torch.equal(fresh(*args), opened(*args))
