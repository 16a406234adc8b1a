"""GPT4RoI region encoder: hidden layers of the vision tower as a fused feature pyramid, pooled by RoIAlign."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.config import RegionConfig
from pvit_ext.distributed import most_passes
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.gpt4roi.enlarged import enlarged_cells
from pvit_ext.encoders.gpt4roi.level_fusion import LevelFusion
from pvit_ext.encoders.options import check_layers, check_tower, read_options
from pvit_ext.encoders.weights import KeyMap
from pvit_ext.ops.roi_align import roi_align

REGIONS_PER_PASS = 64
"""Regions whose pooled maps are convolved at once; bounds memory, about 3 MB each for a CLIP-L in float32."""
SAMPLING_RATIO = 2
POSITION_AT_START = 0.1
"""Scale of the position embedding before training. At 1, two boxes would differ five times as much as two images do, on
features of unit length (tests/encoders/test_gpt4roi.py)."""


@dataclass(frozen=True)
class GPT4RoIOptions:
    """Sizes of a GPT4RoI module.

    Args:
        layers: hidden layers of the vision tower; by default four, spread over its second half.
        scales: how far each level's map is enlarged before fusing; (8, 4, 2, 1) by default for four levels.
        rounds: rounds of fusing.
        width: channels of the fused maps, a multiple of 4; the tower's by default.
        pool: RoIAlign cells per side.
        head: ``flatten`` (all cells into one Linear; 205 million parameters for a CLIP-L), or ``pooled`` (their mean).
        tokens: T, a square number; more than 1 with the ``pooled`` head only, which then averages over a grid.
        hidden: C before ``output_dim``; the tower's width by default, 1024 in the released weights.
        output_dim: C after one more Linear, the language model's width in the released weights; none by default.
        tiles: read the map of all tiles of an ``anyres`` image, at four times the cost or more; else its base view, as
            released weights were trained. ``light`` reads all tiles by default.
        legacy_geometry: pool where the original does, and released weights were trained: it enlarges maps by
            ``align_corners``, which moves them outwards by up to half a cell, and does not move the boxes.
    """

    layers: tuple[int, ...] | None = None
    scales: tuple[int, ...] | None = None
    rounds: int = 5
    width: int | None = None
    pool: int = 14
    head: str = "flatten"
    tokens: int = 1
    hidden: int | None = None
    output_dim: int | None = None
    tiles: bool = False
    legacy_geometry: bool = False


class CoordinateLinear(nn.Linear):
    """A Linear of coordinates, in float32 under any autocast."""

    def forward(self, coordinates: Tensor) -> Tensor:
        """(M, 4) float32 -> (M, out) of the parameters' dtype."""
        with torch.autocast(coordinates.device.type, enabled=False):
            return F.linear(coordinates.float(), self.weight.float(), self.bias.float()).to(self.weight.dtype)


