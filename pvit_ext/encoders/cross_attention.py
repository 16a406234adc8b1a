"""Region queries that attend to exactly the patches a region covers, a whole batch in one attention per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.coverage import covered_cells
from pvit_ext.encoders.options import builder, check_layers
from pvit_ext.ops.cross_attention import CrossBlock, FourierEmbedding


@dataclass(frozen=True)
class CrossAttentionOptions:
    """Sizes of the encoder.

    Args:
        tokens: T, learned queries per region.
        layers: cross-attention blocks.
        heads: attention heads.
        head_dim: channels per head; C is ``heads * head_dim``.
        context: rings of cells around a region that its queries also see.
        layer: hidden layer of the vision tower to read.
        backend: of the attention: ``auto``, ``flash``, ``sdpa`` or ``eager``.
    """

    tokens: int = 4
    layers: int = 2
    heads: int = 8
    head_dim: int = 64
    context: int = 0
    layer: int = -2
    backend: str = "auto"


class CrossAttention(RegionEncoder):
    """T queries per region attend to the cells the region touches; keys carry the cell's position in the region.

    Keys and values are made once per covered patch, however many regions cover it; attention then costs the sum of
    covered patches, not regions times patches. The encoder is ours; variable-length attention is FlashAttention's
    (arXiv 2205.14135).

    Args:
        options: sizes.
        tower_config: of the vision tower, for its width and patch size.
    """

    name: ClassVar[str] = "cross_attention"

    def __init__(self, options: CrossAttentionOptions, tower_config: Any) -> None:
        super().__init__()
        least = {"tokens": 1, "layers": 1, "heads": 1, "head_dim": 1, "context": 0}
        if wrong := {name: getattr(options, name) for name, low in least.items() if getattr(options, name) < low}:
            raise ValueError(f"cross_attention options {wrong} are too small, the least are {least}")
        self.options, self.patch = options, tower_config.patch_size
        self.feature_layers = check_layers((options.layer,), tower_config)
        self.tokens_per_region, self.feature_dim = options.tokens, options.heads * options.head_dim
        self.queries = nn.Embedding(options.tokens, self.feature_dim)
        self.box_position = FourierEmbedding(4, self.feature_dim)
        self.cell_position = FourierEmbedding(2, self.feature_dim)
        self.norm_patches, self.norm_out = nn.LayerNorm(tower_config.hidden_size), nn.LayerNorm(self.feature_dim)
        sizes = self.feature_dim, tower_config.hidden_size, options.heads, options.head_dim
        self.blocks = nn.ModuleList(CrossBlock(*sizes) for _ in range(options.layers))

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the parameters' dtype.

        Args:
            inputs: with one feature map (B, hidden, H, W), and ``views``.

        Raises:
            RegionError: naming a region that the tower's view crops away.
        """
        (feature_map,) = inputs.feature_maps
        device, (height, width) = feature_map.device, feature_map.shape[-2:]
        cells = covered_cells(inputs, (width, height), self.patch, self.options.context)
        counts = torch.tensor([len(region) for region in cells], dtype=torch.int64)  # (M,), kept off the device
        cell = torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *cells]))  # (K,)
        image = inputs.image_index.cpu().repeat_interleave(counts)
        used, pair = (image * height * width + cell).unique(return_inverse=True)  # (U,), (K,)
        used, pair = used.to(device), pair.to(device)
        patches = feature_map.permute(0, 2, 3, 1)[used // (height * width), used // width % height, used % width]
        patches = self.norm_patches(patches.to(self.queries.weight.dtype))  # (U, hidden)
        in_box = self._positions(inputs.tower_boxes.cpu(), cell, counts, width)  # (K, 2)
        position = self.cell_position(in_box.to(device))  # (K, C)
        bounds = torch.arange(len(cells) + 1) * self.tokens_per_region, nn.functional.pad(counts.cumsum(0), (1, 0))
        boxes = self.box_position(inputs.boxes_norm.to(device))  # (M, C)
        queries = self.queries(torch.arange(self.tokens_per_region, device=device))  # (T, C)
        x = (queries + boxes[:, None]).flatten(0, 1)  # (M * T, C)
        for block in self.blocks:
            keys, values = (part.index_select(0, pair) for part in block.keys_values(patches))  # type: ignore[operator]
            x = block(x, keys + position, values, *bounds, backend=self.options.backend)
        return self.norm_out(x).unflatten(0, (len(cells), self.tokens_per_region))  # (M, T, C)

    def _positions(self, boxes: Tensor, cell: Tensor, counts: Tensor, width: int) -> Tensor:
        """Position of every covered cell in its region's box, (K, 2) float32: the box spans -0.5..0.5 of each axis.

        Args:
            boxes: (M, 4) xyxy float32, pixels of the tower's view.
            cell: (K,) int64, cells of the grid, region after region.
            counts: (M,) int64.
            width: columns of the grid.
        """
        middle, side = (boxes[:, 2:] + boxes[:, :2]) / 2, boxes[:, 2:] - boxes[:, :2]
        centre = (torch.stack([cell % width, cell // width], 1) + 0.5) * self.patch  # (K, 2)
        return (centre - middle.repeat_interleave(counts, 0)) / side.clamp(min=self.patch).repeat_interleave(counts, 0)


build = builder(CrossAttention, CrossAttentionOptions)
