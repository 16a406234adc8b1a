"""Views of a tower's grid, and inputs of an encoder on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext import Region
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.view import View

SIDE, PATCH, HIDDEN = 112, 7, 12
GRID = SIDE // PATCH
TOWER = SimpleNamespace(hidden_size=HIDDEN, num_hidden_layers=3, patch_size=PATCH)
SIZES = [(96, 96), (180, 100), (100, 180)]
VIEWS = ["square", "crop", "pad"]
KINDS = ["box", "mask", "point", "polygon", "scribble"]


def view_of(kind: str, size: tuple[int, int]) -> View:
    if kind == "square":
        return View.resize(size, (SIDE, SIDE))
    if kind == "crop":
        return View.shortest_edge(size, SIDE).center_crop((SIDE, SIDE))
    padded = View.pad_to_square(size)
    return padded.then(View.resize(padded.size, (SIDE, SIDE)))


def inputs_of(
    regions: list[Region], maps: Tensor, size: tuple[int, int] = SIZES[0], view: str = "pad", index: Any = None
) -> RegionInputs:
    count = len(maps)
    image_index = torch.tensor([0] * len(regions) if index is None else index, dtype=torch.int64)
    resolved = [region.resolve(size) for region in regions]
    return RegionInputs(resolved, image_index, [size] * count, [maps], [view_of(view, size)] * count)


# The encoder


def random_maps(count: int = 1) -> Tensor:
    return torch.randn(count, HIDDEN, GRID, GRID, generator=torch.Generator().manual_seed(5))
