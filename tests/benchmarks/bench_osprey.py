"""Osprey's pooling, masks to pooled features of four levels: cells that masks cover against dense masks, equal output.

Run ``python -m tests.benchmarks.bench_osprey`` from the repository's root; writes ``results/osprey.csv``.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.osprey import Osprey, build
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests.benchmarks.harness import arguments, compare, write

SIDE, COUNT = 512, 4
TOWERS: dict[str, tuple[list[int], list[int]]] = {
    "ViT, one grid": ([1024] * COUNT, [16] * COUNT),
    "ConvNeXt-L": ([192, 384, 768, 1536], [4, 8, 16, 32]),
}


def some_masks(count: int) -> np.ndarray:
    """Ellipses with half axes of 5 to 30 % of the image, bool (count, H, W)."""
    random = np.random.RandomState(1)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    ellipses = random.uniform([0.2, 0.2, 0.05, 0.05], [0.8, 0.8, 0.3, 0.3], (count, 4))
    return np.stack([((x - a) / rx) ** 2 + ((y - b) / ry) ** 2 < 1 for a, b, rx, ry in ellipses])


def dense(masks: np.ndarray, maps: list[Tensor]) -> list[Tensor]:
    """All masks at full size as float, resized for each level, one matrix product with the whole map."""
    stack, pooled = torch.from_numpy(masks).float()[None].to(maps[0].device), []
    for one in maps:
        small = (F.interpolate(stack, one.shape[-2:], mode="bilinear")[0] > 0).float()
        pooled.append(torch.einsum("chw,mhw->mc", one[0], small / small.sum((1, 2), keepdim=True)))
    return pooled


def covered(encoder: Osprey, masks: np.ndarray, maps: list[Tensor]) -> list[Tensor]:
    """What the encoder does; the inputs are made anew, because they keep what was computed once."""
    regions, view = [Region.mask(mask) for mask in masks], View.resize((SIDE, SIDE), (SIDE, SIDE))
    index = torch.zeros(len(regions), dtype=torch.int64, device=maps[0].device)
    return encoder.pool(RegionInputs(regions, index, [(SIDE, SIDE)], maps, [view]))


def bench(tower: str, regions: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Both forms on the same masks and maps."""
    widths, strides = TOWERS[tower]
    sizes = SimpleNamespace(hidden_size=8, num_hidden_layers=24, patch_size=16)
    encoder = build(RegionConfig("osprey", encoder_options={"widths": widths, "strides": strides}), sizes).to(device)
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, w, SIDE // s, SIDE // s, generator=generator) for w, s in zip(widths, strides, strict=True)]
    maps = [one.to(device).contiguous(memory_format=torch.channels_last) for one in maps]
    masks = some_masks(regions)
    forms = {"dense": partial(dense, masks, maps), "covered cells": partial(covered, encoder, masks, maps)}
    pooled = {name: torch.cat(form(), 1) for name, form in forms.items()}
    difference = float((pooled["covered cells"] - pooled["dense"]).norm() / pooled["dense"].norm())
    facts = {"regions": regions, "tower": tower, "dtype": "float32", "relative_difference": f"{difference:.1e}"}
    return compare("masks to pooled features", forms, rounds, **facts)


def main() -> None:
    options = arguments(__doc__, rounds=15).parse_args()
    cases = [(tower, regions) for tower in TOWERS for regions in (8, 64)]
    with torch.no_grad():
        rows = (row for case in cases for row in bench(*case, options.rounds, options.device))
        write("osprey", rows, options.device, options.to)


if __name__ == "__main__":
    main()
