"""Which cells of a grid a region covers: all that it touches.

Encoders that pool read the mask at the centres of cells: :func:`~pvit_ext.encoders.grid_masks.sample_masks`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.raster import Ints, count_within
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View

EDGE = 1e-3
"""Fraction of a cell. A float32 box that ends on a cell's edge, but for rounding, does not touch the next cell."""


def covered_cells(inputs: RegionInputs, grid: Size, cell: float, context: int = 0) -> list[Ints]:
    """The cells that each region touches, at least one, as ascending indices into the flattened grid of its image.

    A box touches by its exact edges, every other kind by the pixels of its mask. Work and memory of a box grow with
    what it covers. Cells of a map beyond an image's view are never covered.

    Args:
        inputs: with ``views``.
        grid: (columns, rows).
        cell: side of a cell, pixels of the tower's view.
        context: rings of neighbouring cells to add.

    Raises:
        RegionError: naming a region that the tower's view crops away.
    """
    found = []
    boxes = inputs.tower_boxes.double().cpu().numpy() / cell  # (M, 4)
    for number, (region, image) in enumerate(zip(inputs.regions, inputs.image_numbers, strict=True)):
        (left, top, right, bottom), view = boxes[number], inputs.views[image]
        width, height = (min(max(int(side // cell), 1), count) for side, count in zip(view.size, grid, strict=True))
        if region.kind == "box":
            rows, columns = _span(top, bottom, height, context)[:, None], _span(left, right, width, context)
        else:
            edges = _pixel_edges(view, inputs.image_sizes[image], (width, height), cell)
            touched = count_within(inputs.mask(number), *edges) > 0
            if not touched.any():
                raise inputs.cropped_away(number, f"all of the {region}")
            rows, columns = np.nonzero(_grown(touched, context))
        found.append((rows * grid[0] + columns).ravel())
    return found


def mask_coverage(inputs: RegionInputs, grid: int) -> Tensor:
    """How much of every cell of a grid over each region's visible box its mask covers, (M, grid, grid) float32 in 0..1.

    Args:
        inputs: with ``views``.
        grid: cells per side.

    Raises:
        RegionError: naming a region that the tower's view crops away.
    """
    coverage = torch.ones(len(inputs.regions), grid, grid)
    boxes = inputs.tower_boxes.cpu()
    for number, (region, image) in enumerate(zip(inputs.regions, inputs.image_numbers, strict=True)):
        if region.kind == "box":
            continue
        box = inputs.views[image].unmap_boxes(boxes[number : number + 1])[0].tolist()
        edges: list[Ints] = []
        for axis in (1, 0):
            at = np.linspace(box[axis], box[axis + 2], grid + 1)
            margin = EDGE * (at[1] - at[0])
            ends = np.floor(at[:-1] + margin), np.ceil(at[1:] - margin)
            edges += [end.clip(0, inputs.image_sizes[image][axis]).astype(np.int64) for end in ends]
        counts = count_within(inputs.mask(number), edges[0], edges[1], edges[2], edges[3])
        if not counts.any():
            raise inputs.cropped_away(number, f"all of the {region}")
        area = (edges[1] - edges[0])[:, None] * (edges[3] - edges[2])
        coverage[number] = torch.from_numpy(counts / np.maximum(area, 1))
    return coverage


def _span(low: float, high: float, count: int, context: int) -> Ints:
    """Cells that [low, high) touches, given in cells; the cell at its middle if it is narrower than ``EDGE``."""
    first, last = np.floor(low + EDGE), np.ceil(high - EDGE)
    if last <= first:
        first = np.floor((low + high) / 2)
        last = first + 1
    first, last = min(first, count - 1), min(last, count)  # a tower drops a last column narrower than a patch
    return np.arange(max(first - context, 0), min(last + context, count), dtype=np.int64)


def _pixel_edges(view: View, size: Size, grid: Size, cell: float) -> tuple[Ints, Ints, Ints, Ints]:
    """First and one past the last pixel of the original in every row of cells, then in every column."""
    edges: list[Ints] = []
    for axis in (1, 0):
        at = (np.arange(grid[axis] + 1) * cell - view.shift[axis]) / view.scale[axis]
        margin = EDGE * cell / view.scale[axis]
        first, last = np.floor(at[:-1] + margin), np.ceil(at[1:] - margin)
        last[-1] = np.ceil(max(at[-1], (view.size[axis] - view.shift[axis]) / view.scale[axis]) - margin)
        edges += [part.clip(0, size[axis]).astype(np.int64) for part in (first, last)]
    return edges[0], edges[1], edges[2], edges[3]


def _grown(cells: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    if not by:
        return cells
    (rows, columns), (height, width) = (np.arange(count) for count in cells.shape), cells.shape
    vertical = (rows - by).clip(0), (rows + by + 1).clip(max=height)
    return count_within(cells, *vertical, (columns - by).clip(0), (columns + by + 1).clip(max=width)) > 0
