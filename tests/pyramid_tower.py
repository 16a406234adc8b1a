"""A vision tower of a package beside pvit-ext: convolutions whose maps have three widths and strides, and train."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor

import pvit_ext

WIDTHS, STRIDES, SIDE = (8, 16, 32), (2, 4, 8), 32


class Trunk(nn.Module):
    """Pixels to three maps."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 2, stride=2), nn.BatchNorm2d(width), nn.ReLU())
            for before, width in zip((3, *WIDTHS), WIDTHS)  # noqa: B905
        )
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = [pixels * self.scale]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]


@pvit_ext.register_vision_tower("test_pyramid")
class PyramidTower(pvit_ext.VisionTower):
    """Its argument is the seed of its "pre-trained" weights."""

    def __init__(self, name: str, args: Any) -> None:
        super().__init__(name, args)
        self.vision_tower = Trunk()
        self.config = SimpleNamespace(
            **{"hidden_size": WIDTHS[-1], "num_hidden_layers": 3, "patch_size": STRIDES[-1], "image_size": SIDE},
            **{"feature_widths": WIDTHS, "feature_strides": STRIDES},
        )
        square = {"height": SIDE, "width": SIDE}
        self.image_processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)

    def load_pretrained(self) -> None:
        generator = torch.Generator().manual_seed(int(self.argument or 0))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def features(self, output: list[Tensor]) -> Tensor:
        return output[-1].flatten(2).transpose(1, 2)

    def feature_maps(self, output: list[Tensor]) -> list[Tensor]:
        return output


@pvit_ext.register_vision_tower("test_frozen_pyramid")
class FrozenPyramidTower(PyramidTower):
    """The same, frozen."""

    frozen = True


@pvit_ext.register_vision_tower("test_layered_pyramid")
class LayeredPyramidTower(FrozenPyramidTower):
    """Offers its maps as hidden layers too: pooled to one grid, filled up with zeros; the last as rows."""

    def __init__(self, name: str, args: Any) -> None:
        super().__init__(name, args)
        self.config.aggregator_layers, self.config.aggregator_width, self.config.aggregator_heads = 3, WIDTHS[-1], 4

    def hidden_layers(self, output: list[Tensor]) -> list[Tensor]:
        *maps, last = output
        pooled = [F.adaptive_avg_pool2d(one, SIDE // STRIDES[-1]) for one in maps]
        return [*(F.pad(one, (0, 0, 0, 0, 0, WIDTHS[-1] - one.shape[1])) for one in pooled), self.features([last])]
