"""EfficientNet-Lite0 as LLaVA's vision tower: 25 image tokens, two maps for region encoders, three hidden layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor

from examples.photographs.efficientnet import FINE, GRID, LAYER_WIDTH, STRIDE, WIDTH, EfficientNetMaps, hidden_layers
from pvit_ext import VisionTower

NAME = "efficientnet_lite0"
SIDE = 448
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetTower(VisionTower):
    """``--vision_tower efficientnet_lite0``; frozen."""

    frozen = True
    vision_tower: EfficientNetMaps

    def __init__(self, name: str, args: Any) -> None:
        super().__init__(name, args)
        self.vision_tower = EfficientNetMaps()
        self.config = SimpleNamespace(
            hidden_size=WIDTH,
            image_size=SIDE,
            patch_size=STRIDE,
            num_hidden_layers=2,
            feature_widths=(FINE, WIDTH),
            feature_strides=(STRIDE // 2, STRIDE),
            aggregator_layers=3,
            aggregator_width=LAYER_WIDTH,
            aggregator_heads=8,
        )
        square = {"height": SIDE, "width": SIDE}
        self.image_processor = CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size=square, image_mean=MEAN, image_std=STD
        )

    def load_pretrained(self) -> None:
        """ImageNet's weights."""
        self.vision_tower.load_pretrained()

    def features(self, output: tuple[Tensor, ...]) -> Tensor:
        """(B, 25, 1728): the coarse map on a grid of 5 by 5."""
        return F.adaptive_avg_pool2d(output[1], GRID).flatten(2).transpose(1, 2)

    def feature_maps(self, output: tuple[Tensor, ...]) -> list[Tensor]:
        """(B, 112, 28, 28) and (B, 1728, 14, 14)."""
        return list(output[:2])

    def hidden_layers(self, output: tuple[Tensor, ...]) -> list[Tensor]:
        """Three of (B, 448, 5, 5), of strides 8, 16 and 32."""
        return hidden_layers(output[2:])

    @property
    def num_patches_per_side(self) -> int:
        """Cells per side of the grid that the language model reads."""
        return GRID
