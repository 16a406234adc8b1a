"""Encoders read what lies on the device a fixed number of times: each read waits for a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pvit_ext import Region
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.coverage import covered_cells
from pvit_ext.encoders.grid_masks import points_inside, sample_masks
from tests.encoders.grid import GRID, HIDDEN, PATCH, inputs_of

CALLS = {
    "masks": lambda inputs: sample_masks(inputs, (GRID, GRID)),
    "points": lambda inputs: points_inside(inputs, 16),
    "cells": lambda inputs: covered_cells(inputs, (GRID, GRID), PATCH),
    "boxes": lambda inputs: inputs.tower_boxes,
}


class Reads(TorchDispatchMode):
    """Counts operations that hand a number from a tensor to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


def reads(name: str, regions: int) -> int:
    inputs: RegionInputs = inputs_of(
        [Region.box(10, 10, 40, 40)] * regions, torch.zeros(1, HIDDEN, GRID, GRID), (100, 100)
    )
    with Reads() as found:
        CALLS[name](inputs)
    return found.count["aten._local_scalar_dense.default"]


@pytest.mark.parametrize("name", CALLS)
def test_more_regions_are_no_more_reads(name: str) -> None:
    assert reads(name, 24) == reads(name, 2)
