"""Bilinear enlargement of feature maps, and 3x3 convolutions of enlarged maps at the price of the small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F


def enlarged_cells(boxes: Tensor, size: Sequence[int], scale: int) -> Tensor:
    """Boxes (M, 4) float32 in cells of a map -> in cells of the map that :func:`resize` makes ``scale`` times as large.

    Cell ``i`` spans ``[i, i + 1)``. ``align_corners`` lays the centres of the outermost cells onto each other.

    Args:
        boxes: xyxy.
        size: (H, W) of the large map.
        scale: the enlargement.
    """
    large = torch.tensor(tuple(size)[::-1], device=boxes.device).repeat(2)  # (width, height) twice
    stretch = (large - 1) / (large / scale - 1).clamp(min=1)  # a map of one cell is the same everywhere
    return (boxes - 0.5) * stretch + 0.5


@dataclass(frozen=True)
class Enlarged:
    """A map that is still to be resized, ``rows @ small @ columns.T``; at least in float32, whatever the map is.

    Resizing mixes cells and a tap of a convolution mixes channels, so the taps go first, on fewer cells: exact.

    Args:
        small: (B, C, h, w).
        rows: (H, h), weights of the small map's rows in each row.
        columns: (W, w), the same for columns.
    """

    small: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, small: Tensor, size: Sequence[int]) -> Enlarged:
        """What :func:`resize` to (H, W) gives."""
        dtype = torch.promote_types(small.dtype, torch.float32)
        own = (torch.eye(count, dtype=dtype, device=small.device) for count in small.shape[-2:])
        return cls(small, *own).resize(size)

    @property
    def shape(self) -> torch.Size:
        """(B, C, H, W)."""
        return torch.Size((*self.small.shape[:2], len(self.rows), len(self.columns)))

    def __getitem__(self, index: tuple[slice, slice]) -> Enlarged:
        """Channels, as of a tensor: ``[:, start:stop]``."""
        return replace(self, small=self.small[index])

    def resize(self, size: Sequence[int]) -> Enlarged:
        """Resized once more, as :func:`resize` does."""
        rows, columns = (
            resize(axis[None, None], (count, axis.shape[1]))[0, 0]
            for axis, count in zip((self.rows, self.columns), size, strict=True)
        )
        return replace(self, rows=rows, columns=columns)

    def full_map(self) -> Tensor:
        """The large map, (B, C, H, W)."""
        with torch.autocast(self.small.device.type, enabled=False):
            return (self.rows @ self.small.to(self.rows.dtype) @ self.columns.T).to(self.small.dtype)

    def convolve(self, weight: Tensor) -> Tensor:
        """``F.conv2d(large map, weight, padding=1)`` in the form with fewer products, (B, O, H, W).

        Args:
            weight: (O, C, 3, 3).
        """
        channels, height, width = self.small.shape[1:]
        large_height, large_width = self.shape[2:]
        spreading = 9 * height * width * large_width + 3 * height * large_height * large_width
        if 9 * channels * height * width + spreading >= 9 * channels * large_height * large_width:
            return F.conv2d(self.full_map(), weight, padding=1)
        taps = F.conv2d(self.small, weight.permute(2, 3, 0, 1).reshape(-1, channels, 1, 1))
        taps = taps.view(-1, 3, 3, len(weight), height, width)  # (B, down, across, O, h, w)
        with torch.autocast(taps.device.type, enabled=False):
            wide = torch.einsum("byxohw,xWw->byohW", taps.to(self.rows.dtype), _read_by_taps(self.columns))
            return torch.einsum("byohW,yHh->boHW", wide, _read_by_taps(self.rows)).to(taps.dtype)


Map = TypeVar("Map", Tensor, Enlarged)


def resize(feature_map: Map, size: Sequence[int]) -> Map:
    """Resize bilinearly with ``align_corners``, as the original does."""
    if tuple(feature_map.shape[-2:]) == tuple(size):
        return feature_map
    if isinstance(feature_map, Enlarged):
        return feature_map.resize(size)
    return F.interpolate(feature_map, size=tuple(size), mode="bilinear", align_corners=True)


def _read_by_taps(axis: Tensor) -> Tensor:
    """Weights (H, h) along an axis -> (3, H, h), of the cell before, at and after; beyond the border all are 0."""
    return F.pad(axis, (0, 0, 1, 1)).unfold(0, len(axis), 1).transpose(1, 2)
