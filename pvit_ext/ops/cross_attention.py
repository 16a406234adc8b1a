"""Cross-attention blocks, and gated ones behind any region encoder, through which regions see the whole image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.ops.varlen_attention import varlen_cross_attention


class FourierEmbedding(nn.Linear):
    """Linear embedding of coordinates and of their sines and cosines, taken in float32 under any autocast.

    Args:
        coordinates: how many per row of the input.
        width: C.
        octaves: frequencies; the lowest has a period of 2.
    """

    def __init__(self, coordinates: int, width: int, octaves: int = 4) -> None:
        super().__init__(coordinates * (1 + 2 * octaves), width)
        self.octaves = octaves

    def forward(self, values: Tensor) -> Tensor:
        """values (N, coordinates) float32 -> (N, C) of the parameters' dtype, or autocast's."""
        with torch.autocast(values.device.type, enabled=False):
            frequencies = math.pi * 2.0 ** torch.arange(self.octaves, device=values.device)
            angles = (values.float()[..., None] * frequencies).flatten(1)  # (N, coordinates * octaves)
            waves = torch.cat([values.float(), angles.sin(), angles.cos()], 1)
        return super().forward(waves.to(self.weight.dtype))


class CrossBlock(nn.Module):
    """Pre-norm cross-attention and MLP, both residual; queries of several sets attend to one key set each.

    Args:
        width: C of the queries.
        source: C of the patches.
        heads: attention heads.
        head_dim: channels of a head; a multiple of 8, or no flash kernel takes it.
        gated: scale both branches with scalars that start at zero.
    """

    def __init__(self, width: int, source: int, heads: int, head_dim: int, gated: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = nn.Linear(width, heads * head_dim), nn.Linear(heads * head_dim, width)
        self.key_value = nn.Linear(source, 2 * heads * head_dim)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gates = nn.Embedding(2, 1) if gated else None  # no bare parameter: transformers 5 may leave one unfilled
        self.reset()

    def reset(self) -> None:
        """Close the gates."""
        if self.gates is not None:
            nn.init.zeros_(self.gates.weight)

    def keys_values(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """patches (N, source) -> keys and values, (N, heads * head_dim) each."""
        keys, values = self.key_value(patches).chunk(2, dim=1)
        return keys, values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        position: Tensor | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """x (Tq, C), keys and values (Tk, heads * head_dim), boundaries (N + 1,) of the sets -> (Tq, C).

        Args:
            position: (Tq, C) added to the normalised queries.
        """
        queries = self.norm_attention(x)
        queries = self.query(queries if position is None else queries + position)
        parts = [part.unflatten(1, (self.heads, -1)) for part in (queries, keys, values)]  # (T, heads, head_dim)
        attended = varlen_cross_attention(parts[0], parts[1], parts[2], cu_seqlens_q, cu_seqlens_k, backend)
        gates = None if self.gates is None else self.gates(torch.arange(2, device=x.device)).to(attended.dtype)
        out = self.out(attended.flatten(1))
        x = x + (out if gates is None else out * gates[0])
        out = self.mlp(self.norm_mlp(x))
        return x + (out if gates is None else out * gates[1])  # (Tq, C)


class CrossLayers(nn.Module):
    """Gated cross-attention of region features to all patches of their image; the identity until its gates open.

    Keys and values are made once per image, and all regions of an image are one query set.

    Source: gated blocks as in Flamingo (arXiv 2204.14198), whose gates go through a tanh.

    Args:
        feature_dim: C of the region encoder.
        patch_dim: C of the vision tower.
        layers: N blocks.
        head_dim: channels of an attention head.
    """

    def __init__(self, feature_dim: int, patch_dim: int, layers: int, head_dim: int = 64) -> None:
        super().__init__()
        heads = max(1, feature_dim // head_dim)
        self.norm_patches = nn.LayerNorm(patch_dim)
        self.position = FourierEmbedding(4, feature_dim)
        blocks = (CrossBlock(feature_dim, patch_dim, heads, head_dim, gated=True) for _ in range(layers))
        self.blocks = nn.ModuleList(blocks)

    def reset(self) -> None:
        """Values of a new module: the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                module.reset_parameters()
        for block in self.blocks:
            block.reset()  # type: ignore[operator]

    def forward(self, features: Tensor, feature_map: Tensor, image_index: Tensor, boxes_norm: Tensor) -> Tensor:
        """features (M, T, C) -> (M, T, C) of the same dtype.

        Args:
            feature_map: (B, patch_dim, H, W) of the vision tower.
            image_index: (M,) int64, the image each region lies on.
            boxes_norm: (M, 4) xyxy float32, 0..1 of the original image.
        """
        device, dtype, tokens = feature_map.device, self.norm_patches.weight.dtype, features.shape[1]
        order = image_index.argsort(stable=True).to(device)
        images, regions = image_index.cpu().unique(return_counts=True)
        patches = feature_map[images.to(device)].permute(0, 2, 3, 1).flatten(1, 2)  # (images, P, patch_dim)
        bounds = F.pad((regions * tokens).cumsum(0), (1, 0)), torch.arange(len(images) + 1) * patches.shape[1]
        patches = self.norm_patches(patches.flatten(0, 1).to(dtype))
        position = self.position(boxes_norm.to(device)[order]).repeat_interleave(tokens, 0)  # (M * T, C)
        x = start = features[order].flatten(0, 1).to(dtype)  # (M * T, C)
        for block in self.blocks:
            x = block(x, *block.keys_values(patches), *bounds, position)  # type: ignore[operator]
        change = (x - start).unflatten(0, (len(order), tokens))[order.argsort()]  # (M, T, C)
        return features + change.to(features.dtype)