class GPT4RoI(RegionEncoder):
    """RoIAlign on every level of a fused pyramid of ViT layers, summed, and an embedding of the box.

    The ``light`` variant fuses at the tower's own resolution and a quarter of its width, with the ``pooled`` head.
    Other kinds of regions count as their bounding box.

    Source: GPT4RoI (arXiv 2307.03601).
    """

    name: ClassVar[str] = "gpt4roi"

    def __init__(self, options: GPT4RoIOptions, tower_config: Any) -> None:
        super().__init__()
        self.options, self.patch, self.reads_tiles = options, tower_config.patch_size, options.tiles
        self.feature_layers = check_layers(options.layers, tower_config)
        levels, tower_width = len(self.feature_layers), tower_config.hidden_size
        self.scales = options.scales or tuple(2**level for level in reversed(range(levels)))
        width, hidden = options.width or tower_width, options.hidden or tower_width
        _check(options, levels, self.scales, width)
        self.tokens_per_region, self.feature_dim = options.tokens, options.output_dim or hidden
        self.fusion = LevelFusion(tower_width, width, self.scales, options.rounds)
        self.after_pool = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(levels))
        last = nn.LayerNorm(hidden)
        nn.init.constant_(last.weight, POSITION_AT_START)
        self.position = nn.Sequential(
            *(CoordinateLinear(4, hidden // 4), nn.ReLU(), nn.LayerNorm(hidden // 4)),
            *(nn.Linear(hidden // 4, hidden), nn.ReLU(), last),
        )
        self.head = nn.Linear(width * (options.pool**2 if options.head == "flatten" else 1), hidden)
        self.output = nn.Linear(hidden, options.output_dim) if options.output_dim else None
        self.keys = KeyMap(
            "spi_module",
            (
                ("mlvl_fuse.input_conv.", "fusion.inputs."),
                ("mlvl_fuse.fuse_convs.", "fusion.rounds."),
                ("roi_align.pconvs.", "after_pool."),
                ("roi_align.pos_embedd.", "position."),
                ("roi_align.flatten_linear.", "head."),
                ("roi_align.updims.", "output."),
            ),
        )

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the parameters' dtype.

        Args:
            inputs: with ``feature_maps``, one (B, C_l, H, W) per level, and ``views``.

        Raises:
            RegionError: naming a region that the tower's view crops away.
        """
        weight = self.head.weight
        if not inputs.regions:
            return weight.new_zeros(0, self.tokens_per_region, self.feature_dim)
        features, groups = [], list(inputs.rows_by_view_size().items())  # fusing mixes all cells of a map
        size, regions = groups[0]
        spare = [(size, regions[:1])] * (most_passes(len(groups), weight) - len(groups))
        for (width, height), regions in [*groups, *spare]:
            # Only images that have regions are fused.
            images, index = inputs.image_index[regions].unique(return_inverse=True)
            maps = [one[images.to(one.device)].to(weight.device, weight.dtype) for one in inputs.feature_maps]
            maps = [one[:, :, : height // self.patch, : width // self.patch] for one in maps]
            boxes = inputs.tower_boxes[regions].to(weight.device)
            boxes_norm = boxes / boxes.new_tensor([width, height] * 2)  # 0..1 of the view, as CoordConv's grid
            features.append(self.encode(maps, boxes, boxes_norm, index.to(weight.device)))
        order = torch.cat([regions for _, regions in groups]).argsort().to(weight.device)
        tokens = torch.cat(features[: len(groups)])[order]
        return sum(((0.0 * one).sum() for one in features[len(groups) :]), tokens)

    def encode(self, feature_maps: list[Tensor], boxes: Tensor, boxes_norm: Tensor, image_index: Tensor) -> Tensor:
        """Features (M, T, C) of boxes on maps of the vision tower.

        Args:
            feature_maps: (B, C, H, W) per level.
            boxes: (M, 4) xyxy float32, the tower's pixels.
            boxes_norm: (M, 4) xyxy float32, 0..1 of the tower's view.
            image_index: (M,) int64.
        """
        fused = self.fusion(feature_maps)
        on_level = [self._cells(boxes, one, scale) for one, scale in zip(fused, self.scales, strict=True)]
        features = []
        at_once = len(boxes) if torch.is_grad_enabled() else REGIONS_PER_PASS  # ZeRO-3: every rank runs a module once
        for part in torch.arange(len(boxes), device=boxes.device).split(at_once):
            pooled = sum(
                conv(roi_align(one, cells[part], image_index[part], self.options.pool, 1.0, SAMPLING_RATIO))
                for one, cells, conv in zip(fused, on_level, self.after_pool, strict=True)
            )
            features.append(self._head(F.relu(pooled)))
        tokens = torch.cat(features) + self.position(boxes_norm)[:, None]  # (M, T, C)
        return tokens if self.output is None else self.output(tokens)

    def _head(self, pooled: Tensor) -> Tensor:
        if self.options.head == "flatten":
            return self.head(pooled.flatten(1))[:, None]  # (M, 1, C)
        cells = F.adaptive_avg_pool2d(pooled, math.isqrt(self.options.tokens))
        return self.head(cells.flatten(2).transpose(1, 2))  # (M, T, C)

    def _cells(self, boxes: Tensor, fused: Tensor, scale: int) -> Tensor:
        """Boxes in cells of a fused map, (M, 4) float32."""
        cells = boxes / self.patch
        return cells * scale if self.options.legacy_geometry else enlarged_cells(cells, fused.shape[-2:], scale)


def _check(options: GPT4RoIOptions, levels: int, scales: tuple[int, ...], width: int) -> None:
    if options.head not in ("flatten", "pooled"):
        raise ValueError(f"unknown gpt4roi head {options.head!r}; known: flatten, pooled")
    if len(scales) != levels or min(scales) < 1:
        raise ValueError(f"gpt4roi reads {levels} layers and needs a scale of 1 or more for each, got {list(scales)}")
    if width % 4:
        raise ValueError(f"gpt4roi's width is a multiple of 4, got {width}")
    square = math.isqrt(options.tokens) ** 2 == options.tokens and options.tokens > 0
    if not square or (options.head == "flatten" and options.tokens > 1):
        raise ValueError(f"gpt4roi gives 1 token, or a square number with head='pooled', got {options.tokens}")


def build(config: RegionConfig, tower_config: Any = None) -> GPT4RoI:
    """Build from ``config.encoder_options``: ``variant`` (``full``, ``light``) and fields of :class:`GPT4RoIOptions`.

    Raises:
        ValueError: for an unknown variant or option, or a layer that the tower lacks.
    """
    tower = check_tower(tower_config, GPT4RoI.name)
    values = dict(config.encoder_options or {})
    variant = values.pop("variant", "full")
    if variant not in ("full", "light"):
        raise ValueError(f"unknown gpt4roi variant {variant!r}; known: full, light")
    light: dict[str, Any] = {}
    if variant == "light":
        layers = check_layers(values.get("layers"), tower)
        light = {
            "scales": (1,) * len(layers),
            "width": max(tower.hidden_size // 16, 1) * 4,
            "head": "pooled",
            "tiles": True,
        }
    return GPT4RoI(read_options(GPT4RoIOptions, values, GPT4RoI.name, "variant", **light), tower)
