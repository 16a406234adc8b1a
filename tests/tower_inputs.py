"""Inputs for encoders that read the vision tower's features: maps whose value is the brightness that a view shows."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.regions.region import Region, Size
from pvit_ext.regions.view import View

PATCH, SIDE = 4, 64
TOWER = SimpleNamespace(hidden_size=16, num_hidden_layers=8, patch_size=PATCH)
SIZES = [(96, 96), (180, 100), (100, 180)]
KINDS = ["box", "mask", "point", "polygon", "scribble"]
VIEWS = ["square", "crop", "pad"]

# An asymmetric layout, in fractions of the middle square, which a centre crop keeps.
LAYOUT = [(0.05, 0.05, 0.35, 0.25), (0.6, 0.1, 0.95, 0.45), (0.1, 0.5, 0.3, 0.95), (0.55, 0.6, 0.8, 0.9)]


def view_of(kind: str, size: Size, side: int = SIDE) -> View:
    """What a tower of this side sees of an image of this size."""
    if kind == "square":
        return View.resize(size, (side, side))
    if kind == "pad":
        padded = View.pad_to_square(size)
        return padded.then(View.resize(padded.size, (side, side)))
    return View.shortest_edge(size, side).center_crop((side, side))


def boxes_on(size: Size) -> list[tuple[int, int, int, int]]:
    """:data:`LAYOUT` in pixels."""
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return [
        (left + int(a * side), top + int(b * side), left + int(c * side), top + int(d * side)) for a, b, c, d in LAYOUT
    ]


def as_kind(kind: str, box: tuple[int, int, int, int], size: Size) -> Region:
    """A region of some kind that fills, or lies in, a box."""
    x0, y0, x1, y1 = box
    if kind == "box":
        return Region.box(*box)
    if kind == "point":
        return Region.point((x0 + x1) / 2, (y0 + y1) / 2)
    if kind == "polygon":
        return Region.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if kind == "scribble":
        return Region.scribble([(x0 + 4, y0 + 4), (x1 - 4, y1 - 4)])
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return Region.mask(mask)


def feature_map(image: np.ndarray, view: View, patch: int = PATCH, width: int = TOWER.hidden_size) -> Tensor:
    """An image (H, W) as the tower's map (C, rows, columns): every channel is its own multiple of the brightness.

    Each view pixel reads the original pixel under its centre, zero outside, and a cell is the mean of its pixels.
    """
    columns, rows = (
        np.floor((np.arange(view.size[axis]) + 0.5 - view.shift[axis]) / view.scale[axis]).astype(int)
        for axis in (0, 1)
    )
    shown = image[rows.clip(0, image.shape[0] - 1)][:, columns.clip(0, image.shape[1] - 1)].astype(np.float32)
    shown *= ((rows >= 0) & (rows < image.shape[0]))[:, None] & ((columns >= 0) & (columns < image.shape[1]))
    cells = torch.from_numpy(shown)[None, None]
    brightness = torch.nn.functional.avg_pool2d(cells, patch)[0]  # (1, rows, columns)
    return brightness * torch.linspace(-1, 1, width)[:, None, None]


def inputs_of(
    encoder: RegionEncoder,
    samples: Sequence[tuple[np.ndarray, Sequence[Region]]],
    view: str = "square",
    noise: float = 0.0,
) -> RegionInputs:
    """A batch of images (H, W) with their regions; layers differ by a factor, and by noise of the image."""
    sizes = [(image.shape[1], image.shape[0]) for image, _ in samples]
    views = [view_of(view, size) for size in sizes]
    stack = torch.stack([feature_map(image, one) for (image, _), one in zip(samples, views, strict=True)])
    maps = []
    for level in range(len(encoder.feature_layers)):
        extra = [noise * _noise(image, level, stack.shape[1:]) for image, _ in samples]
        maps.append(stack * (1 + level / 2) + torch.stack(extra))
    return RegionInputs(
        regions=[region.resolve(size) for (_, regions), size in zip(samples, sizes, strict=True) for region in regions],
        image_index=torch.tensor([i for i, (_, regions) in enumerate(samples) for _ in regions], dtype=torch.int64),
        image_sizes=sizes,
        feature_maps=maps,
        views=views,
    )


def _noise(image: np.ndarray, level: int, shape: torch.Size) -> Tensor:
    seed = int(image.sum() * 1000) % 100_000 + level
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw(size: Size, bright: tuple[int, int, int, int] | None) -> np.ndarray:
    """Black, but for a white box."""
    image = np.zeros((size[1], size[0]), dtype=np.float32)
    if bright is not None:
        x0, y0, x1, y1 = bright
        image[y0:y1, x0:x1] = 1
    return image


def smooth(size: Size) -> np.ndarray:
    """An image without symmetry and without detail that a resize could move."""
    x, y = (np.linspace(0, 1, side, dtype=np.float32) for side in size)
    return 0.5 * x**2 + 0.3 * y[:, None] + 0.2 * x * y[:, None]
