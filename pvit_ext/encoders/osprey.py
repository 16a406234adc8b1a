"""Osprey region encoder: features averaged inside the region's mask, and a second token for its shape and position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.grid_masks import sample_masks
from pvit_ext.encoders.options import builder, check_layers
from pvit_ext.encoders.weights import KeyMap


@dataclass(frozen=True)
class OspreyOptions:
    """Sizes of Osprey's mask extractor.

    Args:
        layers: hidden layers of the vision tower; by default four, spread over its second half, or all maps of a
            pyramid.
        widths: channels of each; as the tower says by default. A ConvNeXt-L, as in the released models, has
            (192, 384, 768, 1536).
        strides: view pixels per cell of each; as the tower says by default. The ConvNeXt has (4, 8, 16, 32).
        hidden: width in which the levels meet; the tower's by default, 1024 in the released weights.
        output_dim: C; ``hidden`` by default, the language model's width in the released weights.
        position_token: add the second token.
        position_grid: cells per side of the mask that the second token is made of.
    """

    layers: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    strides: tuple[float, ...] | None = None
    hidden: int | None = None
    output_dim: int | None = None
    position_token: bool = True
    position_grid: int = 112


class Osprey(RegionEncoder):
    """Mask pooling over several feature maps, and the mask itself through an MLP: two tokens a region.

    A region that misses the centre of every cell gets the cell it lies in; the original's feature is zero there.

    Source: Osprey (arXiv 2312.10032).
    """

    name: ClassVar[str] = "osprey"

    def __init__(self, options: OspreyOptions, tower_config: Any) -> None:
        super().__init__()
        self.options = options
        self.feature_layers = check_layers(options.layers, tower_config, pyramid=True)
        count = len(self.feature_layers)
        widths, strides = self._sizes(tower_config)
        self.strides = tuple(map(float, options.strides or strides))
        widths = options.widths or widths
        if not len(widths) == len(self.strides) == count:
            raise ValueError(
                f"osprey reads {count} layers, but has {len(widths)} widths and {len(self.strides)} strides"
            )
        hidden = options.hidden or tower_config.hidden_size
        self.feature_dim = options.output_dim or hidden
        self.tokens_per_region = 1 + options.position_token
        self.levels = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.mask_token = nn.Linear(hidden, self.feature_dim)
        self.position_token = self._position(hidden) if options.position_token else None
        levels = tuple((f"res{level + 2}.", f"levels.{level}.") for level in range(count))
        layers = tuple((f"mask_linear.layers.{i}.", f"position_token.{2 * i}.") for i in range(3))
        self.keys = KeyMap("mask_extractor", (*levels, *layers, ("feat_linear.", "mask_token.")))

    def _sizes(self, tower_config: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The tower's width and stride of each map that is read."""
        count = len(self.feature_layers)
        if (widths := getattr(tower_config, "feature_widths", None)) is None:
            return (tower_config.hidden_size,) * count, (tower_config.patch_size,) * count
        strides = tower_config.feature_strides
        return tuple(widths[i] for i in self.feature_layers), tuple(strides[i] for i in self.feature_layers)

    def _position(self, hidden: int) -> nn.Sequential:
        cells = self.options.position_grid**2
        return nn.Sequential(
            nn.Linear(cells, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.feature_dim),
        )

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the parameters' dtype: the mask token, then the position token.

        Args:
            inputs: with ``feature_maps``, one (B, C_l, H_l, W_l) per level, and ``views``.

        Raises:
            RegionError: naming a region that the tower's view crops away.
        """
        weight = self.mask_token.weight
        if not inputs.regions:
            return weight.new_zeros(0, self.tokens_per_region, self.feature_dim)
        levels = [
            linear(pooled.to(weight.device, weight.dtype))
            for linear, pooled in zip(self.levels, self.pool(inputs), strict=True)
        ]
        tokens = [self.mask_token(torch.stack(levels).sum(0))]  # (M, C)
        if self.position_token is not None:
            shapes = sample_masks(inputs, (self.options.position_grid,) * 2).flatten(1)  # (M, cells)
            tokens.append(self.position_token(shapes.to(weight.device, weight.dtype)))
        return torch.stack(tokens, 1)  # (M, T, C)

    def pool(self, inputs: RegionInputs) -> list[Tensor]:
        """Mean of each level's map inside each mask, (M, C_l) float32 per level."""
        cells: dict[tuple[int, int, float], tuple[Tensor, Tensor]] = {}
        pooled = []
        for feature_map, stride in zip(inputs.feature_maps, self.strides, strict=True):
            height, width = feature_map.shape[-2:]
            if (height, width, stride) not in cells:  # a ViT's levels share one grid
                masks = sample_masks(inputs, (height, width), (stride, stride)) > 0
                cells[height, width, stride] = _rows(masks, inputs.image_index)
            rows, counts = (part.to(feature_map.device) for part in cells[height, width, stride])
            pooled.append(mask_mean(feature_map, rows, counts))
        return pooled


def _rows(masks: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
    """Cells of the flattened (B * H * W) maps under each mask (M, H, W), region after region, and their counts (M,)."""
    region, cell = masks.flatten(1).nonzero(as_tuple=True)
    return image_index[region] * masks[0].numel() + cell, masks.flatten(1).sum(1)


def mask_mean(feature_map: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Mean of a map's cells under each mask, (M, C); costs what the masks cover, not M times the map.

    Args:
        feature_map: (B, C, H, W) floating; free of copies when it is channels-last. Differentiable.
        rows: (N,) int64, cells of the flattened (B * H * W) maps, region after region.
        counts: (M,) int64, cells of each region, none 0.
    """
    table = feature_map.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C)
    return F.embedding_bag(rows, table.float(), counts.cumsum(0) - counts, mode="mean")  # (M, C)


build = builder(Osprey, OspreyOptions)
