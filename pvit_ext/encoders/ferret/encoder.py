"""Ferret region encoder: points inside a region of any shape, features at them, two rounds of grouping neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.ferret.point_groups import PointGroups, Taps, bilinear_taps
from pvit_ext.encoders.grid_masks import points_inside
from pvit_ext.encoders.options import builder, check_layers
from pvit_ext.encoders.weights import KeyMap


@dataclass(frozen=True)
class FerretOptions:
    """Sizes of Ferret's spatial-aware visual sampler.

    Args:
        layer: hidden layer of the vision tower.
        points: points per region.
        groups: points kept by each round.
        neighbors: points gathered around each of these.
        pooler: over the neighbours: ``max`` (the released models) or ``mean``.
        tokens: T, a divisor of the last of ``groups``.
        output_dim: C after one more Linear, the language model's width in the released weights; none by default.
        seed: of the points.
        legacy_geometry: read the features at the transposed point, as the original does and released weights were
            trained; of an ``anyres`` image then the base view, since the point depends on the map's size.
    """

    layer: int = -2
    points: int = 512
    groups: tuple[int, ...] = (128, 32)
    neighbors: tuple[int, ...] = (24, 24)
    pooler: str = "max"
    tokens: int = 1
    output_dim: int | None = None
    seed: int = 0
    legacy_geometry: bool = False


class Ferret(RegionEncoder):
    """Spatial-aware visual sampler; its points are spread evenly, the original's are random.

    Source: Ferret (arXiv 2310.07704), section 3.2.
    """

    name: ClassVar[str] = "ferret"

    def __init__(self, options: FerretOptions, tower_config: Any) -> None:
        super().__init__()
        _check(options)
        self.options, self.patch = options, tower_config.patch_size
        self.feature_layers, self.reads_tiles = (
            check_layers((options.layer,), tower_config),
            not options.legacy_geometry,
        )
        width, last = tower_config.hidden_size, options.groups[-1]
        self.tokens_per_region, self.feature_dim = options.tokens, options.output_dim or width
        self.rounds = nn.ModuleList(
            PointGroups(width, groups, neighbors, options.pooler)
            for groups, neighbors in zip(options.groups, options.neighbors, strict=True)
        )
        self.flatten = nn.Linear(width * (last // options.tokens), width)
        self.output = nn.Linear(width, options.output_dim) if options.output_dim else None
        per_round = tuple(
            (f"{original}.{i}.{leaf}", f"rounds.{i}.{own}")
            for i in range(len(self.rounds))
            for original, leaf, own in (
                ("diff_projector_list", "", "difference."),
                ("agg_projector_list", "net.0.", "aggregate."),
                ("agg_projector_list", "norm.", "norm."),
            )
        )
        ends = (("flatten_projector.", "flatten."), ("dim_projector.", "output."))
        self.keys = KeyMap("region_geo_sampler", (*per_round, *ends))

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the parameters' dtype.

        Args:
            inputs: with one feature map (B, C, H, W), and ``views``.

        Raises:
            RegionError: naming a region that the tower's view crops away.
        """
        weight = self.flatten.weight
        if not inputs.regions:
            return weight.new_zeros(0, self.tokens_per_region, self.feature_dim)
        (feature_map,) = inputs.feature_maps
        sizes = torch.tensor([view.size for view in inputs.views], dtype=torch.float32, device=weight.device)
        points = points_inside(inputs, self.options.points, self.options.seed).to(weight.device)
        return self.encode(feature_map, points, sizes, inputs.image_index.to(weight.device))

    def encode(
        self,
        feature_map: Tensor,
        points: Tensor,
        view_sizes: Tensor,
        image_index: Tensor,
        first: Sequence[Tensor] | None = None,
        nearest: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Features (M, T, C) of regions that are given by their points.

        Args:
            feature_map: (B, C, H, W).
            points: (M, N, 2) float32 (x, y), pixels of the tower's view.
            view_sizes: (B, 2) float32 (width, height) of the views.
            image_index: (M,) int64.
            first: per round (M,) int64, the point that farthest-point sampling starts with; point 0 by default.
            nearest: per round (M, groups, neighbours) int64, to break ties as another implementation does.
        """
        weight = self.flatten.weight
        unit = points / view_sizes[image_index][:, None]
        taps: Taps | None
        rows, taps = self._taps(points, unit, feature_map, image_index).used(
            feature_map.permute(0, 2, 3, 1).flatten(0, 2).to(weight.device)  # (B * H * W, C)
        )
        rows = rows.to(weight.dtype)
        for number, groups in enumerate(self.rounds):
            start, near = (None if given is None else given[number] for given in (first, nearest))
            rows, unit = groups(rows, unit, taps, start, near)  # (M, groups, C), (M, groups, 2)
            taps = None
        tokens = self.flatten(rows.reshape(len(points), self.tokens_per_region, -1))  # (M, T, C)
        return tokens if self.output is None else self.output(tokens)

    def _taps(self, points: Tensor, unit: Tensor, feature_map: Tensor, image_index: Tensor) -> Taps:
        height, width = feature_map.shape[-2:]
        if self.options.legacy_geometry:
            cells = unit.flip(-1) * torch.tensor([width - 1, height - 1], device=unit.device)
        else:
            cells = points / self.patch - 0.5
        return bilinear_taps(cells, (height, width), image_index)


def _check(options: FerretOptions) -> None:
    sizes = (options.points, *options.groups)
    if not options.groups or len(options.neighbors) != len(options.groups):
        raise ValueError(f"ferret needs neighbors for each of its groups {options.groups}, got {options.neighbors}")
    if any(not 0 < small <= large for small, large in zip((*options.groups, 1), sizes, strict=True)):
        raise ValueError(f"ferret's groups become smaller from {options.points} points on, got {options.groups}")
    if any(not 0 < near <= size for near, size in zip(options.neighbors, sizes, strict=False)):
        raise ValueError(f"ferret's neighbors {options.neighbors} exceed the points {sizes[:-1]} they are chosen from")
    if options.pooler not in ("max", "mean"):
        raise ValueError(f"unknown ferret pooler {options.pooler!r}; known: max, mean")
    if options.tokens < 1 or options.groups[-1] % options.tokens:
        raise ValueError(f"ferret's tokens divide its last {options.groups[-1]} groups, got {options.tokens}")


build = builder(Ferret, FerretOptions)
