"""Grouping of points in a plane: farthest points, their nearest neighbours, one feature for each group.

With neighbour ``j`` and centre ``i``, points ``p`` and features ``f``, a group's feature is the maximum or mean over
``j`` of ``norm(relu(A [D [f_j - f_i; p_j - p_i] + d; f_i; p_i] + a))``. Both projections come before the ReLU, so with
``A = [A1 A2]`` the argument is ``u_j - u_i + A2 [f_i; p_i] + A1 d + a``, where ``u = A1 D [f; p]``: one row per point
instead of one per neighbour of a centre. Features that are read off a map are projected before they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REGIONS_PER_PASS = {"cpu": 1, "cuda": 32}
"""Regions whose groups are formed at once, 12 MB each for a CLIP-L in float32: two overflow a CPU's cache."""

ALL = slice(None)


@dataclass(frozen=True)
class Taps:
    """The four rows of a table that each of N points a region reads, and their bilinear weights; both (M, N, 4)."""

    rows: Tensor
    weights: Tensor

    def read(self, table: Tensor) -> Tensor:
        """Rows (R, C) -> values at the points (M, N, C), float32."""
        flat = self.rows.flatten(0, 1), table.float()
        return F.embedding_bag(*flat, mode="sum", per_sample_weights=self.weights.flatten(0, 1)).unflatten(
            0, self.rows.shape[:2]
        )

    def used(self, table: Tensor) -> tuple[Tensor, Taps]:
        """The rows of a table (R, C) that are read at all, and the taps on these."""
        read = torch.zeros(len(table), dtype=torch.bool, device=table.device)
        read[self.rows] = True
        return table[read], Taps((read.cumsum(0) - 1)[self.rows], self.weights)

    def at(self, chosen: Tensor) -> Taps:
        """The taps of some points, (M, G) int64."""
        return Taps(take(self.rows, chosen), take(self.weights, chosen))


def bilinear_taps(cells: Tensor, grid: Sequence[int], image_index: Tensor) -> Taps:
    """Taps on the flattened (B * H * W) cells of feature maps.

    Args:
        cells: (M, N, 2) float32 (x, y), in cells from the centre of the first cell; clamped to the map.
        grid: (H, W).
        image_index: (M,) int64.
    """
    height, width = grid
    limit = torch.tensor([width - 1, height - 1], device=cells.device)
    inside = torch.minimum(cells.clamp(min=0), limit)
    low = inside.floor().long()
    high, fraction = torch.minimum(low + 1, limit), inside - low
    columns, rows = (torch.stack([low[..., axis], high[..., axis]], -1) for axis in (0, 1))  # (M, N, 2)
    weights = torch.stack([1 - fraction, fraction], -1)  # (M, N, 2, 2)
    first = image_index[:, None, None, None] * (height * width)
    return Taps(
        (first + rows[..., :, None] * width + columns[..., None, :]).flatten(2),
        (weights[..., 1, :, None] * weights[..., 0, None, :]).flatten(2),
    )


class ColumnLinear(nn.Linear):
    """A Linear for some of its input's columns, so that the parts of a sum are computed where each is cheap."""

    def forward(self, input: Tensor, columns: slice = ALL, bias: bool = True) -> Tensor:
        """(N, columns) -> (N, out)."""
        return F.linear(input, self.weight[:, columns], self.bias if bias else None)


class ColumnConv(nn.Conv1d):
    """:class:`ColumnLinear` whose weight has the shape of a convolution with kernel 1, as the original keeps it."""

    def forward(self, input: Tensor, columns: slice = ALL, bias: bool = True) -> Tensor:
        """(N, columns) -> (N, out)."""
        return F.linear(input, self.weight[:, columns, 0], self.bias if bias else None)


class PooledNorm(nn.LayerNorm):
    """Forms groups, normalises and pools them, a few regions at a time, in one call, as ZeRO-3 counts module calls."""

    def forward(self, moving: Tensor, fixed: Tensor, near: Tensor, pooler: str) -> Tensor:  # type: ignore[override]
        """Neighbours' parts (M, N, C), centres' parts (M, G, C), neighbours (M, G, K) int64 -> features (M, G, C)."""
        pooled = []
        for part in _passes(near):
            hidden = F.relu(take(moving[part], near[part]).add_(fixed[part, :, None]), inplace=True)  # (m, G, K, C)
            hidden = super().forward(hidden.to(self.weight.dtype))
            pooled.append(hidden.amax(2) if pooler == "max" else hidden.mean(2))
        return torch.cat(pooled)


