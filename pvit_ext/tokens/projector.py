"""The region token builder: region features (M, T, C) -> region tokens (M, S, D) in the language model's width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.encoders.options import check_tower
from pvit_ext.ops.cross_attention import CrossLayers


class BoxEmbedding(nn.Linear):
    """PVIT's linear embedding of the normalised box (arXiv 2308.13437), computed in float32 under any autocast.

    Zero at the start, so that adding it between the stages changes nothing at step 0.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(4, hidden_size)
        self.reset()

    def reset(self) -> None:
        """Set it to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, boxes_norm: Tensor) -> Tensor:
        """boxes_norm (M, 4) xyxy float32 in 0..1 of the original image -> (M, D)."""
        with torch.autocast(boxes_norm.device.type, enabled=False):
            return F.linear(boxes_norm.float(), self.weight.float(), self.bias.float()).to(self.weight.dtype)


class RegionProjector(nn.Module):
    """Cross layers, projection of region features, box embedding, and delimiters around each region.

    Args:
        config: which parts there are.
        facts: C and T of the encoder.
        hidden_size: D, width of the language model.
        tower_config: of the vision tower, whose patches cross layers attend to.
    """

    def __init__(self, config: RegionConfig, facts: EncoderFacts, hidden_size: int, tower_config: Any = None) -> None:
        super().__init__()
        width = facts.feature_dim
        self.features = _build_projector(config.projector, width, hidden_size) if facts.tokens_per_region else None
        self.cross_layers = (
            CrossLayers(width, check_tower(tower_config, "cross_layers").hidden_size, config.cross_layers)
            if config.cross_layers
            else None
        )
        self.box_embedding = BoxEmbedding(hidden_size) if config.box_embedding else None
        self.delimiters = nn.Embedding(2, hidden_size) if config.delimiters else None
        if self.delimiters is not None:
            nn.init.normal_(self.delimiters.weight, std=0.02)  # as LLaMA initialises its token embeddings

    def forward(
        self,
        features: Tensor,
        boxes_norm: Tensor,
        context_map: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """features (M, T, C) -> (M, S, D); S is T, and two more with delimiters.

        Args:
            boxes_norm: (M, 4) xyxy float32 in 0..1 of the original image.
            context_map: (B, patch_dim, H, W) of the vision tower, for cross layers.
            image_index: (M,) int64, for cross layers.
        """
        if self.features is None:
            raise ValueError("the region encoder gives no features (T = 0): there is nothing to project")
        if self.cross_layers is not None:
            features = self.cross_layers(features, context_map, image_index, boxes_norm)
        tokens = self.features(features)  # (M, T, D)
        if self.box_embedding is not None:
            tokens = tokens + self.box_embedding(boxes_norm)[:, None]
        if self.delimiters is not None:
            ends = self.delimiters(torch.arange(2, device=tokens.device)).to(tokens.dtype)
            start, end = ends.expand(len(tokens), 2, -1).split(1, dim=1)
            tokens = torch.cat((start, tokens, end), dim=1)  # (M, T + 2, D)
        return tokens


def _build_projector(kind: str | None, feature_dim: int, hidden_size: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(feature_dim, hidden_size)
    if kind == "mlp2x_gelu":
        return nn.Sequential(nn.Linear(feature_dim, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
    raise ValueError(f"unknown region projector {kind!r}; known: linear, mlp2x_gelu")
