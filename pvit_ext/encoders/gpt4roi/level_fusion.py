"""GPT4RoI's fusion of feature maps: levels exchange channels with their neighbours between shared convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.encoders.gpt4roi.enlarged import Enlarged, Map, resize

GROUPS = 64


class LevelFusion(nn.Module):
    """Feature maps of equal size -> fused maps, each ``scale`` times as large.

    Source: GPT4RoI (arXiv 2307.03601), section 3.2.

    Args:
        in_width: channels of the given maps.
        width: channels of the fused maps, a multiple of 4.
        scales: enlargement of each level.
        rounds: exchanges, each with a 3x3 convolution, group norm and ReLU that all levels share.
    """

    def __init__(self, in_width: int, width: int, scales: Sequence[int], rounds: int) -> None:
        super().__init__()
        self.scales = tuple(scales)
        inputs = [nn.Conv2d(in_width + 2, width, 1) for _ in scales]
        for project in inputs:
            # Coordinates reach 1, which no channel of a tower does that keeps its features at unit length.
            nn.init.zeros_(project.weight[:, in_width:])
        self.inputs = nn.ModuleList(inputs)
        self.rounds = nn.ModuleList(FusionRound(width) for _ in range(rounds))

    def forward(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, C, H, W) per level -> (B, width, scale * H, scale * W) per level."""
        levels = []
        for one, scale, project in zip(feature_maps, self.scales, self.inputs, strict=True):
            # Projecting before enlarging is exact, and up to 64 times cheaper: a resize mixes cells by weights that sum
            # to one, and ``align_corners`` makes the coordinates of a small map those of a large one.
            projected = project(torch.cat([one, coordinates(one)], 1))
            levels.append(Enlarged.of(projected, (one.shape[2] * scale, one.shape[3] * scale)))
        if not self.rounds:
            return [level.full_map() for level in levels]
        first, *others = self.rounds
        fused: list[Tensor] = first(levels, last=not others)
        for fuse in others:
            fused = fuse(fused, last=fuse is others[-1])
        return fused


class FusionRound(nn.Module):
    """Each level keeps half of its channels and takes a quarter from either neighbour; an end is its own neighbour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = FusionConv(width)
        self.gn = LeadingNorm(math.gcd(GROUPS, width), width)

    def forward(self, levels: Sequence[Map], last: bool) -> list[Tensor]:
        """Fused maps of the same shapes.

        Args:
            levels: (B, C, H_l, W_l) each; the last quarter of the first one's C is not read, and may be missing.
            last: False makes no such quarter either, for only a level below the first would take it.
        """
        half, quarter = self.width // 2, self.width // 4
        fused = []
        for number, level in enumerate(levels):
            above, below = levels[min(number + 1, len(levels) - 1)], levels[max(number - 1, 0)]
            size = level.shape[-2:]
            parts = [
                level[:, :half],
                resize(above[:, half + quarter :], size),
                resize(below[:, half : half + quarter], size),
            ]
            unread = 0 if last or number or len(levels) == 1 else quarter
            fused.append(F.relu(self.gn(self.conv(parts, self.width - unread))))
        return fused


class FusionConv(nn.Module):
    """A 3x3 convolution of maps side by side, of whose outputs the leading ones may be all that is wanted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(width, width, 3, bias=False).weight

    def forward(self, parts: list[Map], outputs: int) -> Tensor:
        """(B, C_i, H, W) each, their C_i adding up -> (B, outputs, H, W)."""
        weight = self.weight[:outputs]
        if isinstance(parts[0], Tensor):
            return F.conv2d(torch.cat(parts, 1), weight, padding=1)
        taken = weight.split([part.shape[1] for part in parts], 1)
        return sum((part.convolve(one) for part, one in zip(parts, taken, strict=True)), weight.new_zeros(()))


class LeadingNorm(nn.GroupNorm):
    """Group norm of all channels, or of the leading groups alone."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W), of whole groups -> the same shape."""
        channels = input.shape[1]
        groups = channels * self.num_groups // self.num_channels
        return F.group_norm(input, groups, self.weight[:channels], self.bias[:channels], self.eps)


def coordinates(feature_map: Tensor) -> Tensor:
    """x and y of every cell, from -1 to 1, (B, 2, H, W) (CoordConv, arXiv 1807.03247)."""
    batch, _, height, width = feature_map.shape
    x, y = (
        torch.linspace(-1, 1, count, device=feature_map.device, dtype=feature_map.dtype) for count in (width, height)
    )
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(batch, 2, height, width)
