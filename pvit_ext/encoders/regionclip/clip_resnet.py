"""CLIP's ModifiedResNet with its frozen batch norms folded into the convolutions, channels-last throughout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvit_ext.encoders.regionclip.attention_pool import AttentionPool

STRIDE = 16
"""Pixels per cell of the trunk's map: conv1, the stem's pool, layer2 and layer3 halve it."""

EXPANSION = 4
"""Output channels of a bottleneck per inner channel."""


class ConvReLU(nn.Conv2d):
    """A convolution with its ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return super().forward(x).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; a stride is an average pool (anti-aliased), as in CLIP.

    In-place ReLU and addition touch fresh convolution outputs only, so they are safe with autograd too.

    Args:
        channels: of the input.
        width: inner channels.
        stride: 1 or 2.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvReLU(channels, width, 1)
        self.conv2 = ConvReLU(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width * EXPANSION, 1)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != width * EXPANSION:
            # Named "0" as in the original, where "1" is the batch norm that is folded here.
            self.downsample = nn.Sequential(OrderedDict({"0": nn.Conv2d(channels, width * EXPANSION, 1)}))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 width, H // stride, W // stride)."""
        out = self._shrink(self.conv2(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(self._shrink(x))
        return self.conv3(out).add_(shortcut).relu_()

    def _shrink(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class CLIPResNet(nn.Module):
    """CLIP's ModifiedResNet, split where RegionCLIP pools: :meth:`trunk`, then :meth:`head` on each region.

    Source: arXiv 2103.00020; github.com/openai/CLIP names the layers.

    Args:
        layers: bottlenecks in layer1 to layer4.
        width: channels after the stem.
        heads: heads of the attention pool.
        output_dim: C of the result.
        pool: cells per side of what :meth:`head` gets; layer4 halves it.
    """

    def __init__(self, layers: Sequence[int], width: int, heads: int, output_dim: int, pool: int) -> None:
        super().__init__()
        if len(layers) != 4 or pool % 2 or pool < 2 or width % 2:
            raise ValueError(
                f"layers has 4 entries, pool and width are even, got layers {layers}, pool {pool}, width {width}"
            )
        self.conv1 = ConvReLU(3, width // 2, 3, stride=2, padding=1)
        self.conv2 = ConvReLU(width // 2, width // 2, 3, padding=1)
        self.conv3 = ConvReLU(width // 2, width, 3, padding=1)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool((pool // 2) ** 2, width * 32, heads, output_dim)

    def trunk(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> res4 (B, 16 width, about H / 16, about W / 16), channels-last."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = F.avg_pool2d(self.conv3(self.conv2(self.conv1(x))), 2)
        return self.layer3(self.layer2(self.layer1(x)))

    def head(self, pooled: Tensor) -> Tensor:
        """Pooled regions (M, 16 width, pool, pool) -> (M, output_dim)."""
        return self.attnpool(self.layer4(pooled))


def cells(side: int) -> int:
    """Cells of :meth:`CLIPResNet.trunk`'s map along a side of this many pixels: conv1 rounds up, the pools down."""
    return (side + 1) // 2 // 2 // 2 // 2


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width, 1) for _ in range(blocks - 1)))