class PointGroups(nn.Module):
    """One round of grouping.

    Source: Ferret (arXiv 2310.07704), section 3.2, after PointMLP (arXiv 2202.07123).

    Args:
        width: C.
        groups: points to keep.
        neighbors: points in each group.
        pooler: ``max`` or ``mean`` over a group.
    """

    def __init__(self, width: int, groups: int, neighbors: int, pooler: str) -> None:
        super().__init__()
        self.groups, self.neighbors, self.pooler, self.width = groups, neighbors, pooler, width
        self.difference = ColumnLinear(width + 2, width + 2)
        self.aggregate = ColumnConv(2 * (width + 2), width, 1)
        self.norm = PooledNorm(width)

    def forward(
        self,
        rows: Tensor,
        points: Tensor,
        taps: Taps | None = None,
        first: Tensor | None = None,
        nearest: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features (M, G, C) and coordinates (M, G, 2) of the kept points.

        Args:
            rows: features, (M, N, C) of the points, or (R, C) that ``taps`` reads.
            points: (M, N, 2) float32, about 0..1.
            taps: of the points.
            first: (M,) int64, the first point to keep; point 0 by default.
            nearest: (M, G, K) int64, each group's points; found by distance by default.
        """
        kept = farthest_points(points, self.groups, first)  # (M, G)
        centres = take(points, kept)  # (M, G, 2)
        moving, fixed = self._project(rows, points, centres, taps, kept)  # (M, N, C), (M, G, C)
        near = nearest_points(points, centres, self.neighbors) if nearest is None else nearest  # (M, G, K)
        return self.norm(moving, fixed, near, self.pooler), centres

    def _project(
        self, rows: Tensor, points: Tensor, centres: Tensor, taps: Taps | None, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What each point adds as a neighbour (M, N, C), and as a centre (M, G, C); float32."""
        features, xy = slice(self.width), slice(self.width, None)  # columns of ``difference``
        moved = slice(self.width + 2)  # columns of ``aggregate``: A1, then A2's features and coordinates
        still, still_xy = slice(self.width + 2, 2 * self.width + 2), slice(2 * self.width + 2, None)
        axes, origin = torch.eye(2).to(rows), rows.new_zeros(1, 2)
        neighbour = self.aggregate(self.difference(rows, features, False), moved, False)
        centre = self.aggregate(rows, still, False)
        if taps is not None:
            neighbour, centre = taps.read(neighbour), taps.at(kept).read(centre)
        else:
            centre = take(centre, kept)
        # Coordinates are multiplied elementwise: autocast would round them in a matrix product.
        neighbour = neighbour.float() + _along(points, self.aggregate(self.difference(axes, xy, False), moved, False))
        constant = self.aggregate(self.difference(origin, xy), moved)
        centre = centre.float() + constant.float() + _along(centres, self.aggregate(axes, still_xy, False))
        return neighbour, centre - take(neighbour, kept)


def _passes(values: Tensor) -> Sequence[Tensor]:
    """Indices of the regions (M, ...) of each pass."""
    return torch.arange(len(values), device=values.device).split(REGIONS_PER_PASS.get(values.device.type, 1))


def _along(points: Tensor, axes: Tensor) -> Tensor:
    """Points (M, N, 2) float32 times axes (2, C) -> (M, N, C)."""
    return points[..., :1] * axes[0].float() + points[..., 1:] * axes[1].float()


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (M, N, C) at index (M, ...) -> (M, ..., C); a new tensor."""
    count = values.shape[1]
    offset = torch.arange(len(values), device=values.device).view(-1, *[1] * (index.ndim - 1)) * count
    return F.embedding(index + offset, values.flatten(0, 1))


@torch.no_grad()
def farthest_points(points: Tensor, count: int, first: Tensor | None = None) -> Tensor:
    """Farthest-point sampling: (M, count) int64, each the farthest from those before it; the lower index breaks ties.

    Args:
        points: (M, N, 2) float32.
        count: points to choose.
        first: (M,) int64; point 0 by default.
    """
    current = torch.zeros(len(points), dtype=torch.int64, device=points.device) if first is None else first
    distance = torch.full(points.shape[:2], torch.inf, device=points.device)
    chosen = []
    for _ in range(count):
        chosen.append(current)
        offset = points - take(points, current[:, None])
        distance = torch.minimum(distance, offset.square().sum(-1))
        current = distance.argmax(1)
    return torch.stack(chosen, 1)


@torch.no_grad()
def nearest_points(points: Tensor, centres: Tensor, count: int) -> Tensor:
    """The nearest points (M, N, 2) of each centre (M, G, 2), (M, G, count) int64.

    It takes differences: the expanded square, faster in many dimensions, rounds by the shape of the batch.
    """
    near = []
    for part in _passes(points):
        dx, dy = (centres[part, :, None, axis] - points[part, None, :, axis] for axis in (0, 1))  # (m, G, N)
        near.append((dx.square() + dy.square()).topk(count, largest=False, sorted=False).indices)
    return torch.cat(near)
