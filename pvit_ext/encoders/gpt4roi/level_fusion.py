"""GPT4RoI's fusion of feature maps: levels exchange channels with their neighbours between shared convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
            levels.append(resize(projected, (one.shape[2] * scale, one.shape[3] * scale)))
        for fuse in self.rounds:
            levels = fuse(levels)
        return levels


class FusionRound(nn.Module):
    """Each level keeps half of its channels and takes a quarter from either neighbour; an end is its own neighbour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(math.gcd(GROUPS, width), width)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, C, H_l, W_l) per level -> the same shapes."""
        half, quarter = levels[0].shape[1] // 2, levels[0].shape[1] // 4
        fused = []
        for number, level in enumerate(levels):
            above, below = levels[min(number + 1, len(levels) - 1)], levels[max(number - 1, 0)]
            size = level.shape[-2:]
            taken = resize(above[:, half + quarter :], size), resize(below[:, half : half + quarter], size)
            fused.append(F.relu(self.gn(self.conv(torch.cat([level[:, :half], *taken], 1)))))
        return fused


def enlarged_cells(boxes: Tensor, size: Sequence[int], scale: int) -> Tensor:
    """Boxes (M, 4) float32 in cells of a map -> in cells of the map that :func:`resize` makes ``scale`` times as large.

    Cell ``i`` spans ``[i, i + 1)``. ``align_corners`` lays the centres of the outermost cells onto each other.

    Args:
        boxes: xyxy.
        size: (H, W) of the large map.
        scale: the enlargement.
    """
    large = torch.tensor(tuple(size)[::-1], device=boxes.device).repeat(2)  # (width, height) twice
    stretch = (large - 1) / (large / scale - 1).clamp(min=1)  # a map of one cell is the same everywhere
    return (boxes - 0.5) * stretch + 0.5


def coordinates(feature_map: Tensor) -> Tensor:
    """x and y of every cell, from -1 to 1, (B, 2, H, W) (CoordConv, arXiv 1807.03247)."""
    batch, _, height, width = feature_map.shape
    x, y = (
        torch.linspace(-1, 1, count, device=feature_map.device, dtype=feature_map.dtype) for count in (width, height)
    )
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(batch, 2, height, width)


def resize(feature_map: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly with ``align_corners``, as the original does."""
    if tuple(feature_map.shape[-2:]) == tuple(size):
        return feature_map
    return F.interpolate(feature_map, size=tuple(size), mode="bilinear", align_corners=True)
