"""The cells that a region touches, against cells counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext import Region
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.coverage import covered_cells
from pvit_ext.regions.view import View
from tests.encoders.grid import GRID, HIDDEN, KINDS, PATCH, SIZES, VIEWS, inputs_of
from tests.tower_inputs import as_kind

# Which cells


def overlap(cells: int, cell: float, low: float, high: float) -> np.ndarray[Any, Any]:
    """Length of [low, high) within each of the cells, in cells."""
    edges = np.arange(cells + 1) * cell
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) / cell


def cells_by_hand(region: Region, size: tuple[int, int], view: View, tolerance: float) -> set[int]:
    """Cells that share area with any pixel of the region's mask, or with the box, one rectangle at a time."""
    region = region.resolve(size)
    if region.kind == "box":
        rectangles = [region.bounds(size)]
    else:
        rectangles = [(x, y, x + 1, y + 1) for y, x in np.argwhere(region.to_mask(size)).tolist()]
    found: set[int] = set()
    for x0, y0, x1, y1 in rectangles:
        x = overlap(GRID, PATCH, x0 * view.scale[0] + view.shift[0], x1 * view.scale[0] + view.shift[0])
        y = overlap(GRID, PATCH, y0 * view.scale[1] + view.shift[1], y1 * view.scale[1] + view.shift[1])
        found |= set(np.flatnonzero((y[:, None] > tolerance) & (x[None] > tolerance)).tolist())
    return found


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(VIEWS), st.sampled_from(SIZES), st.sampled_from(KINDS), st.data())
def test_cells_are_those_that_the_region_touches(view: str, size: tuple[int, int], kind: str, data: Any) -> None:
    side, left, top = min(size), (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
    x0, y0 = (data.draw(st.integers(0, side - 12)) for _ in range(2))
    x1, y1 = (data.draw(st.integers(low + 10, side)) for low in (x0, y0))
    region = as_kind(kind, (left + x0, top + y0, left + x1, top + y1), size)
    inputs = inputs_of([region], torch.zeros(1, HIDDEN, GRID, GRID), size, view)
    (own,) = covered_cells(inputs, (GRID, GRID), PATCH)
    assert own.tolist() == sorted(own.tolist())
    certain, possible = (cells_by_hand(region, size, inputs.views[0], slack) for slack in (2e-3, 0.0))
    assert certain <= set(own.tolist()) <= possible
    (ringed,) = covered_cells(inputs, (GRID, GRID), PATCH, context=1)
    around = {
        r * GRID + c
        for at in own.tolist()
        for r in range(max(at // GRID - 1, 0), min(at // GRID + 2, GRID))
        for c in range(max(at % GRID - 1, 0), min(at % GRID + 2, GRID))
    }
    assert set(ringed.tolist()) == around


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["box", "mask", "sliver"])
def test_a_region_of_one_pixel_or_less_has_the_cell_of_its_centre(view: str, kind: str) -> None:
    size = (1800, 1000)  # a cell is up to 112 pixels
    for x, y in ((401, 0), (899, 555), (1390, 999)):
        if kind == "mask":
            mask = np.zeros((1000, 1800), dtype=bool)
            mask[y, x] = True
            region = Region.mask(mask)
        else:
            region = Region.box(x, y, x + 1, y + 1) if kind == "box" else Region.box(x + 0.4, y + 0.4, x + 0.6, y + 0.6)
        inputs = inputs_of([region], torch.zeros(1, HIDDEN, GRID, GRID), size, view)
        (own,) = covered_cells(inputs, (GRID, GRID), PATCH)
        centre = inputs.views[0].map_boxes(torch.tensor([[x + 0.5, y + 0.5] * 2]))[0] / PATCH
        assert own.tolist() == [int(centre[1]) * GRID + int(centre[0])]


def test_boxes_on_the_edges_of_cells_cover_no_neighbour() -> None:
    size, grid = (1344, 1344), 96  # float32 edges that are not exact: 14 / 1344 in the normalised box
    view = View.resize(size, (GRID * 6 * PATCH, GRID * 6 * PATCH))
    for first in range(0, 90, 7):
        region = Region.box(*(edge * 14 / 1344 for edge in (first, first, first + 3, first + 2)), normalized=True)
        inputs = RegionInputs([region.resolve(size)], torch.tensor([0]), [size], [], [view])
        (own,) = covered_cells(inputs, (grid, grid), PATCH)
        assert own.tolist() == [r * grid + c for r in (first, first + 1) for c in range(first, first + 3)]


def test_what_lies_in_the_strip_that_a_tower_drops_has_the_last_cell() -> None:
    view = View.resize((30, 30), (30, 30))  # four patches of 7 px, 2 px left over
    mask = np.zeros((30, 30), dtype=bool)
    mask[3, 29] = True
    regions = [Region.box(28.5, 1, 30, 9), Region.mask(mask)]
    inputs = RegionInputs(regions, torch.tensor([0, 0]), [(30, 30)], [], [view])
    assert [cells.tolist() for cells in covered_cells(inputs, (4, 4), 7)] == [[3, 7], [3]]
