"""Masks of regions on the vision tower's view: rasterised in original pixels, read through the view's affine."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View

Floats = NDArray[np.float64]
PLASTIC = 1.32471795724474602596
"""Root of x**3 = x + 1; its powers make the R2 sequence (Roberts 2018), a golden-ratio sequence in two dimensions."""


def sample_masks(inputs: RegionInputs, grid: tuple[int, int], cell: tuple[float, float] | None = None) -> Tensor:
    """Every region's mask at the centres of a grid of cells on the tower's view, (M, H, W) float32 in 0..1.

    Values are bilinear between pixels, without antialias, and zero on padding: where the view is a plain resize, equal
    to ``interpolate(mask, (H, W), mode="bilinear")``. A region that misses every centre gets the cell of its pixel
    nearest to its centroid, so no mask is empty.

    Args:
        inputs: with ``views``.
        grid: (H, W).
        cell: (width, height) of a cell, view pixels; the grid spans the whole view by default.

    Raises:
        RegionError: naming a region that the tower's view crops away.
    """
    masks = np.zeros((len(inputs.regions), *grid), dtype=np.float32)
    for number, image in enumerate(inputs.image_numbers):
        view = inputs.views[image]
        side = cell or (view.size[0] / grid[1], view.size[1] / grid[0])
        columns, rows = _axes(view, inputs.image_sizes[image], grid, side)
        masks[number] = columns.blend(rows.blend(inputs.mask(number)).T).T
        if not masks[number].any():
            column, row = (_central_point(inputs, number) / side).astype(np.int64)
            masks[number, min(row, grid[0] - 1), min(column, grid[1] - 1)] = 1
    return torch.from_numpy(masks).to(inputs.image_index.device)  # (M, H, W)


def points_inside(inputs: RegionInputs, count: int, seed: int = 0) -> Tensor:
    """Points spread evenly over each region's visible part, (M, count, 2) float32 (x, y), pixels of the tower's view.

    The R2 sequence on the unit square goes through the inverse distribution function of the mask: columns by their
    pixels, then a column's own pixels. Equal masks get equal points; nothing is random.

    Args:
        inputs: with ``views``.
        count: points per region.
        seed: moves the sequence.

    Raises:
        RegionError: naming a region that the tower's view crops away.
    """
    points = np.zeros((len(inputs.regions), count, 2), dtype=np.float32)
    sequence = _r2(count, seed)
    for number, image in enumerate(inputs.image_numbers):
        view = inputs.views[image]
        mask, corner = _visible(inputs, number)
        inside = _through_mask(mask, sequence) + corner
        points[number] = np.clip(inside * view.scale + view.shift, 0, view.size)
    return torch.from_numpy(points).to(inputs.image_index.device)


@lru_cache(maxsize=16)
def _r2(count: int, seed: int) -> Floats:
    start = np.random.RandomState(seed).uniform(size=2)
    return (start + np.arange(count)[:, None] / np.array([PLASTIC, PLASTIC**2])) % 1.0  # (count, 2)


def _through_mask(mask: NDArray[np.bool_], unit: Floats) -> Floats:
    """Points of the unit square (N, 2) -> points in a mask (N, 2), (x, y) from its corner; equal areas stay equal."""
    column, row = np.nonzero(mask.T)  # by columns, then rows
    per_column = mask.sum(0)
    before = per_column.cumsum() - per_column
    rank = unit[:, 0] * len(column)
    x = column[np.minimum(rank.astype(np.int64), len(column) - 1)]
    depth = unit[:, 1] * per_column[x]
    y = row[before[x] + np.minimum(depth.astype(np.int64), per_column[x] - 1)]
    return np.stack([x + (rank - before[x]) / per_column[x], y + depth % 1.0], 1)


class _Axis:
    """The two neighbouring pixels that each cell of one axis reads, and their weights; zero outside the image."""

    def __init__(self, at: Floats, length: int) -> None:
        position = np.clip(at - 0.5, 0, length - 1)
        self.low = position.astype(np.int64)
        self.high = np.minimum(self.low + 1, length - 1)
        inside = (at >= 0) & (at <= length)
        self.high_weight = ((position - self.low) * inside).astype(np.float32)[:, None]
        self.low_weight = inside[:, None].astype(np.float32) - self.high_weight

    def blend(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """(length, N) bool or float -> (cells, N)."""
        blended = pixels[self.low] * self.low_weight + pixels[self.high] * self.high_weight
        return np.asarray(blended, dtype=np.float32)


@lru_cache(maxsize=64)
def _axes(view: View, size: Size, grid: tuple[int, int], cell: tuple[float, float]) -> tuple[_Axis, _Axis]:
    """How the columns and the rows of a grid read an image."""
    centres = [(np.arange(count) + 0.5) * side for count, side in zip(grid[::-1], cell, strict=True)]
    columns, rows = (np.asarray((centres[axis] - view.shift[axis]) / view.scale[axis], np.float64) for axis in (0, 1))
    return _Axis(columns, size[0]), _Axis(rows, size[1])


def _central_point(inputs: RegionInputs, number: int) -> Floats:
    """View pixel (x, y) of the visible mask pixel nearest to the visible part's centroid."""
    mask, corner = _visible(inputs, number)
    pixels = np.argwhere(mask)[:, ::-1] + 0.5  # (N, 2)
    nearest = pixels[((pixels - pixels.mean(0)) ** 2).sum(1).argmin()]
    view = inputs.views[inputs.image_numbers[number]]
    return np.clip((nearest + corner) * view.scale + view.shift, 0, view.size)


def _visible(inputs: RegionInputs, number: int) -> tuple[NDArray[np.bool_], Floats]:
    """The part of a region's mask that the tower sees, and the original pixel (x, y) of its corner."""
    image = inputs.image_numbers[number]
    view, box = inputs.views[image], inputs.regions[number].bounds(inputs.image_sizes[image])
    first, last = (np.array([(0, 0), view.size]) - view.shift) / view.scale  # (2,) each, original pixels
    corner = np.floor(np.maximum(first, box[:2]))
    (left, top), (right, bottom) = corner.astype(int), np.ceil(np.minimum(last, box[2:])).clip(corner).astype(int)
    mask = inputs.mask(number)[top:bottom, left:right]
    if not mask.any():
        raise inputs.cropped_away(number, "the region")
    return mask, corner
